//! Our end of the mesh: the credentials in force, and how connections are accepted and dialled with them.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use lictor_model::identity::DEFAULT_NAMESPACE;
use rustls::HandshakeKind;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

use crate::bundle::Bundle;
use crate::credentials::{Credentials, Reuse};
use crate::error::{Error, Refusal};
use crate::frame::{self, Framing};
use crate::handshake::{self, Incoming};
use crate::hello::Hello;
use crate::leaf::Leaf;
use crate::peer::Peer;
use crate::pump::Line;
use crate::record::{alert, content};
use crate::secrets::Parts;
use crate::session::{About, Session};
use crate::suite::KeyExchange;
use crate::verify::Gate;

/// Holds the credentials and secures connections with whichever are current when a handshake starts: a rotation
/// re-opens no listener and touches no live connection.
pub struct Mesh {
    key_exchange: KeyExchange,
    gate: Arc<dyn Gate>,
    current: ArcSwapOption<Credentials>,
}

impl Mesh {
    /// Without credentials; until they are installed every handshake fails with [`Error::NoCredentials`].
    pub fn new(key_exchange: KeyExchange, gate: Arc<dyn Gate>) -> Mesh {
        Mesh { key_exchange, gate, current: ArcSwapOption::empty() }
    }

    /// Puts a leaf and roots into force for every later handshake. The same ones again change nothing.
    pub fn install(&self, leaf: Leaf, bundle: Bundle) -> Result<(), Error> {
        if self.current.load().as_ref().is_some_and(|current| current.are(&leaf, &bundle)) {
            return Ok(());
        }
        let next = Credentials::new(leaf, bundle, self.key_exchange, &self.gate)?;
        self.current.store(Some(Arc::new(next)));
        Ok(())
    }

    /// Takes the credentials out of force: until others are installed every handshake fails.
    pub fn withdraw(&self) {
        self.current.store(None);
    }

    /// Whether credentials have been installed.
    pub fn has_credentials(&self) -> bool {
        self.current.load().is_some()
    }

    /// What is in force.
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    /// Secures a connection that a client opened to us. The client is authenticated and has passed the gate when this
    /// returns; nothing has been sent behind the handshake. The caller sets the time limit; dropping the future closes
    /// the connection.
    pub async fn accept(&self, mut stream: TcpStream, reuse: Reuse) -> Result<Session, Error> {
        let mut incoming = Incoming::default();
        incoming.next_record(&mut stream).await?;
        let credentials = self.credentials().ok_or(Error::NoCredentials)?;
        let hello = Hello::parse(incoming.first_record());
        if let Some([major, minor]) = hello.too_old {
            const FATAL: u8 = 2;
            let alert = [content::ALERT, major, minor, 0, 2, FATAL, alert::PROTOCOL_VERSION];
            handshake::farewell(&mut stream, &alert).await;
            let why = rustls::PeerIncompatible::Tls12NotOfferedOrEnabled;
            return Err(Error::Handshake(rustls::Error::PeerIncompatible(why).into()));
        }
        let mut half = UnbufferedServerConnection::new(Arc::clone(credentials.server(hello, reuse)))
            .map_err(|source| Error::Configuration(source.into()))?;
        let mut outgoing = Vec::new();
        handshake::run(&mut half, &mut stream, &mut incoming, &mut outgoing).await?;

        let resumed = half.handshake_kind() == Some(HandshakeKind::Resumed);
        let client = first_certificate(&credentials, half.peer_certificates())
            .and_then(|client| if resumed { still_valid(client) } else { Ok(client) })
            .and_then(|client| self.gate.admit(&client).map(|()| client));
        let framing = framing(half.alpn_protocol());
        let parts = Parts::of_server(half).map_err(|source| Error::Handshake(source.into()))?;
        let peer = client.map(|peer| About { peer, resumed, framing, credentials });
        finish(stream, parts, outgoing, incoming, peer).await
    }

