//! A program that reads a file of the mount, with the kernel's request size and the real prefetcher.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use btfs::base::FileIndex;
use btfs::engine::prefetch::{FileGeometry, Habit, PrefetchConfig, Prefetcher, WindowPlan};
use btfs::engine::{Command, HandleId, ReadError, Ticket};

use crate::player::{Next, Player};
use crate::world::World;

/// What the program does next.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads a range in order, 128 KiB at a time, thinking long enough to take this many bytes a second.
    Stream { from: u64, to: u64, bytes_per_second: Option<u64> },
    /// Plays it.
    Play(Player),
    /// Does nothing for a while.
    Pause(Duration),
    /// Closes the file.
    Close,
}

/// One answered read.
#[derive(Debug, Clone)]
pub struct Answer {
    pub offset: u64,
    pub length: u64,
    pub asked: Instant,
    pub answered: Instant,
    pub result: Result<(), ReadError>,
}

impl Answer {
    pub fn took(&self) -> Duration {
        self.answered - self.asked
    }
}

pub struct Reader {
    file: FileIndex,
    handle: HandleId,
    prefetcher: Prefetcher,
    steps: VecDeque<Step>,
    /// The read under way.
    waiting: Option<(Ticket, u64, u64, Instant)>,
    pub answers: Vec<Answer>,
    pub finished: bool,
    /// What it played last.
    pub played: Option<Player>,
    /// Goes on after an error instead of giving up.
    pub stubborn: bool,
}

impl Reader {
    pub fn bytes_read(&self) -> u64 {
        self.answers.iter().filter(|answer| answer.result.is_ok()).map(|answer| answer.length).sum()
    }

    pub fn longest_wait(&self) -> Duration {
        self.answers.iter().map(Answer::took).max().unwrap_or_default()
    }

    pub fn failed(&self) -> bool {
        self.answers.iter().any(|answer| answer.result.is_err())
    }
}

/// Opens a file and starts reading it.
pub fn open(world: &mut World, node: usize, file: u32, steps: impl IntoIterator<Item = Step>) -> usize {
    let layout = world.content.layout.clone();
    let file = layout.file(file).expect("the file exists");
    let geometry = FileGeometry {
        bytes: layout.file_bytes(file),
        start: layout.file_start(file),
        piece_length: layout.piece_length(),
    };
    let engine = world.engine_mut(node);
    let index = engine.readers.len();
    let handle = HandleId(index as u64 + 1);
    engine.readers.push(Reader {
        file,
        handle,
        prefetcher: Prefetcher::new(PrefetchConfig::default(), geometry, Habit::default()),
        steps: steps.into_iter().collect(),
        waiting: None,
        answers: Vec::new(),
        finished: false,
        played: None,
        stubborn: false,
    });
    world.command(node, Command::Opened { handle, file });
    soon(world, node, index, Duration::ZERO);
    index
}

/// Whole file, as fast as it comes.
pub fn cat(world: &mut World, node: usize, file: u32) -> usize {
    let file_index = world.content.layout.file(file).expect("the file exists");
    let to = world.content.layout.file_bytes(file_index);
    open(world, node, file, [Step::Stream { from: 0, to, bytes_per_second: None }])
}

/// The program is told to do something else: what it waits for is abandoned.
pub fn redirect(world: &mut World, node: usize, reader: usize, steps: impl IntoIterator<Item = Step>) {
    let now = world.now;
    let this = &mut world.engine_mut(node).readers[reader];
    this.steps = steps.into_iter().collect();
    this.finished = false;
    if let Some((ticket, offset, length, _)) = this.waiting.take() {
        let plan = this.prefetcher.on_read_done(now, offset, length, true);
        world.abandon(node, ticket);
        tell(world, node, reader, plan);
        soon(world, node, reader, Duration::ZERO);
    }
}

/// The program goes on after a while; when the mount's process is suspended, after that.
fn soon(world: &mut World, node: usize, reader: usize, delay: Duration) {
    world.after(delay, move |world| {
        world.for_node(node, Box::new(move |world| go_on(world, node, reader)));
    });
}

