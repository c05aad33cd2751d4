//! Real mounts: what the file system promises, what it survives, and both for an ordinary user.
mod cache;
mod changes;
mod descriptors;
mod faults;
#[path = "../harness/mod.rs"]
mod harness;
mod helper;
mod journal;
mod limits;
mod owners;
mod seeding;
mod semantics;
mod users;
