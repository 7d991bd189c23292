//! What the library keeps of a connection after its handshake: the secrets that further keys and tickets come from.

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{ExtractedSecrets, ProtocolVersion, SupportedCipherSuite};
use rustls_pki_types::ServerName;

use crate::record::{Bad, Opener, Sealer, alert};
use crate::remembered::Remembered;

/// The library's part of an established connection.
pub(crate) enum Secrets {
    /// We dialled.
    Client(Dialled),
    /// We accepted.
    Server(Box<KernelConnection<ServerConnectionData>>),
}

/// What makes sessions to resume out of a server's tickets. Shared with [`Remembered`], which goes on with it after the connection.
pub(crate) type Source = Arc<Mutex<KernelConnection<ClientConnectionData>>>;

/// The library's part of a connection that we opened.
pub(crate) struct Dialled {
    pub(crate) kernel: Source,
    /// Where tickets go, and under which name; nowhere when nothing is resumed.
    remembered: Option<(Arc<Remembered>, ServerName<'static>)>,
}

/// The three parts of an established connection.
pub(crate) struct Parts {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) secrets: Secrets,
}

impl Parts {
    pub(crate) fn of_client(
        connection: UnbufferedClientConnection,
        remembered: Option<(Arc<Remembered>, ServerName<'static>)>,
    ) -> Result<Parts, rustls::Error> {
        let (extracted, kernel) = connection.dangerous_into_kernel_connection()?;
        let (version, suite) = (kernel.protocol_version(), kernel.negotiated_cipher_suite());
        let kernel = Arc::new(Mutex::new(kernel));
        Parts::new(extracted, version, suite, Secrets::Client(Dialled { kernel, remembered }))
    }

    pub(crate) fn of_server(connection: UnbufferedServerConnection) -> Result<Parts, rustls::Error> {
        let (extracted, kernel) = connection.dangerous_into_kernel_connection()?;
        let (version, suite) = (kernel.protocol_version(), kernel.negotiated_cipher_suite());
        Parts::new(extracted, version, suite, Secrets::Server(Box::new(kernel)))
    }

    fn new(
        extracted: ExtractedSecrets,
        version: ProtocolVersion,
        suite: SupportedCipherSuite,
        secrets: Secrets,
    ) -> Result<Parts, rustls::Error> {
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
            Secrets::Client(dialled) => {
                let mut kernel = dialled.kernel.lock();
                (kernel.update_tx_secret(), kernel.negotiated_cipher_suite())
            }
            Secrets::Server(kernel) => (kernel.update_tx_secret(), kernel.negotiated_cipher_suite()),
        };
        let update = update.map_err(|_| Bad(alert::INTERNAL_ERROR))?;
        Sealer::new(update, ProtocolVersion::TLSv1_3, suite).ok_or(Bad(alert::INTERNAL_ERROR))
    }

    /// Replaces the keys that we receive under.
    pub(crate) fn renew_opener(&mut self) -> Result<Opener, Bad> {
        let update = match self {
            Secrets::Client(dialled) => dialled.kernel.lock().update_rx_secret(),
            Secrets::Server(kernel) => kernel.update_rx_secret(),
        };
        let update = update.map_err(|_| Bad(alert::INTERNAL_ERROR))?;
        Opener::new(update, ProtocolVersion::TLSv1_3).ok_or(Bad(alert::INTERNAL_ERROR))
    }

    /// Keeps a session ticket of the server for later dials.
    pub(crate) fn remember(&mut self, ticket: &[u8]) -> Result<(), Bad> {
        match self {
            Secrets::Client(Dialled { kernel, remembered }) => {
                // It is read first, so that only what is a ticket is kept.
                kernel.lock().handle_new_session_ticket(ticket).map_err(|_| Bad(alert::DECODE_ERROR))?;
                if let Some((remembered, name)) = remembered {
                    remembered.keep(name, kernel, ticket);
                }
                Ok(())
            }
            Secrets::Server(_) => Err(Bad(alert::UNEXPECTED_MESSAGE)),
        }
    }
}

impl Drop for Dialled {
    /// What is remembered of a connection keeps no keys of it: its traffic stays secret from whoever looks later.
    fn drop(&mut self) {
        if Arc::strong_count(&self.kernel) > 1 {
            let mut kernel = self.kernel.lock();
            // TLS 1.2, which has no such keys, is never shared; and what fails leaves no connection to break.
            let _ = (kernel.update_tx_secret(), kernel.update_rx_secret());
        }
    }
}
