//! What the mount promises (docs/semantics.md, heading by heading), proven on real mounts of the library's own file
//! system. In place of a swarm an owner task in this process hands out the pieces, so that a test says which reads wait
//! and for how long.

mod content;
mod data;
mod endings;
mod many;
mod model;
mod names;
mod passthrough;
mod readers;
mod refused;
pub(crate) mod served;
