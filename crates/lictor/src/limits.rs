//! Limits of this process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets this process, and what it starts, open as many files as it may: a proxy holds many connections, an agent the
/// sockets of many proxies, and the soft limit is often low for historical reasons only.
pub(crate) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What we may not have, we do without.
    let _ = setrlimit(Resource::Nofile, limit);
}
