//! Sessions that the dialling side can resume, by whom it dialled.
//!
//! The library's own store hands out one session per ticket, so of many dials at once, as after a rest, all but one would
//! make whole handshakes. Here the ticket is kept, and a session is made from it whenever one is wanted. RFC 8446, C.4
//! advises against that because an onlooker could tell that two connections are one client's; a proxy's address tells
//! as much. Each resumed session has a key agreement of its own all the same, and the server may refuse any of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

use crate::secrets::Source;

/// Servers that are remembered: about 3 KB each.
const MOST: usize = 512;

/// RFC 8446, 4.6.1: no ticket is used for longer, whatever the server says.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The store of one generation of credentials.
///
/// What makes sessions refers to the configuration that refers to this store: whoever owns the credentials calls
/// [`Remembered::forget`] in the end, or nothing of it would ever be freed.
#[derive(Default)]
pub(crate) struct Remembered {
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    by_name: HashMap<ServerName<'static>, Place>,
    forgotten: bool,
}

#[derive(Default)]
struct Place {
    hint: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// On its way from the library to whoever has asked it to make one.
    made: Vec<Tls13ClientSessionValue>,
    kept: Option<Kept>,
}

/// The newest ticket of a server, and what makes sessions of it.
#[derive(Clone)]
struct Kept {
    source: Source,
    ticket: Arc<[u8]>,
    until: Instant,
}

impl Remembered {
    /// Keeps a server's ticket, a NewSessionTicket of TLS 1.3 that the library has read without complaint.
    pub(crate) fn keep(&self, name: &ServerName<'static>, source: &Source, ticket: &[u8]) {
        let Some((lifetime, _)) = ticket.split_first_chunk() else { return };
        let lifetime = Duration::from_secs(u32::from_be_bytes(*lifetime).into()).min(LONGEST);
        let kept = Kept { source: Arc::clone(source), ticket: ticket.into(), until: Instant::now() + lifetime };
        // The session that reading it has made is one like those to come. What is replaced may be the last of an ended connection and is
        // not dropped under the lock.
        drop(self.edit(name, |place| (place.made.pop(), place.kept.replace(kept))));
    }

    /// Lets go of everything, for good.
    pub(crate) fn forget(&self) {
        let forgotten =
            std::mem::replace(&mut *self.places.lock(), Places { by_name: HashMap::new(), forgotten: true });
        drop(forgotten);
    }

    fn edit<T>(&self, name: &ServerName<'static>, change: impl FnOnce(&mut Place) -> T) -> Option<T> {
        let mut places = self.places.lock();
        if places.forgotten {
            return None;
        }
        if let Some(place) = places.by_name.get_mut(name) {
            return Some(change(place));
        }
        // When there is no room all are forgotten: whoever is dialled again is met with a whole handshake once.
        let full = if places.by_name.len() >= MOST { std::mem::take(&mut places.by_name) } else { HashMap::new() };
        let result = change(places.by_name.entry(name.clone()).or_default());
        drop(places);
        drop(full);
        Some(result)
    }

    fn look<T>(&self, name: &ServerName<'static>, at: impl FnOnce(&mut Place) -> Option<T>) -> Option<T> {
        self.places.lock().by_name.get_mut(name).and_then(at)
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered")
    }
}

impl ClientSessionStore for Remembered {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.edit(&name, |place| place.hint = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.places.lock().by_name.get(name)?.hint
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.edit(&name, |place| place.tls12 = Some(value));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.places.lock().by_name.get(name)?.tls12.clone()
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.look(name, |place| place.tls12.take());
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.edit(&name, |place| place.made.push(value));
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let now = Instant::now();
        let kept = self.look(name, |place| {
            place.kept = place.kept.take().filter(|kept| now < kept.until);
            place.kept.clone()
        })?;
        // What is made comes back by `insert_tls13_ticket`, so not under the lock; with as many sessions as takers, each gets one.
        kept.source.lock().handle_new_session_ticket(&kept.ticket).ok()?;
        self.look(name, |place| place.made.pop())
    }
}

#[cfg(test)]
mod tests {
    use rustls::ConnectionTrafficSecrets;

    use super::*;
    use crate::credentials::Reuse;
    use crate::pump::scripts::{Shaken, shake};
    use crate::secrets::{Dialled, Secrets};

