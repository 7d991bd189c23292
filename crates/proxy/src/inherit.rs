//! Listening sockets that an earlier process of this proxy left: what waits in them is served, not lost.
//!
//! A socket says itself where it listens, so nothing else need be handed over. What the settings do not ask for is
//! closed once they are known.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::SockRef;

/// The sockets that listen for this proxy, by address: for whoever keeps them beyond its end.
pub type Sockets = BTreeMap<SocketAddr, Arc<Vec<OwnedFd>>>;

/// Inherited sockets that are not in use yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    by_address: HashMap<SocketAddr, Vec<TcpListener>>,
    /// Whether there were any to begin with.
    any: bool,
}

impl Inherited {
    /// Sorts them by address; what does not listen is closed.
    pub(crate) fn new(sockets: Vec<TcpListener>) -> Inherited {
        let mut inherited = Inherited::default();
        for socket in sockets {
            let listens = SockRef::from(&socket).is_listener().unwrap_or(false);
            if let (true, Ok(address)) = (listens, socket.local_addr()) {
                inherited.by_address.entry(address).or_default().push(socket);
            }
        }
        inherited.any = !inherited.by_address.is_empty();
        inherited
    }

    /// Those of an address; none when there are none or they were taken.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        self.by_address.remove(&address).unwrap_or_default()
    }

    /// Whether some are not in use yet.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.by_address.is_empty()
    }

    /// Whether there were any, and all are in use or closed.
    pub(crate) fn is_settled(&self) -> bool {
        self.any && self.by_address.is_empty()
    }

    /// Closes those that nobody asked for.
    pub(crate) fn close_rest(&mut self) {
        for address in std::mem::take(&mut self.by_address).into_keys() {
            tracing::info!("the inherited listener on {address} is not needed and closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_where_they_listen_and_the_rest_is_closed() {
        let (one, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, unwanted) = (one.local_addr().unwrap(), other.local_addr().unwrap());
        let mut inherited = Inherited::new(vec![one.try_clone().unwrap(), one, other]);
        assert_eq!(inherited.take(address).len(), 2);
        assert!(inherited.is_waiting() && !inherited.is_settled());
        inherited.close_rest();
        assert!(inherited.is_settled());
        assert!(std::net::TcpStream::connect(unwanted).is_err());
        assert!(!Inherited::new(Vec::new()).is_settled());
    }
}
