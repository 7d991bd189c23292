//! How one root follows another: pure steps from the roots there are to the roots there shall be.
//!
//! At any moment one root is active and the others are trusted. A step never takes away what somebody still needs: the
//! old root stays trusted until the last leaf it signed is long gone, and every leaf of the new root carries
//! certificates that lead to each root that may still be the only one somebody knows.

use std::time::Duration;

use lictor_model::identity::TrustDomain;
use lictor_model::root::{Root, Roots};

use crate::certificate::Certificate;
use crate::{Authority, Error};

/// How long a cross-signed certificate is valid: by then everybody has heard of the new root.
pub const CROSS_SIGNED_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whether a new root may follow without being signed by the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSigning {
    /// The old root must sign the new one.
    Required,
    /// The old root cannot, or shall not, sign any more: whoever has not heard of the new root refuses its leaves.
    Skipped,
}

/// The roots once the first one is made.
pub fn begin(first: &Authority, trust_domain: &TrustDomain) -> Roots {
    Roots { trust_domain: Some(trust_domain.clone()), roots: vec![first.root(trust_domain)] }
}

/// The roots once `new` has followed `old`, which must be the authority of the active root.
///
/// The new root comes with itself signed by the old one, and with the intermediates by which the old one was connected
/// to its own predecessors: so a second and third rotation in a row leave nobody behind. (The original keeps only the
/// first of these.)
pub fn follow(
    roots: &Roots,
    old: &Authority,
    new: &Authority,
    trust_domain: &TrustDomain,
    cross_signing: CrossSigning,
    now: i64,
) -> Result<Roots, Error> {
    let active = roots.active();
    check_active(roots, old)?;
    let mut next = new.root(trust_domain);
    if cross_signing == CrossSigning::Required {
        next.intermediates_pem.push(old.cross_sign(new.certificate(), now, CROSS_SIGNED_LIFETIME)?.pem());
        let older = active.into_iter().flat_map(|root| &root.intermediates_pem);
        next.intermediates_pem.extend(older.filter(|pem| is_valid(pem, now)).cloned());
    }
    let mut all = vec![];
    for root in &roots.roots {
        if root.id == next.id {
            // Back to a root that is still trusted.
            next.created = root.created;
        } else if root.active {
            all.push(Root { active: false, rotated_out_at: Some(now), ..root.clone() });
        } else {
            all.push(root.clone());
        }
    }
    all.push(next);
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Roots { trust_domain: Some(trust_domain.clone()), roots: all })
}

/// Checks that an authority is the one whose root is active: what is stored of both must not drift apart.
pub fn check_active(roots: &Roots, authority: &Authority) -> Result<(), Error> {
    let stored = authority.certificate().fingerprint();
    match roots.active() {
        Some(active) if active.id == stored => Ok(()),
        active => Err(Error::NotActive { stored, active: active.map(|root| root.id.clone()).unwrap_or_default() }),
    }
}

/// The roots without those that were rotated out more than twice a leaf's lifetime ago, and the ids of these; nothing
/// if all are still needed.
pub fn prune(roots: &Roots, leaf_ttl: Duration, now: i64) -> Option<(Roots, Vec<String>)> {
    let limit = i64::try_from(leaf_ttl.as_secs()).unwrap_or(i64::MAX).saturating_mul(2);
    let is_old = |root: &&Root| !root.active && root.rotated_out_at.is_some_and(|at| now.saturating_sub(at) > limit);
    let removed: Vec<String> = roots.roots.iter().filter(is_old).map(|root| root.id.clone()).collect();
    if removed.is_empty() {
        return None;
    }
    let kept = roots.roots.iter().filter(|root| !is_old(root)).cloned().collect();
    Some((Roots { trust_domain: roots.trust_domain.clone(), roots: kept }, removed))
}

/// Whether a leaf was signed by the root that is active now, by the key identifiers of both. A leaf without one was
/// not issued by us, and a mesh without an active root has nothing better to offer.
pub fn is_current(leaf_pem: &str, active: &Root) -> bool {
    Certificate::from_pem(leaf_pem).is_ok_and(|leaf| leaf.authority_key_id().as_ref() == Some(&active.signing_key_id))
}

fn is_valid(pem: &str, now: i64) -> bool {
    Certificate::from_pem(pem).is_ok_and(|certificate| now <= certificate.validity.not_after)
}