    /// Secures a connection that we opened. The server is authenticated and is the one that `target` names when this
    /// returns. Our last words of the handshake may still have to be sent: they travel with the first data, or by
    /// [`Session::flush`]. That the server accepts us is known only when it answers: TLS 1.3 ends on the client's word.
    pub async fn connect(&self, mut stream: TcpStream, target: &Target, reuse: Reuse) -> Result<Session, Error> {
        let credentials = self.credentials().ok_or(Error::NoCredentials)?;
        let mut half = UnbufferedClientConnection::new(Arc::clone(credentials.client(reuse)), target.name.clone())
            .map_err(|source| Error::Configuration(source.into()))?;
        let (mut incoming, mut outgoing) = (Incoming::default(), Vec::new());
        handshake::run(&mut half, &mut stream, &mut incoming, &mut outgoing).await?;

        let resumed = half.handshake_kind() == Some(HandshakeKind::Resumed);
        let server = first_certificate(&credentials, half.peer_certificates())
            .and_then(|server| if resumed { still_valid(server) } else { Ok(server) })
            .and_then(|server| target.expect(server));
        let framing = framing(half.alpn_protocol());
        let remembered = credentials.remembered(reuse).map(|all| (Arc::clone(all), target.name.clone()));
        let parts = Parts::of_client(half, remembered).map_err(|source| Error::Handshake(source.into()))?;
        let peer = server.map(|peer| About { peer, resumed, framing, credentials });
        finish(stream, parts, outgoing, incoming, peer).await
    }
}

/// Makes the session, or turns the peer away with an alert under the new keys.
async fn finish(
    mut stream: TcpStream,
    mut parts: Parts,
    mut outgoing: Vec<u8>,
    incoming: Incoming,
    about: Result<About, Refusal>,
) -> Result<Session, Error> {
    match about {
        Ok(about) => {
            let line = Line::new(stream, parts, outgoing, incoming.into_rest(), about.framing);
            Ok(Session::new(line, about))
        }
        Err(refusal) => {
            if parts.sealer.append_alert(alert::BAD_CERTIFICATE, &mut outgoing).is_ok() {
                handshake::farewell(&mut stream, &outgoing).await;
            }
            Err(Error::Refused(refusal))
        }
    }
}

/// What was agreed on.
fn framing(protocol: Option<&[u8]>) -> Framing {
    if protocol == Some(frame::PROTOCOL) { Framing::Frames } else { Framing::Bare }
}

fn first_certificate(credentials: &Credentials, chain: Option<&[CertificateDer<'_>]>) -> Result<Arc<Peer>, Refusal> {
    credentials.known().peer(chain.and_then(<[_]>::first).ok_or(Refusal::NoCertificate)?)
}

/// A resumed handshake checks no chain: the roots are those of the first one (a session ends with its generation), but
/// time has passed.
fn still_valid(peer: Arc<Peer>) -> Result<Arc<Peer>, Refusal> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if i64::try_from(now).unwrap_or(i64::MAX) > peer.not_after { Err(Refusal::Expired) } else { Ok(peer) }
}

/// Where a dial goes and who must answer there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    datacenter: String,
    service: String,
    /// Not a name that is sent: it is what the library keeps sessions under, made so that no session is resumed at
    /// another address or for another identity.
    name: ServerName<'static>,
}

impl Target {
    /// The given service of a datacenter, in the default namespace, at an address or a name that stands for some.
    pub fn new(place: impl fmt::Display, datacenter: &str, service: &str) -> Target {
        let key = format!("{place}/{}/{}", datacenter.to_ascii_lowercase(), service.to_ascii_lowercase());
        let hash = digest::digest(&digest::SHA256, key.as_bytes());
        let text: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        // Letters and digits are always a name.
        let name = ServerName::try_from(format!("t{text}"))
            .unwrap_or_else(|_| ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()));
        Target { datacenter: datacenter.to_owned(), service: service.to_owned(), name }
    }

    /// The service that is expected.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The datacenter that is expected.
    pub fn datacenter(&self) -> &str {
        &self.datacenter
    }

    fn expect(&self, server: Arc<Peer>) -> Result<Arc<Peer>, Refusal> {
        if server.identity.is(DEFAULT_NAMESPACE, &self.datacenter, &self.service) {
            return Ok(server);
        }
        let want = format!(
            "spiffe://{}/ns/{DEFAULT_NAMESPACE}/dc/{}/svc/{}",
            server.identity.host, self.datacenter, self.service
        );
        Err(Refusal::Mismatch { got: server.uri.clone(), want })
    }
}
