//! The certificate authority: holds roots, signs leaves, rotates; the only room that sees a signing key.
//!
//! Everything here is pure: the time is passed in as seconds since the Unix epoch, nothing is stored, and only
//! randomness for keys, serials and nonces comes from outside. Who may have a certificate, where keys are kept and when
//! something is done is decided by `agent`; keys leave this room only sealed ([`seal`]) or, for a leaf, as the holder's
//! own ([`csr::new_key_and_csr`]).
//!
//! Certificates are written by [`certificate`], byte for byte, instead of by a builder: a root that the operator gives
//! us may have a name of any form, and what it signs must repeat that name exactly; a cross-signed copy must repeat
//! every extension.
//!
//! Start reading at [`authority`], then [`csr`] for what is signed and [`rotate`] for how one root follows another.

pub mod agent_tls;
pub mod authority;
pub mod certificate;
pub mod csr;
mod der;
mod error;
pub mod key;
pub mod limit;
pub mod pem;
pub mod provider;
pub mod renew;
pub mod rotate;
pub mod seal;
pub mod serial;

#[cfg(any(test, fuzzing))]
#[allow(missing_docs, clippy::unwrap_used, reason = "no part of what is shipped")]
pub mod fuzz;

pub use authority::{Authority, IssuedCert};
pub use csr::{Csr, new_key_and_csr};
pub use error::Error;
pub use key::SigningKey;
