//! Real mounts against other people's programs: peers, trackers, and players reading from the mount.
mod changes;
mod clients;
mod created;
mod get;
#[path = "../harness/mod.rs"]
mod harness;
mod limits;
mod others;
mod players;
mod rqbit;
mod seeding;
mod seeds;
mod trackers;
mod tracking;
mod urls;
