//! A swarm in virtual time: engines, scripted peers, links and disks, one agenda of events, no clock and no socket.
//!
//! Every scenario runs with several seeds; the referee in [`node`] checks each message and each disk job against the
//! invariants I1, I5, I6 and I8, and `check_invariants` runs after every step.

mod content;
mod drawing;
mod node;
mod partition;
mod player;
mod reader;
mod scenarios;
mod script;
mod world;
