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
//!
//! Who makes all of those threads sleep keeps nobody else from anything: a connection that brought nothing is closed where it
//! is, what may receive by the way has threads of its own ([`apart`]), and when too much waits to be closed no more is
//! received.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
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

/// Threads that may sleep at a time, of those that close and of those that receive.
const MOST_THREADS: usize = 32;
/// Descriptors that may wait for such a thread; beyond that none is received.
const MOST_WAITING: usize = 1024;
/// What these threads do needs little.
const STACK: usize = 128 * 1024;
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
        let count = descriptors.len();
        let work = move || {
            // Mostly that is all that a sender can do to keep a thread; if it does it again meanwhile, the thread sleeps.
            descriptors.iter().for_each(close_without_lingering);
            drop(descriptors);
        };
        CLOSING.run(count, Box::new(work));
    }
}

/// Closes a connection in which descriptors may wait: here if it brought nothing that is not read yet, otherwise on a thread
/// that may sleep.
pub fn close_stream(stream: StdUnixStream) {
    // From here on no more can be sent. A descriptor comes with a byte at least.
    let _ = stream.shutdown(Shutdown::Both);
    if matches!(rustix::io::ioctl_fionread(&stream), Ok(0)) {
        return;
    }
    let work = move || {
        // What was sent is taken out, so that it is closed as above.
        let _ = stream.set_nonblocking(true);
        let mut nowhere = [0; 4096];
        loop {
            let mut descriptors = Vec::new();
            let received = receive_whatever(&stream, &mut nowhere, &mut descriptors);
            descriptors.iter().for_each(close_without_lingering);
            drop(descriptors);
            if !matches!(received, Ok(1..)) {
                return;
            }
        }
    };
    CLOSING.run(1, Box::new(work));
}

/// Whether few enough descriptors wait to be closed to receive more.
pub fn may_receive() -> io::Result<()> {
    CLOSING.may_wait()
}

/// Does on a thread of its own what receives, and so may close descriptors by the way. `None` when there is no thread for it
/// now.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    RECEIVING.apart(work).await
}

fn close_without_lingering(socket: &OwnedFd) {
    // One that listens is perhaps somebody else's as well, who has set this for what is accepted. What is no socket has no
    // such thing.
    if matches!(rustix::net::sockopt::socket_acceptconn(socket), Ok(false)) {
        let _ = rustix::net::sockopt::set_socket_linger(socket, None);
    }
}

/// Reads bytes, with room for the descriptors that come with them. Waits for nothing, and reads nothing while too many
/// descriptors wait to be closed.
pub fn receive(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    may_receive()?;
    receive_whatever(socket, bytes, descriptors)
}

fn receive_whatever(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
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

/// What is told of a message beside its bytes and descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// How many bytes of it there are.
    pub length: usize,
    /// Whether that is all of it.
    pub whole: bool,
    /// Who sent it, as the kernel vouches: none where the socket does not ask (`SO_PASSCRED`), and where the sender has no
    /// number here, because it is outside of our pid namespace.
    pub sender: Option<i32>,
}

/// Room for what comes beside the bytes, aligned as the kernel's headers are.
const BESIDE: usize = rustix::cmsg_space!(ScmCredentials(1), ScmRights(MOST_IN_A_MESSAGE)).div_ceil(size_of::<u64>());

/// Reads one message, with its descriptors and its sender. Waits for nothing. Nothing is read while too many descriptors wait
/// to be closed.
#[expect(unsafe_code, reason = "the safe call takes for granted that a sender has a number here")]
pub fn receive_message(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<Told> {
    may_receive()?;
    let mut beside = [0u64; BESIDE];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a header of zeroes is one that points nowhere.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = beside.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&beside) as _;
    let length = loop {
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header names the two buffers and their lengths; both outlive the call.
        let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
        match usize::try_from(length) {
            Ok(length) => break length,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    };
    let mut sender = None;
    // SAFETY: the kernel has filled the header and what it points to, which nothing has changed since.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !next.is_null() {
        // SAFETY: such a pointer leads to a header within the buffer, with as many bytes behind it as it says.
        let (level, kind, length, data) = unsafe {
            let beyond = libc::CMSG_LEN(0) as usize;
            (
                (*next).cmsg_level,
                (*next).cmsg_type,
                ((*next).cmsg_len as usize).saturating_sub(beyond),
                libc::CMSG_DATA(next),
            )
        };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for at in 0..length / size_of::<libc::c_int>() {
                // SAFETY: so many numbers of descriptors are there, aligned or not, that the kernel has made for us.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(data.cast::<libc::c_int>().add(at).read_unaligned()) });
            }
        } else if (level, kind) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) && length >= size_of::<libc::ucred>() {
            // SAFETY: that many bytes are there, and any bytes are such numbers.
            let credentials = unsafe { data.cast::<libc::ucred>().read_unaligned() };
            sender = Some(credentials.pid).filter(|pid| *pid > 0);
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(Told { length, whole: header.msg_flags & libc::MSG_TRUNC == 0, sender })
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
    most: usize,
    stack: usize,
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    /// With the number of descriptors that wait with each.
    waiting: VecDeque<(usize, Work)>,
    /// All of those.
    descriptors: usize,
    threads: usize,
    idle: usize,
}

