//! The commands. (to be written)

/// Runs the command line; returns the exit status.
pub fn main() -> i32 {
    0
}