    /// A NewSessionTicket: lifetime, what is added to the age, nonce, ticket, no extensions.
    fn ticket(lifetime: u32) -> Vec<u8> {
        [&lifetime.to_be_bytes()[..], &[1, 2, 3, 4], &[1, 9], &[0, 3, 7, 7, 7], &[0, 0]].concat()
    }

    #[test]
    fn one_ticket_makes_as_many_sessions_as_are_wanted_until_it_is_too_old() {
        let Shaken { about, near: (mut near, _), .. } = shake();
        let store = Arc::clone(about.credentials.remembered(Reuse::Connections).unwrap());
        let [peer, other] = ["peer", "other"].map(|name| ServerName::try_from(name).unwrap());
        assert!(store.take_tls13_ticket(&peer).is_none());

        near.secrets.remember(&ticket(3600)).unwrap();
        assert!(near.secrets.remember(b"nonsense").is_err());
        assert!(store.take_tls13_ticket(&other).is_none());
        let made: Vec<_> = (0..5).map(|_| store.take_tls13_ticket(&peer).unwrap()).collect();
        assert!(made.iter().all(|session| session.suite() == made[0].suite()));
        assert!(store.places.lock().by_name[&peer].made.is_empty());
        drop(near);
        assert!(store.take_tls13_ticket(&peer).is_some(), "it goes on after its connection");

        store.places.lock().by_name.get_mut(&peer).unwrap().kept.as_mut().unwrap().until = Instant::now();
        assert!(store.take_tls13_ticket(&peer).is_none());
        assert!(store.places.lock().by_name[&peer].kept.is_none(), "what is too old is let go of");
    }

    #[test]
    fn a_ticket_lives_as_long_as_the_server_says_but_a_week_at_most() {
        let Shaken { about, near: (mut near, _), .. } = shake();
        let store = about.credentials.remembered(Reuse::Connections).unwrap();
        let peer = ServerName::try_from("peer").unwrap();
        for (says, seconds) in [(0, 0), (60, 60), (u32::MAX, 604_800)] {
            near.secrets.remember(&ticket(says)).unwrap();
            let left = store.places.lock().by_name[&peer].kept.as_ref().unwrap().until - Instant::now();
            assert!(
                left <= Duration::from_secs(seconds) && left + Duration::from_secs(30) >= Duration::from_secs(seconds)
            );
        }
    }

    #[test]
    fn little_is_remembered_and_nothing_once_forgotten() {
        let store = Remembered::default();
        let name = |number: usize| ServerName::try_from(format!("t{number}")).unwrap();
        for number in 0..2 * MOST {
            store.set_kx_hint(name(number), NamedGroup::X25519);
        }
        assert!(store.places.lock().by_name.len() <= MOST);
        assert_eq!(store.kx_hint(&name(2 * MOST - 1)), Some(NamedGroup::X25519));
        store.forget();
        store.set_kx_hint(name(0), NamedGroup::X25519);
        assert_eq!(store.kx_hint(&name(0)), None);
    }

    #[test]
    fn with_its_credentials_all_that_was_remembered_is_freed() {
        let Shaken { about, near: (mut near, _), .. } = shake();
        let store = Arc::downgrade(about.credentials.remembered(Reuse::Connections).unwrap());
        near.secrets.remember(&ticket(3600)).unwrap();
        drop(near);
        assert!(store.upgrade().is_some());
        drop(about);
        assert!(store.upgrade().is_none());
    }

    #[test]
    fn no_key_of_an_ended_connection_is_kept() {
        let Shaken { near: (mut near, _), far: (far, ..), .. } = shake();
        let Secrets::Server(mut server) = far.secrets else { panic!("the acceptor's") };
        near.secrets.remember(&ticket(3600)).unwrap();
        let Secrets::Client(dialled) = near.secrets else { panic!("the dialler's") };
        let Dialled { kernel, .. } = &dialled;
        let kernel = Arc::clone(kernel);
        drop(dialled);
        // One generation of keys has been passed over.
        server.update_tx_secret().unwrap();
        assert_eq!(key(server.update_tx_secret().unwrap()), key(kernel.lock().update_rx_secret().unwrap()));
        server.update_rx_secret().unwrap();
        assert_eq!(key(server.update_rx_secret().unwrap()), key(kernel.lock().update_tx_secret().unwrap()));
    }

    fn key((_, secrets): (u64, ConnectionTrafficSecrets)) -> Vec<u8> {
        match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, .. }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, .. } => key.as_ref().to_vec(),
            _ => panic!("another suite"),
        }
    }
}
