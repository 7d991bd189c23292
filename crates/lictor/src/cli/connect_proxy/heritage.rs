//! Listening sockets inherited from an earlier process of the same proxy, through the agent's supervisor.

use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names the descriptors: their numbers, with commas. The supervisor sets it.
const VARIABLE: &str = "LICTOR_SOCKETS";

/// Takes them. A number that is no open descriptor of a listening socket is left alone.
pub(super) fn sockets() -> Vec<TcpListener> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let numbers = std::env::var(VARIABLE).unwrap_or_default();
    numbers.split(',').filter_map(|number| own(number.parse().ok().filter(|number| *number > 2)?)).collect()
}

#[expect(unsafe_code, reason = "a number from the environment becomes a descriptor")]
fn own(number: RawFd) -> Option<TcpListener> {
    // SAFETY: it is borrowed for two questions only, and a number that is not open makes them fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // Nothing that we start shall have it.
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
    if !rustix::net::sockopt::socket_acceptconn(borrowed).ok()? {
        return None;
    }
    // SAFETY: it is open and a listening socket, of which this process has made none before: the caller asks once, at
    // the start. So nothing else owns it.
    Some(unsafe { TcpListener::from_raw_fd(number) })
}