fn go_on(world: &mut World, node: usize, reader: usize) {
    let now = world.now;
    let this = &mut world.engine_mut(node).readers[reader];
    if this.waiting.is_some() || this.finished {
        return;
    }
    match this.steps.front_mut() {
        None => this.finished = true,
        Some(Step::Pause(time)) => {
            let time = *time;
            this.steps.pop_front();
            soon(world, node, reader, time);
        }
        Some(Step::Close) => {
            this.steps.clear();
            this.finished = true;
            let handle = this.handle;
            world.command(node, Command::Released(handle));
        }
        Some(Step::Play(player)) => match player.next(now) {
            Next::Read { offset, length } => read(world, node, reader, offset, length),
            Next::Wait(time) => soon(world, node, reader, time),
            Next::Close => {
                this.played = Some(player.clone());
                this.steps.pop_front();
                go_on(world, node, reader);
            }
        },
        Some(Step::Stream { from, to, .. }) => {
            let (offset, length) = (*from, (*to - *from).min(128 * 1024));
            if length == 0 {
                this.steps.pop_front();
                return go_on(world, node, reader);
            }
            *from += length;
            read(world, node, reader, offset, length);
        }
    }
}

/// One read, as the file system takes it.
fn read(world: &mut World, node: usize, reader: usize, offset: u64, length: u64) {
    let now = world.now;
    let this = &mut world.engine_mut(node).readers[reader];
    let (file, plan) = (this.file, this.prefetcher.on_read(now, offset, length));
    let pieces = world.content.layout.pieces_of(file, offset, length);
    let engine = world.engine_mut(node);
    if pieces.iter().all(|piece| engine.disk.has(piece)) {
        engine.readers[reader].waiting = Some((Ticket(0), offset, length, now));
        tell(world, node, reader, plan);
        done(world, node, reader, Ok(()), false);
    } else {
        // The ticket's number is known before the answer can come.
        engine.readers[reader].waiting = Some((Ticket(u64::MAX), offset, length, now));
        let ticket = world.ask(node, reader, pieces);
        if let Some(waiting) = &mut world.engine_mut(node).readers[reader].waiting {
            waiting.0 = ticket;
        }
        // After the read: what is waited for goes first.
        tell(world, node, reader, plan);
    }
}

/// The engine has answered a ticket.
pub fn answered(world: &mut World, node: usize, reader: usize, ticket: Ticket, result: Result<(), ReadError>) {
    let this = &world.engine(node).readers[reader];
    if this.waiting.is_some_and(|(waiting, ..)| waiting == ticket) {
        done(world, node, reader, result, true);
    }
}

fn done(world: &mut World, node: usize, reader: usize, result: Result<(), ReadError>, stalled: bool) {
    let now = world.now;
    let this = &mut world.engine_mut(node).readers[reader];
    let Some((_, offset, length, asked)) = this.waiting.take() else { return };
    this.answers.push(Answer { offset, length, asked, answered: now, result });
    if result.is_err() && !this.stubborn {
        this.steps.clear();
    }
    let plan = this.prefetcher.on_read_done(now, offset, length, stalled);
    if let Some(Step::Play(player)) = this.steps.front_mut().filter(|_| result.is_ok()) {
        player.got(now, length);
    }
    let pace = match this.steps.front() {
        Some(Step::Stream { bytes_per_second: Some(pace), .. }) => *pace,
        _ => 2 << 30,
    };
    tell(world, node, reader, plan);
    let thought = Duration::from_nanos(length * 1_000_000_000 / pace);
    soon(world, node, reader, thought);
}

fn tell(world: &mut World, node: usize, reader: usize, plan: Option<WindowPlan>) {
    let Some(plan) = plan else { return };
    let this = &world.engine(node).readers[reader];
    let (handle, file) = (this.handle, this.file);
    let layout = world.content.layout.clone();
    let pieces = plan.ranges.iter().map(|range| layout.pieces_of(file, range.start, range.end - range.start)).collect();
    world.command(node, Command::Window { handle, pieces, horizon: plan.horizon });
}
