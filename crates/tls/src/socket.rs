//! The few things the pump does with a socket, so that tests can put one of their own in its place.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected, non-blocking byte stream with two directions that end on their own.
pub trait Socket {
    /// Reads into the slices in turn; zero means the other side has ended its direction.
    fn poll_read(&self, context: &mut Context<'_>, slices: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>>;

    /// Writes from the slices in turn; may take less than all.
    fn poll_write(&self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Ends our direction after what was written.
    fn end(&self) -> io::Result<()>;

    /// Makes closing the socket a reset.
    fn reset_on_close(&self);
}

impl Socket for TcpStream {
    fn poll_read(&self, context: &mut Context<'_>, slices: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        poll_io(
            self,
            wanted,
            Interest::READABLE,
            context,
            |stream, context| stream.poll_read_ready(context),
            || Ok(rustix::io::readv(self, slices)?),
        )
    }

    fn poll_write(&self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        poll_io(
            self,
            wanted,
            Interest::WRITABLE,
            context,
            |stream, context| stream.poll_write_ready(context),
            || Ok(sendmsg(self, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?),
        )
    }

    fn end(&self) -> io::Result<()> {
        match SockRef::from(self).shutdown(Shutdown::Write) {
            // The other side has already gone altogether; reading will tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    fn reset_on_close(&self) {
        // A socket that is already dead cannot be set; it needs no reset either.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// One system call when the socket is ready. Readiness is edge-triggered: fewer bytes than wanted mean that the kernel
/// has no more, so the readiness is cleared at once, which saves the call that would only say so.
fn poll_io(
    stream: &TcpStream,
    wanted: usize,
    interest: Interest,
    context: &mut Context<'_>,
    ready: impl Fn(&TcpStream, &mut Context<'_>) -> Poll<io::Result<()>>,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(ready(stream, context))?;
        let mut short = None;
        let outcome = stream.try_io(interest, || match call() {
            Ok(count) if count > 0 && count < wanted => {
                short = Some(count);
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other,
        });
        match (outcome, short) {
            (_, Some(count)) => return Poll::Ready(Ok(count)),
            (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => {}
            (Err(error), None) if error.kind() == io::ErrorKind::Interrupted => {}
            (outcome, None) => return Poll::Ready(outcome),
        }
    }
}
