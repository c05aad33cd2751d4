//! (see each module)
mod clients;
mod players;
mod trackers;
