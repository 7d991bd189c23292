//! How a managed proxy that is a program of somebody else proves itself: by a token that this agent does not keep.
//!
//! Each start of the process draws a token, which goes into its environment and nowhere else. The agent remembers a digest
//! of it, in memory and on disk, and compares digests. The token has 122 random bits, so its digest needs no salt: there
//! is nothing to guess.
//!
//! The built-in proxy gets none: the kernel says which process asks. Its requests are made in the name of a token that never
//! leaves this process.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// How long a token is accepted after it was replaced: the process that was given it is being stopped.
const OVERLAP: Duration = Duration::from_secs(30);

/// SHA-256 of a token.
type Digest = [u8; 32];

/// What is known of the token of one proxy.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Names the time from a proxy's registration to its removal. One that is registered anew is another one, whose process
    /// must be started anew to get a token that is known.
    pub series: String,
    /// Stands for the proxy where the kernel has vouched for it. Nobody is told, and it ends with this agent.
    pub unseen: String,
    /// Of that.
    unseen_digest: Digest,
    /// Of the token of the latest start; none before the first.
    present: Option<Digest>,
    /// Of the one before, and until when that is accepted.
    before: Option<(Digest, Instant)>,
}

/// A token that somebody shows, as it is compared with any number of proofs.
pub struct Shown {
    digest: Digest,
    at: Instant,
}

impl Shown {
    /// Now.
    pub fn of(token: &str) -> Shown {
        Shown { digest: digest_of(token), at: Instant::now() }
    }
}

impl Proof {
    /// For a proxy that was never started.
    pub fn unproven() -> Proof {
        let [series, unseen] = [(); 2].map(|()| Uuid::new_v4().to_string());
        let unseen_digest = digest_of(&unseen);
        Proof { series, unseen, unseen_digest, present: None, before: None }
    }

    /// As it was kept; `None` when the digest is none.
    pub fn kept(series: &str, token_digest: &str) -> Option<Proof> {
        let present = if token_digest.is_empty() { None } else { Some(from_hex(token_digest)?) };
        Some(Proof { series: series.to_owned(), present, ..Proof::unproven() })
    }

    /// From a token that was kept as it is: by the original, and by earlier versions.
    pub fn of_token(token: &str) -> Proof {
        Proof { present: Some(digest_of(token)), ..Proof::unproven() }
    }

    /// A token for the next start. The present one goes on being accepted for a little longer.
    pub fn renew(&mut self) -> String {
        let token = Uuid::new_v4().to_string();
        if let Some(before) = self.present.replace(digest_of(&token)) {
            self.before = Some((before, Instant::now() + OVERLAP));
        }
        token
    }

    /// Whether what was shown is accepted now, in a time that does not tell how much of it is right.
    pub fn accepts(&self, shown: &Shown) -> bool {
        let before = self.before.as_ref().filter(|(_, until)| shown.at < *until).map(|(before, _)| before);
        let known = self.present.as_ref().into_iter().chain(before).chain([&self.unseen_digest]);
        known.fold(false, |found, digest| found | bool::from(digest.ct_eq(&shown.digest)))
    }

    /// The digest as it is kept; empty when there is none.
    pub fn token_digest(&self) -> String {
        self.present.iter().flatten().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn digest_of(token: &str) -> Digest {
    let mut out = Digest::default();
    out.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    out
}

fn from_hex(text: &str) -> Option<Digest> {
    let mut out = Digest::default();
    if text.len() != 2 * out.len() {
        return None;
    }
    for (byte, place) in out.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_token_and_for_a_while_the_one_before_are_accepted() {
        let mut proof = Proof::unproven();
        assert!(!proof.accepts(&Shown::of("")) && proof.token_digest().is_empty());
        let [first, second, third] = [(); 3].map(|()| proof.renew());
        assert!(
            proof.accepts(&Shown::of(&third))
                && proof.accepts(&Shown::of(&second))
                && !proof.accepts(&Shown::of(&first))
                && !proof.accepts(&Shown::of(""))
        );
        proof.before = proof.before.map(|(digest, _)| (digest, Instant::now()));
        assert!(proof.accepts(&Shown::of(&third)) && !proof.accepts(&Shown::of(&second)));
    }

    #[test]
    fn what_is_kept_accepts_the_token_and_does_not_hold_it() {
        let mut proof = Proof::unproven();
        let token = proof.renew();
        let kept = Proof::kept(&proof.series, &proof.token_digest()).unwrap();
        assert!(kept.accepts(&Shown::of(&token)) && !kept.accepts(&Shown::of(&proof.token_digest())));
        assert_eq!(kept.series, proof.series);
        assert!(!format!("{kept:?}{}", kept.token_digest()).contains(&token));
        assert!(Proof::of_token(&token).accepts(&Shown::of(&token)));
        assert!(
            proof.accepts(&Shown::of(&proof.unseen)) && !kept.accepts(&Shown::of(&proof.unseen)),
            "that one ends with the agent"
        );
        assert!(Proof::kept("s", "").is_some_and(|proof| !proof.accepts(&Shown::of(""))));
        for damaged in ["0", "zz", &"é".repeat(32), &"g".repeat(64)] {
            assert!(Proof::kept("s", damaged).is_none(), "{damaged}");
        }
    }
}
