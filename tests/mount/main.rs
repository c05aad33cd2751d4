//! (see each module)
mod faults;
mod semantics;
mod users;
