//! Connections between two proxies of one agent without TLS: the application's connection itself is handed over.
//!
//! The dialling proxy has accepted a connection of its application and read nothing from it. It sends the descriptor
//! over a Unix socket to the proxy of the instance it has chosen, which decides by the intentions as it would about a
//! certificate, dials its application, and moves bytes between both in the kernel. See docs/direct.md.
//!
//! - **Who is there.** Both ends take the other's process from the kernel, and what that process is from their agent,
//!   once for each process. A name in a message can only make an answer stricter.
//! - **One at a time.** A Unix connection (a *lane*) carries one hand-over after another. While a connection is carried
//!   its lane tells the dialling proxy what was moved and how it ended; if the lane ends, so does the connection.
//! - **Nothing is lost.** The receiver says that it accepts before it touches the connection. Whatever goes wrong before
//!   that word leaves it with the dialling proxy, which goes on with TLS.

mod join;
mod kernel;
pub(crate) mod lane;
mod neighbors;
pub(crate) mod receive;
mod wire;

pub(crate) use neighbors::{ASKS, Link, Neighbors, answer};

use lictor_tls::Credentials;

/// Whether our certificate is valid now. Who could not prove itself by TLS may not go without it either.
fn is_valid(credentials: &Credentials) -> bool {
    lictor_task::clock::unix_seconds() <= credentials.leaf().who().not_after
}