static CLOSING: Threads = Threads::new(MOST_THREADS, STACK);
static RECEIVING: Threads = Threads::new(MOST_THREADS, STACK);

impl Threads {
    const fn new(most: usize, stack: usize) -> Threads {
        let state = State { waiting: VecDeque::new(), descriptors: 0, threads: 0, idle: 0 };
        Threads { most, stack, state: Mutex::new(state), more: Condvar::new() }
    }

    /// Does this as soon as there is a thread for it.
    fn run(&'static self, descriptors: usize, work: Work) {
        let mut state = self.lock();
        state.descriptors += descriptors;
        state.waiting.push_back((descriptors, work));
        // Without a thread it waits for one that there is, or for the next attempt.
        self.provide(&mut state);
    }

    /// Does this now and gives what comes of it; `None` when no thread is free for it and none can be had. Then nothing is
    /// left of it: who asks would wait for ever for a thread that perhaps never comes.
    async fn apart<T: Send + 'static>(&'static self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (told, outcome) = tokio::sync::oneshot::channel();
        let work = Box::new(move || {
            // Nobody may be there any more who wants to know.
            let _ = told.send(work());
        });
        {
            let mut state = self.lock();
            state.waiting.push_back((0, work));
            if !self.provide(&mut state) {
                // The last one is ours: the lock was held all the time.
                state.waiting.pop_back();
            }
        }
        outcome.await.ok()
    }

    /// Sees to it that there is a thread for the last one that waits; `false` when there is none.
    fn provide(&'static self, state: &mut State) -> bool {
        if state.idle >= state.waiting.len() {
            self.more.notify_one();
            return true;
        }
        if state.threads >= self.most {
            return false;
        }
        let thread = std::thread::Builder::new().name("lictor-close".to_owned()).stack_size(self.stack);
        let started = thread.spawn(|| self.work()).is_ok();
        state.threads += usize::from(started);
        started
    }

    fn may_wait(&self) -> io::Result<()> {
        if self.lock().descriptors < MOST_WAITING {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "too many descriptors that came with messages wait to be closed",
        ))
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some((descriptors, work)) = state.waiting.pop_front() {
                state.descriptors -= descriptors;
                drop(state);
                // A panic is told by its hook and ends the work alone: with the thread its place would be lost.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
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

    /// Set in the process that is outside of the other's pid namespace: where that one listens.
    const LISTENS: &str = "LICTOR_TEST_LISTENS";

    #[test]
    fn a_sender_outside_of_our_pid_namespace_has_no_number() {
        let bind = |path: &std::path::Path| {
            let socket = std::os::unix::net::UnixDatagram::bind(path).unwrap();
            rustix::net::sockopt::set_socket_passcred(&socket, true).unwrap();
            socket
        };
        let receive = |socket: &std::os::unix::net::UnixDatagram| {
            let mut polled = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
            let patience = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
            assert_eq!(rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&patience))), Ok(1));
            let (mut bytes, mut descriptors) = ([0; 4], Vec::new());
            let told = receive_message(socket, &mut bytes, &mut descriptors).unwrap();
            (told, bytes, descriptors.len())
        };
        if let Some(path) = std::env::var_os(LISTENS) {
            let (told, bytes, _) = receive(&bind(path.as_ref()));
            assert_eq!((told, &bytes[..2]), (Told { length: 2, whole: true, sender: None }, &b"hi"[..]));
            println!("heard");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        // Of our own it has one, with what came with it, and is cut where there is no room.
        let socket = bind(&folder.path().join("ours"));
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.connect(folder.path().join("ours")).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sent = [sender.as_fd(), sender.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&sent));
        rustix::net::sendmsg(&sender, &[io::IoSlice::new(b"hello")], &mut control, SendFlags::empty()).unwrap();
        let own = i32::try_from(std::process::id()).ok();
        assert_eq!(receive(&socket), (Told { length: 4, whole: false, sender: own }, *b"hell", 2));
        let empty = receive_message(&socket, &mut [0; 4], &mut Vec::new()).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);

        let path = folder.path().join("theirs");
        let test = "descriptors::tests::a_sender_outside_of_our_pid_namespace_has_no_number";
        let mut inside = std::process::Command::new("unshare");
        inside.args(["--pid", "--fork"]).arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]);
        inside.env(LISTENS, &path).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let Ok(mut inside) = inside.spawn() else {
            eprintln!("SKIPPED: there is no unshare");
            return;
        };
        let end = Instant::now() + LINGER / 10;
        while sender.connect(&path).is_err() || sender.send(b"hi").is_err() {
            if inside.try_wait().unwrap().is_some() {
                eprintln!("SKIPPED: a pid namespace cannot be made here");
                return;
            }
            assert!(Instant::now() < end, "nobody listens");
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = inside.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("heard"), "{said}{}", String::from_utf8_lossy(&output.stderr));
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

    /// Makes all threads of a pool sleep until what is given back is dropped.
    fn put_to_sleep(threads: &'static Threads) -> Vec<std::sync::mpsc::Sender<()>> {
        let sleeper = |_| {
            let (sender, receiver) = std::sync::mpsc::channel::<()>();
            let work = move || {
                // Until the other end is dropped.
                let _ = receiver.recv();
            };
            threads.run(0, Box::new(work));
            sender
        };
        (0..threads.most).map(sleeper).collect()
    }

    #[tokio::test]
    async fn what_sleeps_keeps_nothing_else_from_being_done() {
        static SOME: Threads = Threads::new(8, STACK);
        let wake = put_to_sleep(&SOME);
        assert_eq!(SOME.apart(|| 1).await, None, "nobody waits for one that sleeps");
        // All that close sleep: what receives goes on, and so do connections that brought nothing.
        let closing = put_to_sleep(&CLOSING);
        for n in 0..100 {
            assert_eq!(apart(move || n).await, Some(n));
            let (mut client, ours) = StdUnixStream::pair().unwrap();
            client.write_all(b"a").unwrap();
            let mut byte = [0];
            (&ours).read_exact(&mut byte).unwrap();
            close_stream(ours);
            client.set_read_timeout(Some(LINGER / 10)).unwrap();
            assert_eq!(client.read(&mut byte).unwrap(), 0, "it is closed");
        }
        assert!([&CLOSING, &RECEIVING].iter().all(|threads| threads.lock().threads <= MOST_THREADS));
        drop((wake, closing));
        let end = Instant::now() + LINGER / 10;
        while SOME.apart(|| 1).await.is_none() {
            assert!(Instant::now() < end, "no thread is free again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn no_more_is_received_while_too_much_waits_to_be_closed() {
        static SOME: Threads = Threads::new(1, STACK);
        let wake = put_to_sleep(&SOME);
        for _ in 0..MOST_WAITING {
            assert!(SOME.may_wait().is_ok());
            SOME.run(1, Box::new(|| ()));
        }
        assert_eq!(SOME.may_wait().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(wake);
        let end = Instant::now() + LINGER / 10;
        while SOME.may_wait().is_err() {
            assert!(Instant::now() < end, "nothing is closed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn work_that_panics_costs_no_thread() {
        static ONE: Threads = Threads::new(1, STACK);
        for _ in 0..3 {
            let end = Instant::now() + LINGER / 10;
            // Nobody is told of an outcome, and the only thread is there for what follows.
            let fails = || -> u8 { panic!("this is meant to be") };
            assert_eq!(ONE.apart(fails).await, None);
            while ONE.apart(|| 1).await != Some(1) {
                assert!(Instant::now() < end, "the thread is lost");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(ONE.lock().threads <= 1);
    }

    #[tokio::test]
    async fn where_no_thread_can_be_had_nobody_waits_for_one() {
        // More than any machine has, so that the start of a thread fails.
        static NONE: Threads = Threads::new(8, usize::MAX / 4);
        let asked = tokio::time::timeout(LINGER / 10, NONE.apart(|| 1)).await;
        assert_eq!(asked, Ok(None));
        assert!(NONE.lock().waiting.is_empty(), "it is not done later either");
    }
}
