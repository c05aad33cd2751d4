//! The rules of the torrent, one by one, with peers and a disk made of strings. Whole swarms are in `tests/sim`.

mod download;
mod integrity;
mod limits;
mod peers;
mod room;
mod together;
mod world;
