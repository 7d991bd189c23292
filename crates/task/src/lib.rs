//! How long-lived work starts, repeats, is told to stop and is waited for.
//!
//! Every task of the house belongs to a [`Scope`]: it has a name, its panic is reported by that name, and the scope is
//! not over before its last task is. Nothing is detached but the end of what a client asked for and did not wait for
//! ([`to_the_end()`]). Questions that any room may have are answered here, too: what time it is ([`clock`]), which process is
//! at the other end of a socket ([`peer`]) and which one has bound a port ([`listening`]); and what another process may send
//! along is kept from doing harm ([`descriptors`]). Several datagrams are moved with one call ([`datagrams`]). This room knows no
//! nouns of the mesh.
//!
//! Start reading at [`scope`].

pub mod backoff;
pub mod clock;
pub mod datagrams;
pub mod descriptors;
pub mod drain;
pub mod listening;
pub mod peer;
pub mod scope;
mod to_the_end;

pub use backoff::Backoff;
pub use drain::{Drain, DrainWatch};
pub use peer::Peer;
pub use scope::{Scope, Stop};
pub use to_the_end::{ToTheEnd, to_the_end};
