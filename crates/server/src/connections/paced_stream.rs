//! TCP connections, broken if their peer reads too slowly.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::Activity;
use super::pace::Pace;
use super::progress::Progress;

/// Most bytes of one read. Hyper makes room for twice what the last read filled, and keeps that for the life of the
/// connection. With many slow uploads that is far more than the bytes received.
const MOST_READ: usize = 16 << 10;

/// A connection that breaks if its peer reads too slowly; its answers are dropped then, and their jobs with them.
pub(super) struct PacedStream {
    stream: TcpStream,
    pace: Pace,
    activity: Activity,
    /// Set from the time that the send buffer was full until everything is handed over.
    blocked: Option<Blocked>,
}

struct Blocked {
    begun: Instant,
    /// Bytes that the system has taken since.
    progress: Progress,
    patience: Pin<Box<Sleep>>,
}

impl PacedStream {
    pub(super) fn new(stream: TcpStream, pace: Pace, activity: Activity) -> Self {
        PacedStream { stream, pace, activity, blocked: None }
    }

    /// Checks the rate after a write of so many bytes, or of none yet.
    fn judged(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match (&written, &mut self.blocked) {
            (Poll::Ready(Ok(bytes)), Some(blocked)) => blocked.progress.note(blocked.begun.elapsed(), *bytes as u64),
            (Poll::Ready(_), _) => {}
            (Poll::Pending, _) => {
                let (stream, activity, pace) = (&self.stream, &self.activity, self.pace);
                let blocked = self.blocked.get_or_insert_with(|| {
                    activity.blocked(true);
                    let now = Instant::now();
                    Blocked {
                        begun: now,
                        progress: Progress::begin(pace.window(0)),
                        patience: Box::pin(sleep_until(now)),
                    }
                });
                // The system reports room only once a good part of its send buffer is acknowledged, and the buffer may
                // grow.
                let held = SockRef::from(stream).send_buffer_size().unwrap_or_default() as u64;
                blocked.progress.widen(pace.window(held));
                let Some(end) = blocked.begun.checked_add(blocked.progress.falls_short()) else { return Poll::Pending };
                if blocked.patience.deadline() != end {
                    blocked.patience.as_mut().reset(end);
                }
                ready!(blocked.patience.as_mut().poll(cx));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads too slowly")));
            }
        }
        written
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = buf.remaining().min(MOST_READ);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judged(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judged(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper flushes once everything is handed over.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.blocked.take().is_some() {
            self.activity.blocked(false);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
