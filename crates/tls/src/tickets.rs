//! Session tickets: what a client may show instead of a whole handshake, sealed with keys that only this process has.

use std::fmt;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use parking_lot::Mutex;
use rustls::server::ProducesTickets;

/// How long a ticket can be used: within one to two of these, by the turn of the keys.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Makes and reads tickets of one generation of credentials: with a new leaf or new roots a new one starts, so that
/// no session outlives what it was accepted by.
pub(crate) struct Tickets {
    keys: Mutex<Keys>,
}

struct Keys {
    current: RandomizedNonceKey,
    previous: Option<RandomizedNonceKey>,
    since: Instant,
}

impl Tickets {
    /// With a key of its own; `None` when the system has no randomness.
    pub(crate) fn new() -> Option<Tickets> {
        Some(Tickets { keys: Mutex::new(Keys { current: fresh_key()?, previous: None, since: Instant::now() }) })
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl Keys {
    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < LIFETIME {
            return;
        }
        // Without randomness the old key stays: refusing to resume is worse for nobody but the processor, so it is
        // tried again with the next ticket.
        if let Some(fresh) = fresh_key() {
            let retired = std::mem::replace(&mut self.current, fresh);
            self.previous = (age < 2 * LIFETIME).then_some(retired);
            self.since = now;
        }
    }
}

fn fresh_key() -> Option<RandomizedNonceKey> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&[0; NONCE_LEN]);
        sealed.extend_from_slice(plain);
        let mut keys = self.keys.lock();
        keys.turn(Instant::now());
        let (nonce, tag) = keys.current.seal_in_place_separate_tag(Aad::empty(), &mut sealed[NONCE_LEN..]).ok()?;
        sealed[..NONCE_LEN].copy_from_slice(nonce.as_ref());
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = cipher.split_at_checked(NONCE_LEN)?;
        let mut keys = self.keys.lock();
        keys.turn(Instant::now());
        [Some(&keys.current), keys.previous.as_ref()].into_iter().flatten().find_map(|key| {
            let mut plain = sealed.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let len = key.open_in_place(nonce, Aad::empty(), &mut plain).ok()?.len();
            plain.truncate(len);
            Some(plain)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_can_be_read_until_its_key_has_turned_twice() {
        let tickets = Tickets::new().unwrap();
        let ticket = tickets.encrypt(b"session").unwrap();
        let turn = || {
            let mut keys = tickets.keys.lock();
            let now = keys.since + LIFETIME;
            keys.turn(now);
            // Back to the present, or the next use would see a clock that went backwards and never turn again.
            keys.since = Instant::now();
        };
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        turn();
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        turn();
        assert_eq!(tickets.decrypt(&ticket), None);
    }

    #[test]
    fn a_changed_or_foreign_ticket_is_no_ticket() {
        let tickets = Tickets::new().unwrap();
        let mut ticket = tickets.encrypt(b"session").unwrap();
        assert_eq!(Tickets::new().unwrap().decrypt(&ticket), None);
        *ticket.last_mut().unwrap() ^= 1;
        assert_eq!(tickets.decrypt(&ticket), None);
        assert_eq!(tickets.decrypt(b""), None);
        assert_eq!(tickets.decrypt(&[0; NONCE_LEN]), None);
    }
}
