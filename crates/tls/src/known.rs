//! What was found out about certificates that peers have shown, so that a peer that connects again is not examined
//! again: of a whole handshake's processor time the signatures in the chain and the reading of certificates are a fifth.
//!
//! It belongs to one generation of credentials, so the roots are always those by which a chain was checked. A chain that
//! did not pass is not remembered.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::RangeInclusive;
use std::sync::Arc;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::{Bundle, Role};
use crate::error::Refusal;
use crate::peer::Peer;

/// How long a chain that passed counts as passed, in seconds. Short, because what is above the leaf may expire before it.
const RECENT: u64 = 60;

/// Certificates and chains that are remembered, each: about 0.5 KB a certificate.
const MOST: usize = 512;

type Fingerprint = [u8; 32];

/// Certificates and chains that were looked at.
#[derive(Default)]
pub(crate) struct Known {
    peers: Mutex<HashMap<Fingerprint, Arc<Peer>>>,
    /// When each has passed and until when that counts.
    chains: Mutex<HashMap<(Role, Fingerprint), RangeInclusive<u64>>>,
}

impl Known {
    /// Who a leaf speaks for, as [`Peer::from_der`] tells.
    pub(crate) fn peer(&self, leaf: &CertificateDer<'_>) -> Result<Arc<Peer>, Refusal> {
        let key = fingerprint([leaf]);
        if let Some(peer) = self.peers.lock().get(&key) {
            return Ok(Arc::clone(peer));
        }
        let peer = Arc::new(Peer::from_der(leaf)?);
        remember(&mut self.peers.lock(), key, Arc::clone(&peer));
        Ok(peer)
    }

    /// Whether a chain leads to one of the roots, as [`Bundle::check`] tells.
    pub(crate) fn check(
        &self,
        bundle: &Bundle,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let key = (role, fingerprint([leaf].into_iter().chain(intermediates)));
        if self.chains.lock().get(&key).is_some_and(|passed| passed.contains(&now.as_secs())) {
            return Ok(());
        }
        bundle.check(leaf, intermediates, role, now)?;
        // What cannot be read is refused elsewhere, each time anew.
        if let Ok(peer) = self.peer(leaf) {
            let end = u64::try_from(peer.not_after).unwrap_or_default().min(now.as_secs().saturating_add(RECENT));
            remember(&mut self.chains.lock(), key, now.as_secs()..=end);
        }
        Ok(())
    }
}

/// When there is no room everything is forgotten: whoever comes again is examined once more.
fn remember<K: Eq + Hash, V>(known: &mut HashMap<K, V>, key: K, value: V) {
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(key, value);
}

fn fingerprint<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for certificate in certificates {
        // With its length, so that the same bytes cut differently are something else.
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::leaf::Leaf;
    use crate::pump::fake::forge::Authority;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap()))
    }

    #[test]
    fn a_chain_that_passed_counts_for_a_while_and_only_for_its_role_its_bytes_and_its_time() {
        let (ours, other) = (Authority::new("root"), Authority::new("other"));
        let [bundle, foreign] = [&ours, &other].map(|from| Bundle::from_pem([from.pem.as_str()]).unwrap());
        let issued = ours.leaf("web");
        let leaf = Leaf::from_pem(&issued.certificates, &issued.key).unwrap();
        let (leaf, rest) = leaf.chain().split_first().unwrap();
        let known = Known::default();
        let (start, end) = (known.peer(leaf).unwrap().not_before, known.peer(leaf).unwrap().not_after);
        let check = |bundle: &Bundle, role, now| known.check(bundle, leaf, rest, role, at(now));

        assert!(check(&foreign, Role::Client, start + 10).is_err());
        check(&bundle, Role::Client, start + 10).unwrap();
        // What is remembered is not checked again: nobody asks these roots.
        check(&foreign, Role::Client, start + 10).unwrap();
        check(&foreign, Role::Client, start + 70).unwrap();
        assert!(check(&foreign, Role::Client, start + 71).is_err(), "that was long ago");
        assert!(check(&foreign, Role::Client, start + 9).is_err(), "a clock that was set back");
        assert!(check(&foreign, Role::Server, start + 10).is_err(), "it was shown as a client's");
        let mut changed = leaf.to_vec();
        changed.push(0);
        assert!(known.check(&foreign, &changed.into(), rest, Role::Client, at(start + 10)).is_err());

        check(&bundle, Role::Client, end - 1).unwrap();
        check(&foreign, Role::Client, end).unwrap();
        assert!(check(&bundle, Role::Client, end + 1).is_err(), "it has expired");
    }

    #[test]
    fn little_is_remembered() {
        let known = Known::default();
        let authority = Authority::new("root");
        let issued = authority.leaf("web");
        let leaf = Leaf::from_pem(&issued.certificates, &issued.key).unwrap();
        for number in 0..2 * MOST {
            remember(&mut known.peers.lock(), fingerprint([&number.to_be_bytes().to_vec().into()]), {
                Arc::new(Peer::from_der(&leaf.chain()[0]).unwrap())
            });
        }
        assert!(known.peers.lock().len() <= MOST);
        assert!(known.peer(&b"nonsense".to_vec().into()).is_err());
    }
}
