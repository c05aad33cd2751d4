//! The disk threads.

/// A few threads that run closures; the urgent lane first. Dropping the last handle ends them after the queue is empty.
#[derive(Debug, Clone)]
pub struct DiskPool {}

/// Which closures go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Somebody waits: cold reads, checks of blocked pieces.
    Urgent,
    /// Writes and checks of pieces nobody waits for. Never takes the last free thread.
    Normal,
    /// Journal flushes, checkpoints: after everything else; never takes the last free thread.
    Idle,
}

#[allow(unused_variables)]
impl DiskPool {
    /// Starts `threads` threads (at least 2) named `disk-N`.
    pub fn new(threads: usize) -> Self {
        todo!()
    }
    /// Queues a closure; never blocks. A panic in it is caught, logged and counted.
    pub fn submit(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        todo!()
    }
}
