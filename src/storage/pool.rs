//! The disk threads.
//!
//! Three lanes of closures and a handful of threads: whatever may wait for a disk, or hash, runs here. Knows nothing of
//! pieces; bounds of the lanes are those of the memory budget (writes), the kernel (reads) and the upload queues.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A few threads that run closures; the urgent lane first. Dropping the last handle ends them after the queue is empty.
#[derive(Debug, Clone)]
pub struct DiskPool {
    owner: Arc<Owner>,
}

/// Which closures go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Somebody waits: cold reads, checks of blocked pieces.
    Urgent,
    /// Writes and checks of pieces nobody waits for. Never takes the last free thread.
    Normal,
    /// Journal flushes, checkpoints: after everything else, one at a time; never takes the last free thread.
    Idle,
}

impl DiskPool {
    /// Starts `threads` threads (at least 2) named `disk-N`, and one more for the idle lane: a sync may take as long as
    /// the disk likes, and neither reads nor writes are to wait for it.
    ///
    /// # Panics
    /// When the system lets us have no thread at all.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut started = 0_usize;
        for number in 0..=threads.max(2) {
            let worker = Arc::clone(&shared);
            let spawned = std::thread::Builder::new().name(format!("disk-{number}")).spawn(move || worker.run());
            match spawned {
                Ok(_) => started += 1,
                Err(error) => tracing::warn!(%error, started, "fewer disk threads than wanted"),
            }
        }
        assert!(started > 0, "the system refuses to start a thread");
        // Of what is left beside the idle lane's thread, one is kept from writes: a cold read never queues behind
        // writes alone.
        shared.lock().normal_limit = started.saturating_sub(2).max(1);
        shared.wake.notify_all();
        Self { owner: Arc::new(Owner { shared }) }
    }

    /// Queues a closure; never blocks. A panic in it is caught, logged and counted.
    pub fn submit(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        let shared = &self.owner.shared;
        let mut queues = shared.lock();
        match lane {
            Lane::Urgent => queues.urgent.push_back(Box::new(job)),
            Lane::Normal => queues.normal.push_back(Box::new(job)),
            Lane::Idle => queues.idle.push_back((Instant::now(), Box::new(job))),
        }
        let wanted = queues.wants_another();
        drop(queues);
        if wanted {
            shared.wake.notify_one();
        }
    }

    /// Jobs that have panicked.
    pub fn panics(&self) -> u64 {
        self.owner.shared.panics.load(Ordering::Relaxed)
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// An idle job that has waited this long goes first: journals must not wait for the end of a long download.
const IDLE_PATIENCE: Duration = Duration::from_secs(1);

/// What the handles share; its drop is the end of the last one.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
    }
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    wake: Condvar,
    panics: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("panics", &self.panics).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Queues {
    urgent: VecDeque<Job>,
    normal: VecDeque<Job>,
    idle: VecDeque<(Instant, Job)>,
    /// Threads that run a normal job now, and how many may.
    normal_running: usize,
    normal_limit: usize,
    idle_running: bool,
    /// Threads that wait for work; one that has been woken counts until it runs.
    sleeping: usize,
    closing: bool,
}

impl Queues {
    /// The next closure and its lane, which is booked as running.
    fn next(&mut self, now: Instant) -> Option<(Job, Lane)> {
        let waited = |since: Instant| now.saturating_duration_since(since);
        let overdue = self.idle.front().is_some_and(|&(since, _)| waited(since) >= IDLE_PATIENCE);
        let next = if overdue { self.next_idle() } else { None };
        let next = next.or_else(|| self.urgent.pop_front().map(|job| (job, Lane::Urgent)));
        next.or_else(|| self.next_normal()).or_else(|| self.next_idle())
    }

    fn next_normal(&mut self) -> Option<(Job, Lane)> {
        if self.normal_running >= self.normal_limit {
            return None;
        }
        let job = self.normal.pop_front()?;
        self.normal_running += 1;
        Some((job, Lane::Normal))
    }

    fn next_idle(&mut self) -> Option<(Job, Lane)> {
        if self.idle_running {
            return None;
        }
        let (_, job) = self.idle.pop_front()?;
        self.idle_running = true;
        Some((job, Lane::Idle))
    }

    fn ended(&mut self, lane: Lane) {
        match lane {
            Lane::Urgent => {}
            Lane::Normal => self.normal_running -= 1,
            Lane::Idle => self.idle_running = false,
        }
    }

