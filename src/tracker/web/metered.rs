//! The body of a form, in small pieces. Whoever reads forms keeps what has come until he has found the next boundary, and
//! the end of the next field's head; so no more comes between two of these than they may be long.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::Frame;

/// A body that ends with an error when all of it, or what comes between two steps of its reader, is too long. Clones share
/// it: one is read, the other is told of steps.
#[derive(Clone)]
pub(super) struct Metered(Arc<Mutex<Meter>>);

struct Meter {
    body: Body,
    /// Of what has come, what was not handed on yet.
    rest: Bytes,
    /// A piece was handed on, and its reader was not given time to look at it yet.
    looks: bool,
    since_step: usize,
    left: usize,
    too_large: bool,
}

impl Metered {
    /// At most so many bytes.
    pub(super) fn new(body: Body, limit: usize) -> Self {
        let meter = Meter { body, rest: Bytes::new(), looks: false, since_step: 0, left: limit, too_large: false };
        Self(Arc::new(Mutex::new(meter)))
    }

    /// The reader has found a field, or a part of what is in one.
    pub(super) fn went_on(&self) {
        self.lock().since_step = 0;
    }

    /// Whether all of it is too long.
    pub(super) fn is_too_large(&self) -> bool {
        self.lock().too_large
    }

    /// Reads on, and keeps nothing; for so many bytes.
    pub(super) async fn drain(&self, mut left: usize) {
        let next =
            async || std::future::poll_fn(|context| Pin::new(&mut self.lock().body).poll_frame(context)).await?.ok();
        while let Some(frame) = next().await {
            let bytes = frame.data_ref().map_or(0, |data| data.len());
            match left.checked_sub(bytes) {
                Some(less) => left = less,
                None => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Meter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let meter = &mut *self.lock();
        // The reader takes whatever is there before it looks at any of it.
        if std::mem::take(&mut meter.looks) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        while meter.rest.is_empty() {
            match ready!(Pin::new(&mut meter.body).poll_frame(context)) {
                Some(Ok(frame)) => meter.rest = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = meter.rest.split_to(meter.rest.len().min(PIECE_BYTES));
        meter.since_step += piece.len();
        meter.too_large = piece.len() > meter.left;
        if meter.too_large || meter.since_step > MAX_BYTES_OF_A_STEP {
            return Poll::Ready(Some(Err(axum::Error::new("this is too long"))));
        }
        meter.left -= piece.len();
        meter.looks = true;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

const PIECE_BYTES: usize = 4 << 10;
/// A boundary, and the head of a field: a few hundred bytes each.
const MAX_BYTES_OF_A_STEP: usize = 16 << 10;
