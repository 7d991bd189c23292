//! A handshake in memory: whether a certificate, its key and its root belong together, and whom it names.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig, ServerConnection};
use rustls::{Error, SignatureScheme};
use x509_parser::extensions::{GeneralName, ParsedExtension};

/// The client proves who it is; who the server is does not matter here.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384]
    }
}

/// Shakes hands with `cert` and `key` on both sides, the server trusting `ca` alone, and looks for `uri` in the name.
pub(crate) fn hold(cert: &str, key: &str, ca: &str, uri: &str) -> Result<(), String> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let key = || PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(root.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier.build().map_err(|e| e.to_string())?)
        .with_single_cert(chain.clone(), key()?)
        .map_err(|e| e.to_string())?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(chain.clone(), key()?)
        .map_err(|e| e.to_string())?;
    let mut server = ServerConnection::new(Arc::new(server)).map_err(|e| e.to_string())?;
    let name = ServerName::try_from("any").map_err(|e| e.to_string())?;
    let mut client = ClientConnection::new(Arc::new(client), name).map_err(|e| e.to_string())?;
    while client.is_handshaking() || server.is_handshaking() {
        carry(|wire| client.write_tls(wire), |wire| server.read_tls(wire))?;
        server.process_new_packets().map_err(|e| format!("the certificate is refused: {e}"))?;
        carry(|wire| server.write_tls(wire), |wire| client.read_tls(wire))?;
        client.process_new_packets().map_err(|e| e.to_string())?;
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|e| e.to_string())?;
    let names: Vec<&str> = parsed
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    if names == [uri] { Ok(()) } else { Err(format!("the certificate names {names:?}, not {uri:?}")) }
}

fn carry(
    mut write: impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
    mut read: impl FnMut(&mut &[u8]) -> io::Result<usize>,
) -> Result<(), String> {
    let mut wire = Vec::new();
    while write(&mut wire).map_err(|e| e.to_string())? > 0 {}
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        read(&mut rest).map_err(|e| e.to_string())?;
    }
    Ok(())
}
