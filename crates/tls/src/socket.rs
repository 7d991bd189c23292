//! The few things the pump does with a socket, so that tests can put one of their own in its place.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recv, recvmsg, send, sendmsg};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected, non-blocking byte stream with two directions that end on their own.
pub trait Socket {
    /// Reads into the slices in turn; zero means the other side has ended its direction.
    fn poll_read(&self, context: &mut Context<'_>, slices: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>>;

    /// Writes from the slices in turn; may take less than all.
    fn poll_write(&self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Whether the other side is known to have ended its direction, with nothing of it left to be read. Asked after a read
    /// that found less than it had room for; costs nothing unless something has happened since.
    fn sees_end(&self, context: &mut Context<'_>) -> bool;

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
            || Ok(read(self, slices)?),
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
            || Ok(write(self, slices)?),
        )
    }

    fn sees_end(&self, context: &mut Context<'_>) -> bool {
        let mut byte = [0; 1];
        self.poll_read_ready(context).is_ready()
            && matches!(recv(self, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((0, _)))
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

/// What is small is in one slice, for which the kernel has calls that need not look for others: they take some 0.1 µs
/// less, of 2 for a call that moves a request. Each call says itself that it does not wait: whether the socket does is
/// shared with whoever has a duplicate of it, as a proxy has to which it was offered.
fn read(stream: &TcpStream, slices: &mut [IoSliceMut<'_>]) -> rustix::io::Result<usize> {
    match slices {
        [slice] => recv(stream, &mut slice[..], RecvFlags::DONTWAIT).map(|(count, _)| count),
        slices => recvmsg(stream, slices, &mut RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT)
            .map(|received| received.bytes),
    }
}

fn write(stream: &TcpStream, slices: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    match slices {
        [slice] => send(stream, slice, SEND),
        slices => sendmsg(stream, slices, &mut SendAncillaryBuffer::default(), SEND),
    }
}

const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::fd::AsFd;
    use std::sync::mpsc;
    use std::task::Waker;

    use tokio::net::TcpListener;

    use super::*;

    async fn joined() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    async fn write(socket: &TcpStream, slices: &[&[u8]]) -> io::Result<usize> {
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|bytes| IoSlice::new(bytes)).collect();
        poll_fn(|context| socket.poll_write(context, &slices)).await
    }

    async fn read(socket: &TcpStream, sizes: &[usize]) -> io::Result<Vec<Vec<u8>>> {
        let mut buffers: Vec<Vec<u8>> = sizes.iter().map(|size| vec![0; *size]).collect();
        let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let mut left = poll_fn(|context| socket.poll_read(context, &mut slices)).await?;
        for buffer in &mut buffers {
            buffer.truncate(left);
            left -= buffer.len();
        }
        Ok(buffers)
    }

    #[tokio::test]
    async fn one_slice_and_several_are_read_and_written_alike() {
        let (near, far) = joined().await;
        for written in [&[&b"question"[..]][..], &[&b"que"[..], b"", b"stion"]] {
            assert_eq!(write(&near, written).await.unwrap(), 8);
            assert_eq!(read(&far, &[16]).await.unwrap(), [b"question"]);
            assert_eq!(write(&near, written).await.unwrap(), 8);
            assert_eq!(read(&far, &[3, 2, 16]).await.unwrap(), [&b"que"[..], b"st", b"ion"]);
            // What does not fit is still there.
            assert_eq!(write(&near, written).await.unwrap(), 8);
            assert_eq!(read(&far, &[5]).await.unwrap(), [b"quest"]);
            assert_eq!(read(&far, &[5]).await.unwrap(), [b"ion"]);
        }
    }

    /// Ends a socket when a call has waited in it for long, so that a test fails instead of standing still.
    fn watched(socket: std::net::TcpStream) -> mpsc::Sender<()> {
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            if is_done.recv_timeout(Duration::from_secs(5)) == Err(mpsc::RecvTimeoutError::Timeout) {
                socket.shutdown(Shutdown::Both).unwrap();
            }
        });
        done
    }

    #[tokio::test]
    async fn nothing_waits_in_a_socket_that_somebody_else_has_made_one_that_blocks() {
        let context = &mut Context::from_waker(Waker::noop());
        for parts in [1, 2] {
            let (near, far) = joined().await;
            let duplicate = std::net::TcpStream::from(far.as_fd().try_clone_to_owned().unwrap());
            duplicate.set_nonblocking(false).unwrap();
            let watched = watched(duplicate.try_clone().unwrap());
            // The event loop says that there is something, and then there is not.
            near.try_write(b"x").unwrap();
            far.readable().await.unwrap();
            assert_eq!(recv(&duplicate, &mut [0; 8], RecvFlags::empty()).unwrap().0, 1);
            let mut buffers = [[0; 8]; 2];
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let read = far.poll_read(context, &mut slices[..parts]);
            assert!(read.is_pending(), "{read:?}");
            // Nobody reads, so that there is an end to what can be written.
            let part = vec![0; 1 << 20];
            let slices = vec![IoSlice::new(&part); parts];
            let full = (0..100).find_map(|_| match far.poll_write(context, &slices) {
                Poll::Ready(Ok(_)) => None,
                other => Some(other),
            });
            assert!(matches!(full, Some(Poll::Pending)), "{full:?}");
            watched.send(()).expect("it had to be ended");
        }
    }

    #[tokio::test]
    async fn an_end_reads_as_nothing_and_a_reset_as_an_error_however_many_slices_there_are() {
        for sizes in [&[4][..], &[4, 4]] {
            let (near, far) = joined().await;
            near.end().unwrap();
            assert!(read(&far, sizes).await.unwrap().iter().all(Vec::is_empty));

            let (near, far) = joined().await;
            near.reset_on_close();
            drop(near);
            assert_eq!(read(&far, sizes).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            let parts: Vec<&[u8]> = sizes.iter().map(|_| &b"late"[..]).collect();
            assert_eq!(write(&far, &parts).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
