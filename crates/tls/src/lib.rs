//! Prove who we are, check who they are: mutual TLS between services, and plain TLS for the HTTP API.
//!
//! The only room that sees the TLS library. It knows no catalog and no configuration: whoever uses it brings PEM text
//! and a [`Gate`] that says who may come in, and gets connections whose peer is known.
//!
//! Start reading at [`mesh`], then [`pump`]. HTTPS is apart: [`listener`] and [`dialer`].

mod buffer;
mod bundle;
mod cipher;
mod credentials;
pub mod dialer;
mod error;
mod expanded;
mod frame;
mod handshake;
mod hello;
mod known;
mod leaf;
pub mod listener;
pub mod mesh;
mod peer;
pub mod pump;
mod record;
mod remembered;
mod secrets;
mod session;
mod socket;
mod stream;
mod suite;
mod tickets;
mod trust;
mod verify;

#[cfg(any(test, fuzzing))]
#[allow(missing_docs, clippy::unwrap_used, reason = "no part of what is shipped")]
pub mod fuzz;

pub use bundle::Bundle;
pub use credentials::{Credentials, Reuse};
pub use error::{Cause, Error, Refusal};
pub use leaf::Leaf;
pub use mesh::{Mesh, Target};
pub use peer::Peer;
pub use pump::{Meter, Pump};
pub use session::{Next, Session};
pub use socket::Socket;
pub use stream::SecureStream;
pub use suite::KeyExchange;
pub use verify::Gate;
