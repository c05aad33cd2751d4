//! Whoever is waited for goes on at some pace, or is let go of: one who reads an answer, and one who sends a body. What a
//! slow one keeps (a connection, a turn, an answer in memory) is then kept for a bounded time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::HttpBody;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes against time: [`LEAST_BYTES`] in any [`WINDOW`] in which somebody is waited for.
#[derive(Debug)]
struct Pace {
    length: Duration,
    /// Ends too soon for those who are slow; `None`: nobody is waited for.
    window: Option<Pin<Box<Sleep>>>,
    bytes: usize,
}

impl Pace {
    fn new(length: Duration) -> Self {
        Self { length, window: None, bytes: 0 }
    }

    /// So many bytes have come, or have gone.
    fn went(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= LEAST_BYTES {
            self.rest();
        }
    }

    /// There is nothing to wait for.
    fn rest(&mut self) {
        (self.window, self.bytes) = (None, 0);
    }

    /// Somebody is waited for: ready when that has taken too long.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let length = self.length;
        let window = self.window.get_or_insert_with(|| Box::pin(tokio::time::sleep(length)));
        ready!(window.as_mut().poll(context));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

/// A body that comes at some pace, or ends with an error: a slow upload is one thing, a silent one another.
pub(super) struct PacedBody {
    body: Incoming,
    pace: Pace,
}

impl PacedBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, pace: Pace::new(WINDOW) }
    }
}

impl HttpBody for PacedBody {
    type Data = <Incoming as HttpBody>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.pace.went(data.map_or(0, |data| data.len()));
                Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)))
            }
            Poll::Pending => self.pace.poll_late(context).map(|late| Some(Err(axum::Error::new(late)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose other end takes what is written at some pace; else writing fails. Reading is bounded elsewhere.
#[derive(Debug)]
pub(super) struct PacedStream<S> {
    stream: S,
    pace: Pace,
}

impl<S> PacedStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, pace: Pace::new(WINDOW) }
    }
}

impl<S: AsyncWrite + Unpin> PacedStream<S> {
    fn paced(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(written) => {
                self.pace.went(*written.as_ref().unwrap_or(&0));
                Poll::Ready(written)
            }
            Poll::Pending => self.pace.poll_late(context).map(Err),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.paced(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.paced(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when nothing is left to be written, so nobody is waited for.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pace.rest();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Less than this in a [`WINDOW`] is nobody's line: about a kilobyte a second.
const LEAST_BYTES: usize = 16 << 10;
const WINDOW: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn stream_and_reader(window: Duration) -> (PacedStream<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1024);
        (PacedStream { stream: ours, pace: Pace::new(window) }, theirs)
    }

    #[tokio::test]
    async fn a_reader_who_takes_next_to_nothing_is_let_go_of() {
        let (mut stream, mut reader) = stream_and_reader(Duration::from_millis(100));
        let reading = tokio::spawn(async move {
            // Always a little, so that it is never silent, and never a sixteenth of what it should be.
            while reader.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let sent = stream.write_all(&[7; LEAST_BYTES / 2]).await;
        assert_eq!(sent.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        drop(stream);
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_who_takes_enough_begins_anew() {
        let (mut stream, mut reader) = stream_and_reader(Duration::from_secs(3600));
        let reading = tokio::spawn(async move { reader.read_exact(&mut [0; LEAST_BYTES]).await.map(|_| reader) });
        stream.write_all(&[7; LEAST_BYTES]).await.unwrap();
        let _reader = reading.await.unwrap().unwrap();
        assert!(stream.pace.window.is_none() && stream.pace.bytes == 0, "{:?}", stream.pace);
    }

    #[tokio::test]
    async fn nobody_is_late_who_is_sent_nothing() {
        let (mut stream, mut reader) = stream_and_reader(Duration::from_secs(3600));
        let reading = tokio::spawn(async move { reader.read_exact(&mut [0; 3000]).await.map(|_| reader) });
        stream.write_all(&[7; 3000]).await.unwrap();
        let _reader = reading.await.unwrap().unwrap();
        assert!(stream.pace.window.is_some(), "it was waited for");
        stream.flush().await.unwrap();
        assert!(stream.pace.window.is_none() && stream.pace.bytes == 0, "{:?}", stream.pace);
    }
}
