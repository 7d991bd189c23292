//! Descriptors that somebody sends over a Unix socket: not to be had at all, or closed where nobody waits for it.
//!
//! Whoever can connect to a Unix socket can send descriptors through it (`SCM_RIGHTS`), and whoever holds the last of one has
//! to close it. That may sleep for as long as the sender likes: a TCP connection with `SO_LINGER` whose other end does not
//! read, a file of a file system that does not answer. It does not matter how it is closed: the kernel closes in the very
//! thread that reads without room for descriptors, or that drops a socket in which some wait. An event loop that does so
//! stands still, and everybody whom it serves with it.
//!
//! So a socket that needs no descriptors refuses them ([`refuse`], Linux 6.16), older kernels are read from with
//! [`BytesOnly`], and whatever came nevertheless is closed by [`close`] on a thread that may sleep.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::UnixStream;

/// Descriptors that one message may carry; the kernel has the same limit.
pub const MOST_IN_A_MESSAGE: usize = 253;

/// Threads that may sleep at a time.
const MOST_THREADS: usize = 32;
/// How long one waits for more to do.
const IDLE: Duration = Duration::from_secs(10);

/// `SO_PASSRIGHTS` of asm-generic.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Refuses descriptors at a Unix socket: who sends one gets `EPERM`. `false` where the kernel cannot do that yet (before
/// Linux 6.16).
///
/// To be called before the socket is bound or connected, because what was sent before stays there. Accepted sockets inherit
/// it from the one that listens.
pub fn refuse(socket: impl AsFd) -> io::Result<bool> {
    pass(socket, 0)
}

/// Takes descriptors again at a connection that refuses them: for one whose other end is known by now. `false` where the
/// kernel does not refuse any.
pub fn allow(socket: impl AsFd) -> io::Result<bool> {
    pass(socket, 1)
}

#[expect(unsafe_code, reason = "no crate has a safe call for this socket option")]
fn pass(socket: impl AsFd, wanted: libc::c_int) -> io::Result<bool> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer leads to a local that outlives the call, and `length` is its size.
    let outcome =
        unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const wanted).cast(), length) };
    if outcome == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        error => Err(error),
    }
}

/// Closes descriptors of whatever kind on a thread that may sleep.
pub fn close(descriptors: Vec<OwnedFd>) {
    if !descriptors.is_empty() {
        THREADS.run(Box::new(move || {
            // Mostly that is all that a sender can do to keep a thread; if it does it again meanwhile, the thread sleeps.
            descriptors.iter().for_each(close_without_lingering);
            drop(descriptors);
        }));
    }
}

/// Closes a connection in which descriptors may wait, on a thread that may sleep.
pub fn close_stream(stream: StdUnixStream) {
    THREADS.run(Box::new(move || {
        // No more can be sent; what was is taken out, so that it is closed as above.
        let _ = (stream.shutdown(Shutdown::Both), stream.set_nonblocking(true));
        let mut nowhere = [0; 4096];
        loop {
            let mut descriptors = Vec::new();
            let received = receive(&stream, &mut nowhere, &mut descriptors);
            descriptors.iter().for_each(close_without_lingering);
            drop(descriptors);
            if !matches!(received, Ok(1..)) {
                return;
            }
        }
    }));
}

/// Does on such a thread what may close descriptors by the way. `None` when it cannot be done.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (told, outcome) = tokio::sync::oneshot::channel();
    THREADS.run(Box::new(move || {
        // Nobody may be there any more who wants to know.
        let _ = told.send(work());
    }));
    outcome.await.ok()
}

fn close_without_lingering(socket: &OwnedFd) {
    // One that listens is perhaps somebody else's as well, who has set this for what is accepted. What is no socket has no
    // such thing.
    if matches!(rustix::net::sockopt::socket_acceptconn(socket), Ok(false)) {
        let _ = rustix::net::sockopt::set_socket_linger(socket, None);
    }
}

/// Reads bytes, with room for the descriptors that come with them. Waits for nothing.
pub fn receive(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_IN_A_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket.as_fd(), &mut [IoSliceMut::new(bytes)], &mut control, flags)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    Ok(received.bytes)
}

/// A connection over a Unix socket that brings bytes and never a descriptor, and whose end keeps nobody waiting.
#[derive(Debug)]
pub struct BytesOnly {
    /// `None` once it is dropped.
    stream: Option<UnixStream>,
    /// The kernel refuses descriptors, so there is nothing to be careful about.
    refused: bool,
}

impl BytesOnly {
    /// A connection that was accepted; `refused` is what [`refuse`] said of the socket that listens.
    pub fn new(stream: UnixStream, refused: bool) -> BytesOnly {
        BytesOnly { stream: Some(stream), refused }
    }

