//! A program that plays a film: shows it at its own pace, reads a little ahead, and stops when what it shows is not there.

use std::time::{Duration, Instant};

/// What is shown, and when it stood still.
#[derive(Debug, Clone)]
pub struct Player {
    /// Bytes a second of the film.
    pace: u64,
    /// Seconds of the film that it reads ahead of what it shows; half of them before the first picture, and again after
    /// it stood still.
    buffer: u64,
    /// The end of the film.
    end: u64,
    /// The next byte to read.
    read: u64,
    /// The next byte to show when the clock was last set; while it is not, it stands still there.
    shown: u64,
    clock: Option<Instant>,
    /// When it opened the film.
    opened: Option<Instant>,
    /// From then to the first picture.
    pub start: Option<Duration>,
    /// How long it stood still, each time after the first picture.
    pub stalls: Vec<Duration>,
    still_since: Option<Instant>,
}

/// What a player does next.
#[derive(Debug, PartialEq)]
pub enum Next {
    Read { offset: u64, length: u64 },
    Wait(Duration),
    Close,
}

impl Player {
    /// One that shows a file from its beginning.
    pub fn new(end: u64, bytes_per_second: u64, buffer_seconds: u64) -> Self {
        Self {
            pace: bytes_per_second,
            buffer: buffer_seconds,
            end,
            read: 0,
            shown: 0,
            clock: None,
            opened: None,
            start: None,
            stalls: Vec::new(),
            still_since: None,
        }
    }

    /// To be called whenever it has nothing under way; a read is to be followed by [`Self::got`].
    pub fn next(&mut self, now: Instant) -> Next {
        self.opened.get_or_insert(now);
        if self.read == self.end {
            return Next::Close;
        }
        let ahead = self.read.saturating_sub(self.position(now));
        let most = self.seconds(self.buffer);
        if self.clock.is_some() && ahead >= most {
            return Next::Wait(Duration::from_nanos((ahead - most + READ) * 1_000_000_000 / self.pace));
        }
        Next::Read { offset: self.read, length: READ.min(self.end - self.read) }
    }

    /// What it has read last is here.
    pub fn got(&mut self, now: Instant, length: u64) {
        let (offset, shown) = (self.read, self.position(now));
        self.read += length;
        if self.clock.is_some() && shown > offset {
            // The picture stood still when it had shown all that there was.
            let late = Duration::from_nanos((shown - offset) * 1_000_000_000 / self.pace);
            (self.clock, self.shown, self.still_since) = (None, offset, Some(now - late));
        }
        let enough = self.read - self.shown >= self.seconds(self.buffer / 2) || self.read == self.end;
        if self.clock.is_none() && enough {
            self.clock = Some(now);
            match self.still_since.take() {
                Some(since) => self.stalls.push(now - since),
                None => self.start = self.opened.map(|opened| now - opened),
            }
        }
    }

    /// Where it would be by now if everything were there.
    fn position(&self, now: Instant) -> u64 {
        let Some(clock) = self.clock else { return self.shown };
        (self.shown as f64 + (now - clock).as_secs_f64() * self.pace as f64) as u64
    }

    fn seconds(&self, seconds: u64) -> u64 {
        self.pace * seconds
    }
}

/// The kernel's requests.
const READ: u64 = 128 * 1024;

#[test]
fn a_player_counts_how_long_its_picture_stood_still() {
    let opened = Instant::now();
    let at = |millis| opened + Duration::from_millis(millis);
    let mut player = Player::new(10 * READ, READ, 4);
    for millis in [500, 1000] {
        assert!(matches!(player.next(at(0)), Next::Read { .. }));
        player.got(at(millis), READ);
    }
    assert_eq!(player.start, Some(Duration::from_millis(1000)));
    for millis in [1000, 1000] {
        assert!(matches!(player.next(at(millis)), Next::Read { .. }));
        player.got(at(millis), READ);
    }
    assert_eq!(player.next(at(1000)), Next::Wait(Duration::from_secs(1)));
    assert_eq!(player.next(at(2000)), Next::Read { offset: 4 * READ, length: READ });
    // Shown to its end at 5 s; two seconds of film are here at 7 s.
    player.got(at(6000), READ);
    player.got(at(7000), READ);
    assert_eq!(player.stalls, [Duration::from_secs(2)]);
}
