//! Long answers in memory are bounded, all together and those of one address: whoever reads slowly keeps his for as long as
//! he reads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::tracker::crowd::Turns;
use crate::tracker::{Bounds, Requester};

/// Where long answers are, by the KiB.
#[derive(Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    shares: Turns,
}

impl Room {
    /// Who is not bound otherwise has no share either.
    pub(super) fn new(bounds: Bounds) -> Self {
        let shares = Turns::at_answers(bounds, MAX_ANSWERS_KIB as usize / SHARES);
        Self { all: Arc::new(Semaphore::new(MAX_ANSWERS_KIB as usize)), shares }
    }
}

/// Gives an answer that is long its part of the room, until it is sent or given up. `None`: there is none now, or no more
/// for whoever has asked.
pub(super) fn within(room: &Room, requester: Option<Requester>, response: Response) -> Option<Response> {
    let bytes = response.body().size_hint().exact().unwrap_or_default();
    if bytes <= SHORT_BYTES {
        return Some(response);
    }
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(MAX_ANSWERS_KIB);
    let share = match requester {
        Some(Requester(ip)) => room.shares.take(ip, kib)?,
        None => None,
    };
    let part = Arc::new((room.all.clone().try_acquire_many_owned(kib).ok()?, share));
    Some(response.map(|body| Body::new(Held { body, part })))
}

/// A body that has a part of the room.
struct Held {
    body: Body,
    part: Arc<Part>,
}

/// Of the room, and of the address's share.
type Part = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// Bytes that have it: the server drops a body as soon as it has taken all of it, and sends what it took later.
struct Owned {
    bytes: Bytes,
    _part: Arc<Part>,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context).map(|frame| {
            let own = |bytes| Bytes::from_owner(Owned { bytes, _part: Arc::clone(&self.part) });
            frame.map(|frame| frame.map(|frame| frame.map_data(own)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// 256 MiB: the longest torrents four times, all others often enough.
const MAX_ANSWERS_KIB: u32 = 256 << 10;
/// One address has one of so many: the longest torrent once.
const SHARES: usize = 4;
/// As long as most pages: as many of these as there may be connections are no trouble.
const SHORT_BYTES: u64 = 64 << 10;
