//! One generation of credentials: a leaf and the roots, with the library's configurations made from them.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{ClientConfig, ServerConfig, SignatureScheme, client::ResolvesClientCert};

use crate::bundle::Bundle;
use crate::error::Error;
use crate::frame::PROTOCOL;
use crate::hello::Hello;
use crate::known::Known;
use crate::leaf::Leaf;
use crate::remembered::Remembered;
use crate::suite::{KeyExchange, VERSIONS, provider};
use crate::tickets::Tickets;
use crate::verify::{ClientCheck, Gate, ServerCheck};

/// The one protocol name, which means nothing to a proxy: the original announces it for any traffic.
const ALPN_H2: &[u8] = b"h2";

/// What a connection may save of its handshake by what earlier ones left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reuse {
    /// Nothing: each connection makes a whole handshake.
    None,
    /// The secrets of an earlier handshake: what TLS itself calls resumption, with any peer.
    Sessions,
    /// Whole sessions: between two of our own proxies one carries connections one after another.
    #[default]
    Connections,
}

/// A leaf and the roots that were current together.
///
/// What is in it does not change: a rotation makes a new one, and with it new session caches, ticket keys and memory of peers, so that no session crosses
/// from one generation to the next.
pub struct Credentials {
    leaf: Leaf,
    bundle: Arc<Bundle>,
    known: Arc<Known>,
    remembered: Arc<Remembered>,
    clients: Clients,
    servers: Servers,
}

/// Client configurations by what may be reused.
struct Clients {
    none: Arc<ClientConfig>,
    sessions: Arc<ClientConfig>,
    connections: Arc<ClientConfig>,
}

/// Server configurations by what the client's hello says.
struct Servers {
    tls12: Arc<ServerConfig>,
    tls12_h2: Arc<ServerConfig>,
    tls13: Arc<ServerConfig>,
    tls13_h2: Arc<ServerConfig>,
    frames: Arc<ServerConfig>,
}

impl Credentials {
    pub(crate) fn new(
        leaf: Leaf,
        bundle: Bundle,
        key_exchange: KeyExchange,
        gate: &Arc<dyn Gate>,
    ) -> Result<Credentials, Error> {
        let bundle = Arc::new(bundle);
        let known = Arc::new(Known::default());
        let remembered = Arc::new(Remembered::default());
        let clients = Clients::new(client_config(&leaf, &bundle, &known, &remembered, key_exchange)?);
        let servers = Servers::new(&leaf, &bundle, &known, key_exchange, gate)?;
        Ok(Credentials { leaf, bundle, known, remembered, clients, servers })
    }

    /// Our certificate.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The roots.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The peers that have shown their certificates.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// Whether a leaf and roots are the ones in here, so that nothing need be rebuilt.
    pub(crate) fn are(&self, leaf: &Leaf, bundle: &Bundle) -> bool {
        self.leaf.chain() == leaf.chain() && self.bundle.digest() == bundle.digest()
    }

    /// Where tickets of the servers that we dial go.
    pub(crate) fn remembered(&self, reuse: Reuse) -> Option<&Arc<Remembered>> {
        (reuse != Reuse::None).then_some(&self.remembered)
    }

    pub(crate) fn client(&self, reuse: Reuse) -> &Arc<ClientConfig> {
        match reuse {
            Reuse::None => &self.clients.none,
            Reuse::Sessions => &self.clients.sessions,
            Reuse::Connections => &self.clients.connections,
        }
    }

    pub(crate) fn server(&self, hello: Hello, reuse: Reuse) -> &Arc<ServerConfig> {
        // Of TLS 1.2 the frames know nothing: its sessions cannot change their keys.
        if reuse == Reuse::Connections && hello.offers_frames && hello.offers_tls13 {
            return &self.servers.frames;
        }
        match (hello.offers_tls13, hello.offers_h2) {
            (false, false) => &self.servers.tls12,
            (false, true) => &self.servers.tls12_h2,
            (true, false) => &self.servers.tls13,
            (true, true) => &self.servers.tls13_h2,
        }
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        self.remembered.forget();
    }
}

impl Clients {
    fn new(sessions: ClientConfig) -> Clients {
        let mut none = sessions.clone();
        none.resumption = Resumption::disabled();
        let mut connections = sessions.clone();
        connections.alpn_protocols.insert(0, PROTOCOL.to_vec());
        Clients { none: Arc::new(none), sessions: Arc::new(sessions), connections: Arc::new(connections) }
    }
}

fn client_config(
    leaf: &Leaf,
    bundle: &Arc<Bundle>,
    known: &Arc<Known>,
    remembered: &Arc<Remembered>,
    key_exchange: KeyExchange,
) -> Result<ClientConfig, Error> {
    let provider = provider(key_exchange);
    let algorithms = provider.signature_verification_algorithms;
    let check = ServerCheck { bundle: Arc::clone(bundle), known: Arc::clone(known), algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(VERSIONS)
        .map_err(|source| Error::Configuration(source.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(check))
        .with_client_cert_resolver(Arc::new(Always(Arc::clone(&leaf.key))));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.enable_secret_extraction = true;
    config.resumption = Resumption::store(Arc::clone(remembered) as Arc<_>);
    Ok(config)
}

impl Servers {
    fn new(
        leaf: &Leaf,
        bundle: &Arc<Bundle>,
        known: &Arc<Known>,
        key_exchange: KeyExchange,
        gate: &Arc<dyn Gate>,
    ) -> Result<Servers, Error> {
        let provider = provider(key_exchange);
        let tickets = Tickets::new().map(Arc::new);
        let config = |mandatory| -> Result<ServerConfig, Error> {
            let check = ClientCheck {
                bundle: Arc::clone(bundle),
                known: Arc::clone(known),
                gate: Arc::clone(gate),
                algorithms: provider.signature_verification_algorithms,
                mandatory,
            };
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(VERSIONS)
                .map_err(|source| Error::Configuration(source.into()))?
                .with_client_cert_verifier(Arc::new(check))
                .with_cert_resolver(Arc::new(Always(Arc::clone(&leaf.key))));
            config.ignore_client_order = true;
            config.enable_secret_extraction = true;
            // Tickets carry the whole session, so a server remembers nothing per client.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = usize::from(tickets.is_some());
            if let Some(tickets) = &tickets {
                config.ticketer = Arc::clone(tickets) as Arc<_>;
            }
            Ok(config)
        };
        let with = |config: &ServerConfig, protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        let (tls12, tls13) = (config(true)?, config(false)?);
        Ok(Servers {
            tls12_h2: with(&tls12, ALPN_H2),
            tls13_h2: with(&tls13, ALPN_H2),
            frames: with(&tls13, PROTOCOL),
            tls12: Arc::new(tls12),
            tls13: Arc::new(tls13),
        })
    }
}

/// Shows the leaf to everybody: which roots a peer lists may lag behind during a rotation, and names do not matter.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _root_hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key: &dyn SigningKey = self.0.key.as_ref();
        key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
