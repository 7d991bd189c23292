//! What a proxy tells of itself beside its status: for the agent's table of processes and for people.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use crate::proxy::Listening;
use crate::resolve::Resolved;
use crate::shared::Shared;

/// A list in a field is cut after so many bytes; its number is always right.
const LONGEST_LIST: usize = 900;

/// What the director knows of the settings.
#[derive(Clone, Default)]
pub(crate) struct Wanted {
    /// Listeners that the settings ask for.
    pub(crate) listeners: usize,
    /// Upstreams by name.
    pub(crate) upstreams: Vec<(String, Arc<Resolved>)>,
}

/// Makes reports of one proxy, also while it drains.
#[derive(Clone)]
pub struct Reporter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) listening: watch::Receiver<Vec<Listening>>,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) direct_socket: Option<Arc<str>>,
}

/// A proxy at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Connections being carried.
    pub connections: usize,
    /// Those of them that peers opened.
    pub inbound: usize,
    /// Open listeners.
    pub listeners: Vec<Listening>,
    /// Listeners that the settings ask for.
    pub wanted_listeners: usize,
    /// Upstreams and how many healthy instances each has.
    pub upstreams: Vec<(String, usize)>,
    /// Until when the leaf is valid, in seconds since the Unix epoch.
    pub leaf_until: Option<i64>,
    /// Trusted roots.
    pub roots: usize,
    /// Name of the socket where other proxies of the agent hand connections over, while they may.
    pub direct_socket: Option<Arc<str>>,
    /// Connections that went to or came from those without TLS, and those that could have and did not.
    pub direct: (u64, u64),
}

impl Reporter {
    /// How it is now.
    pub fn report(&self) -> Report {
        let (connections, inbound) = self.shared.tracker.counts();
        let credentials = self.shared.mesh.credentials();
        let wanted = self.wanted.borrow();
        Report {
            connections,
            inbound,
            listeners: self.listening.borrow().clone(),
            wanted_listeners: wanted.listeners,
            upstreams: wanted
                .upstreams
                .iter()
                .map(|(name, resolved)| (name.clone(), resolved.list().instances.len()))
                .collect(),
            leaf_until: credentials.as_ref().map(|held| held.leaf().who().not_after),
            roots: credentials.as_ref().map_or(0, |held| held.bundle().names().len()),
            direct_socket: self.direct_socket.clone().filter(|_| !*self.shared.retirement.borrow()),
            direct: (
                self.shared.metrics.direct.load(Ordering::Relaxed),
                self.shared.metrics.direct_fallbacks.load(Ordering::Relaxed),
            ),
        }
    }
}

impl Report {
    /// The report as assignments for a supervisor, each on a line of its own.
    pub fn assignments(&self) -> String {
        let mut text = String::new();
        let mut field = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "X_LICTOR_{name}={value}");
        };
        field("CONNECTIONS", &self.connections);
        field("INBOUND", &self.inbound);
        field("LISTENERS", &format_args!("{}/{}", self.listeners.len(), self.wanted_listeners));
        field("LISTENING", &list(self.listeners.iter().map(|open| format!("{}={}", open.what, open.address))));
        let empty = self.upstreams.iter().filter(|(_, instances)| *instances == 0);
        field("UPSTREAMS", &format_args!("{}/{}", self.upstreams.len() - empty.clone().count(), self.upstreams.len()));
        field("ENDPOINTS", &list(self.upstreams.iter().map(|(name, instances)| format!("{name}={instances}"))));
        field("UNREACHABLE", &list(empty.map(|(name, _)| name.clone())));
        field("LEAF_UNTIL", &self.leaf_until.unwrap_or_default());
        field("ROOTS", &self.roots);
        field("DIRECT_SOCKET", &self.direct_socket.as_deref().unwrap_or_default());
        field("DIRECT", &self.direct.0);
        field("DIRECT_FALLBACKS", &self.direct.1);
        text
    }
}

/// Items with blanks between them, as many as fit.
fn list(items: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for item in items {
        if text.len() + item.len() > LONGEST_LIST {
            text.push_str(" …");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&item);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_line_for_each_field_and_its_numbers_survive_long_lists() {
        let upstreams = (0..500).map(|n| (format!("service:default/s{n}"), usize::from(n > 0))).collect();
        let listeners = vec![Listening { what: "public".into(), address: "127.0.0.1:20000".parse().unwrap() }];
        let report = Report {
            connections: 7,
            inbound: 3,
            listeners,
            wanted_listeners: 501,
            upstreams,
            leaf_until: Some(9),
            roots: 1,
            ..Report::default()
        };
        let text = report.assignments();
        let value = |name: &str| {
            let prefix = format!("X_LICTOR_{name}=");
            text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
        };
        assert_eq!((value("CONNECTIONS"), value("INBOUND")), ("7".into(), "3".into()));
        assert_eq!(value("LISTENERS"), "1/501");
        assert_eq!(value("LISTENING"), "public=127.0.0.1:20000");
        assert_eq!((value("UPSTREAMS"), value("UNREACHABLE")), ("499/500".into(), "service:default/s0".into()));
        assert!(value("ENDPOINTS").ends_with(" …") && value("ENDPOINTS").len() < 1024);
        assert!(text.lines().all(|line| line.starts_with("X_LICTOR_")));
    }
}