    /// The connection, to be asked about. Who reads from it reads descriptors.
    pub fn stream(&self) -> io::Result<&UnixStream> {
        self.stream.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Waits until it can be read from.
    pub async fn readable(&self) -> io::Result<Ready> {
        self.stream()?.ready(Interest::READABLE).await
    }

    fn pinned(&mut self) -> io::Result<Pin<&mut UnixStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for BytesOnly {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if !self.refused
            && let Ok(stream) = stream.into_std()
        {
            close_stream(stream);
        }
    }
}

impl AsyncRead for BytesOnly {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refused {
            return self.pinned()?.poll_read(context, buffer);
        }
        let stream = self.stream()?;
        loop {
            ready!(stream.poll_read_ready(context))?;
            let mut descriptors = Vec::new();
            let read = || receive(stream, buffer.initialize_unfilled(), &mut descriptors);
            let received = stream.try_io(Interest::READABLE, read);
            close(descriptors);
            match received {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for BytesOnly {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned()?.poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned()?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// Threads for what may sleep. They are no tasks of a scope: nobody waits for one, because it may never wake up.
struct Threads {
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    waiting: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

static THREADS: Threads =
    Threads { state: Mutex::new(State { waiting: VecDeque::new(), threads: 0, idle: 0 }), more: Condvar::new() };

impl Threads {
    fn run(&'static self, work: Work) {
        let mut state = self.lock();
        state.waiting.push_back(work);
        if state.idle >= state.waiting.len() {
            self.more.notify_one();
        } else if state.threads < MOST_THREADS {
            let thread = std::thread::Builder::new().name("lictor-close".to_owned()).stack_size(128 * 1024);
            // Without a thread it waits for one that there is, or for the next attempt.
            if thread.spawn(|| self.work()).is_ok() {
                state.threads += 1;
            }
        }
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                drop(state);
                work();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (again, waited) = self.more.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle -= 1;
            if waited.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    /// Nothing that is done under the lock can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Much longer than anything here may take.
    const LINGER: Duration = Duration::from_secs(600);

    /// A connection whose closing sleeps, and its other end.
    fn lingering() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut full = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        full.set_nonblocking(true).unwrap();
        while full.write(&[0; 1 << 16]).is_ok() {}
        rustix::net::sockopt::set_socket_linger(&full, Some(LINGER)).unwrap();
        (full.into(), other)
    }

    fn send(stream: &StdUnixStream, bytes: &[u8], descriptor: OwnedFd) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        rustix::net::sendmsg(stream, &[io::IoSlice::new(bytes)], &mut control, SendFlags::empty())
    }

    /// Reads until the end: it comes when nobody has the connection any more.
    fn is_closed(mut other: TcpStream) {
        other.set_read_timeout(Some(LINGER / 10)).unwrap();
        let mut all = Vec::new();
        // A reset is an end, too.
        if let Err(error) = other.read_to_end(&mut all) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_listener_that_refuses_descriptors_passes_that_on_to_what_it_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let kind = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
        let socket = rustix::net::socket(kind.0, kind.1, None).unwrap();
        if !refuse(&socket).unwrap() {
            eprintln!("SKIPPED: this kernel cannot refuse descriptors");
            return;
        }
        rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 8).unwrap();
        let mut client = StdUnixStream::connect(&path).unwrap();
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(send(&client, b"a", null()), Err(rustix::io::Errno::PERM), "before it is accepted");
        let mut accepted = StdUnixStream::from(rustix::net::accept(&socket).unwrap());
        assert_eq!(send(&client, b"a", null()), Err(rustix::io::Errno::PERM));
        client.write_all(b"b").unwrap();
        let mut byte = [0];
        accepted.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"b");
    }

    #[tokio::test]
    async fn neither_reading_nor_dropping_a_connection_waits_for_the_descriptors_in_it() {
        let started = Instant::now();
        let (client, ours) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = BytesOnly::new(UnixStream::from_std(ours).unwrap(), false);
        let (read, other_of_read) = lingering();
        send(&client, b"ab", read).unwrap();
        let (unread, other_of_unread) = lingering();
        send(&client, b"cd", unread).unwrap();
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, *b"ab");
        drop(stream);
        assert!(started.elapsed() < LINGER / 4, "it waited");
        is_closed(other_of_read);
        is_closed(other_of_unread);
        assert!(started.elapsed() < LINGER / 4, "they were not closed");
    }

    #[tokio::test]
    async fn what_sleeps_keeps_nothing_else_from_being_done() {
        let mut wake = Vec::new();
        for _ in 0..MOST_THREADS / 2 {
            let (sender, receiver) = std::sync::mpsc::channel::<()>();
            wake.push(sender);
            THREADS.run(Box::new(move || {
                // Until the other end is dropped.
                let _ = receiver.recv();
            }));
        }
        for n in 0..100 {
            assert_eq!(apart(move || n).await, Some(n));
        }
        assert!(THREADS.lock().threads <= MOST_THREADS);
    }
}
