//! What the library keeps of a connection after its handshake: the secrets that further keys and tickets come from.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{ExtractedSecrets, ProtocolVersion};

use crate::record::{Bad, Opener, Sealer, alert};

/// The library's part of an established connection.
pub(crate) enum Secrets {
    /// We dialled.
    Client(Box<KernelConnection<ClientConnectionData>>),
    /// We accepted.
    Server(Box<KernelConnection<ServerConnectionData>>),
}

/// The three parts of an established connection.
pub(crate) struct Parts {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) secrets: Secrets,
}

impl Parts {
    pub(crate) fn of_client(connection: UnbufferedClientConnection) -> Result<Parts, rustls::Error> {
        let (extracted, kernel) = connection.dangerous_into_kernel_connection()?;
        Parts::new(extracted, Secrets::Client(Box::new(kernel)))
    }

    pub(crate) fn of_server(connection: UnbufferedServerConnection) -> Result<Parts, rustls::Error> {
        let (extracted, kernel) = connection.dangerous_into_kernel_connection()?;
        Parts::new(extracted, Secrets::Server(Box::new(kernel)))
    }

    fn new(extracted: ExtractedSecrets, secrets: Secrets) -> Result<Parts, rustls::Error> {
        let (version, suite) = match &secrets {
            Secrets::Client(kernel) => (kernel.protocol_version(), kernel.negotiated_cipher_suite()),
            Secrets::Server(kernel) => (kernel.protocol_version(), kernel.negotiated_cipher_suite()),
        };
        let unknown = || rustls::Error::General("cipher suite without a record layer".into());
        Ok(Parts {
            sealer: Sealer::new(extracted.tx, version, suite).ok_or_else(unknown)?,
            opener: Opener::new(extracted.rx, version).ok_or_else(unknown)?,
            secrets,
        })
    }
}

impl Secrets {
    /// Replaces the keys that we send under.
    pub(crate) fn renew_sealer(&mut self) -> Result<Sealer, Bad> {
        let (update, suite) = match self {
            Secrets::Client(kernel) => (kernel.update_tx_secret(), kernel.negotiated_cipher_suite()),
            Secrets::Server(kernel) => (kernel.update_tx_secret(), kernel.negotiated_cipher_suite()),
        };
        let update = update.map_err(|_| Bad(alert::INTERNAL_ERROR))?;
        Sealer::new(update, ProtocolVersion::TLSv1_3, suite).ok_or(Bad(alert::INTERNAL_ERROR))
    }

    /// Replaces the keys that we receive under.
    pub(crate) fn renew_opener(&mut self) -> Result<Opener, Bad> {
        let update = match self {
            Secrets::Client(kernel) => kernel.update_rx_secret(),
            Secrets::Server(kernel) => kernel.update_rx_secret(),
        };
        let update = update.map_err(|_| Bad(alert::INTERNAL_ERROR))?;
        Opener::new(update, ProtocolVersion::TLSv1_3).ok_or(Bad(alert::INTERNAL_ERROR))
    }

    /// Keeps a session ticket of the server for later dials.
    pub(crate) fn remember(&mut self, ticket: &[u8]) -> Result<(), Bad> {
        match self {
            Secrets::Client(kernel) => kernel.handle_new_session_ticket(ticket).map_err(|_| Bad(alert::DECODE_ERROR)),
            Secrets::Server(_) => Err(Bad(alert::UNEXPECTED_MESSAGE)),
        }
    }
}