    /// Whether to wake a thread: it would find work. (Whoever is at work looks for more before it sleeps.)
    fn wants_another(&self) -> bool {
        let normal = !self.normal.is_empty() && self.normal_running < self.normal_limit;
        let idle = !self.idle.is_empty() && !self.idle_running;
        self.sleeping > 0 && (!self.urgent.is_empty() || normal || idle)
    }

    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.normal.is_empty() && self.idle.is_empty()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Jobs run outside the lock, so a poisoned one is only ever whole.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queues = self.lock();
        loop {
            if let Some((job, lane)) = queues.next(Instant::now()) {
                // A job that its lane was too full for woke nobody when it came.
                let wanted = queues.wants_another();
                drop(queues);
                if wanted {
                    self.wake.notify_one();
                }
                self.call(job);
                queues = self.lock();
                queues.ended(lane);
            } else if queues.closing && queues.is_empty() {
                self.wake.notify_all();
                return;
            } else {
                queues.sleeping += 1;
                queues = self.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
                queues.sleeping -= 1;
            }
        }
    }

    fn call(&self, job: Job) {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(job)) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            let text = panic.downcast_ref::<&str>().copied();
            let reason = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
            tracing::error!(reason, "a disk job panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, RecvTimeoutError};

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    #[test]
    fn a_panic_costs_its_job_alone() {
        let pool = DiskPool::new(2);
        let (done, ended) = mpsc::channel();
        for _ in 0..4 {
            pool.submit(Lane::Urgent, || panic!("on purpose"));
        }
        pool.submit(Lane::Idle, move || done.send(()).unwrap());
        ended.recv_timeout(BOUND).unwrap();
        let until = Instant::now() + BOUND;
        while pool.panics() < 4 {
            assert!(Instant::now() < until, "{} panics counted", pool.panics());
            std::thread::yield_now();
        }
    }

    #[test]
    fn lower_lanes_leave_a_thread_to_the_urgent_one() {
        let pool = DiskPool::new(3);
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (started, starts) = mpsc::channel();
        for lane in [Lane::Normal, Lane::Idle, Lane::Normal, Lane::Idle, Lane::Normal] {
            let (gate, started) = (Arc::clone(&gate), started.clone());
            pool.submit(lane, move || {
                started.send(lane).unwrap();
                let _ = gate.lock().unwrap().recv();
            });
        }
        let first: Vec<_> = (0..3).map(|_| starts.recv_timeout(BOUND).unwrap()).collect();
        assert_eq!(first.iter().filter(|lane| **lane == Lane::Normal).count(), 2);
        let (done, ended) = mpsc::channel();
        pool.submit(Lane::Urgent, move || done.send(()).unwrap());
        ended.recv_timeout(BOUND).unwrap();
        assert_eq!(starts.try_recv(), Err(mpsc::TryRecvError::Empty), "the last thread was taken");
        drop(open);
        for _ in 0..2 {
            starts.recv_timeout(BOUND).unwrap();
        }
    }

    /// A job in each lane, queued in the wrong order at this moment; one of each may run.
    fn one_of_each(now: Instant) -> Queues {
        let mut queues = Queues { normal_limit: 1, ..Queues::default() };
        queues.idle.push_back((now, Box::new(|| ())));
        queues.normal.push_back(Box::new(|| ()));
        queues.urgent.push_back(Box::new(|| ()));
        queues
    }

    /// The order in which they are taken at this moment.
    fn taken(mut queues: Queues, now: Instant) -> Vec<Lane> {
        std::iter::from_fn(|| queues.next(now)).map(|(_, lane)| lane).collect()
    }

    #[test]
    fn urgent_goes_before_normal_before_idle() {
        let now = Instant::now();
        assert_eq!(taken(one_of_each(now), now), [Lane::Urgent, Lane::Normal, Lane::Idle]);
    }

    #[test]
    fn an_idle_job_that_has_waited_goes_first() {
        let now = Instant::now();
        let late = taken(one_of_each(now), now + IDLE_PATIENCE);
        assert_eq!(late, [Lane::Idle, Lane::Urgent, Lane::Normal]);
    }

    #[test]
    fn what_was_queued_runs_after_the_last_handle_is_gone() {
        let pool = DiskPool::new(2);
        let (done, ended) = mpsc::channel();
        for number in 0..50 {
            let done = done.clone();
            pool.submit(Lane::Normal, move || done.send(number).unwrap());
        }
        drop((pool.clone(), done));
        drop(pool);
        let ran = std::iter::from_fn(|| ended.recv_timeout(BOUND).ok()).count();
        assert_eq!(ran, 50);
        assert_eq!(ended.recv_timeout(BOUND), Err(RecvTimeoutError::Disconnected));
    }
}
