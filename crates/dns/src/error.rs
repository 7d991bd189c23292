//! What can go wrong before the first question is answered.

use std::net::SocketAddr;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The zone is not a domain name, or too long to hold a name of ours.
    #[error("domain {domain:?} is not a usable DNS name")]
    Domain {
        /// As configured.
        domain: String,
    },
    /// The datacenter cannot be a label.
    #[error("datacenter {datacenter:?} cannot be part of a DNS name")]
    Datacenter {
        /// As configured.
        datacenter: String,
    },
    /// A socket could not be opened.
    #[error("cannot listen for DNS over {transport} on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
