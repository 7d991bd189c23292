//! Sockets whose other end is in the hands of a test, and certificates for handshakes over them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, ServerConfig, SupportedProtocolVersion};

use crate::credentials::Credentials;
use crate::socket::Socket;
use crate::suite::{KeyExchange, provider};
use crate::verify::{ClientCheck, Gate, ServerCheck};

#[path = "../../tests/forge/mod.rs"]
pub(crate) mod forge;

/// One end of a socket pair, both ends in the test's hands.
#[derive(Default)]
struct End {
    incoming: VecDeque<u8>,
    incoming_ended: bool,
    reader: Option<Waker>,
    outgoing: Vec<u8>,
    room: usize,
    writer: Option<Waker>,
    ended: bool,
    failing: bool,
    resets: bool,
}

#[derive(Clone, Default)]
pub(super) struct Fake(Rc<RefCell<End>>);

impl Fake {
    pub(super) fn feed(&self, bytes: &[u8]) {
        let mut end = self.0.borrow_mut();
        end.incoming.extend(bytes);
        wake(&mut end.reader);
    }

    pub(super) fn end_incoming(&self) {
        let mut end = self.0.borrow_mut();
        end.incoming_ended = true;
        wake(&mut end.reader);
    }

    pub(super) fn fail(&self) {
        let mut end = self.0.borrow_mut();
        end.failing = true;
        wake(&mut end.reader);
        wake(&mut end.writer);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.borrow().ended
    }

    pub(super) fn resets(&self) -> bool {
        self.0.borrow().resets
    }

    /// Takes what was written and makes room for more.
    pub(super) fn take(&self, room: usize) -> Vec<u8> {
        let mut end = self.0.borrow_mut();
        end.room = room;
        wake(&mut end.writer);
        std::mem::take(&mut end.outgoing)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Socket for Fake {
    fn poll_read(&self, context: &mut Context<'_>, slices: &mut [std::io::IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        let mut end = self.0.borrow_mut();
        if end.failing {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if end.incoming.is_empty() && !end.incoming_ended {
            end.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut count = 0;
        for slice in slices {
            let taken = slice.len().min(end.incoming.len());
            for (to, from) in slice.iter_mut().zip(end.incoming.drain(..taken)) {
                *to = from;
            }
            count += taken;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write(&self, context: &mut Context<'_>, slices: &[std::io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut end = self.0.borrow_mut();
        if end.failing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        assert!(!end.ended, "written behind the end");
        if end.room == 0 {
            end.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut count = 0;
        for slice in slices {
            let taken = slice.len().min(end.room);
            end.outgoing.extend_from_slice(&slice[..taken]);
            end.room -= taken;
            count += taken;
        }
        Poll::Ready(Ok(count))
    }

    fn sees_end(&self, _context: &mut Context<'_>) -> bool {
        let end = self.0.borrow();
        !end.failing && end.incoming_ended && end.incoming.is_empty()
    }

    fn end(&self) -> io::Result<()> {
        self.0.borrow_mut().ended = true;
        Ok(())
    }

    fn reset_on_close(&self) {
        self.0.borrow_mut().resets = true;
    }
}

/// Which side of the handshake the pump is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum We {
    Dial,
    Accept,
}

/// Version and suite of a test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flavour(&'static SupportedProtocolVersion, CipherSuite);

pub(super) const FLAVOURS: [Flavour; 6] = [
    Flavour(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
    Flavour(&TLS13, CipherSuite::TLS13_AES_256_GCM_SHA384),
    Flavour(&TLS13, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    Flavour(&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    Flavour(&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    Flavour(&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
];

impl Flavour {
    pub(super) fn is_tls13(self) -> bool {
        self.0.version == TLS13.version
    }

    /// A client of this flavour alone, with the certificate of `who`.
    pub(super) fn client(self, who: &Credentials) -> ClientConfig {
        let provider = self.provider();
        let bundle = Arc::new(who.bundle().clone());
        let check =
            ServerCheck { bundle, known: Arc::default(), algorithms: provider.signature_verification_algorithms };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.0])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(check))
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from((*who.leaf().key).clone())));
        config.enable_secret_extraction = true;
        config
    }

    /// The same for a server.
    pub(super) fn server(self, who: &Credentials) -> ServerConfig {
        let provider = self.provider();
        let bundle = Arc::new(who.bundle().clone());
        let gate: Arc<dyn Gate> = Arc::new(|_: &crate::Peer| Ok(()));
        let algorithms = provider.signature_verification_algorithms;
        let check = ClientCheck { bundle, known: Arc::default(), gate, algorithms, mandatory: true };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.0])
            .unwrap()
            .with_client_cert_verifier(Arc::new(check))
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from((*who.leaf().key).clone())));
        config.send_tls13_tickets = 4;
        config.enable_secret_extraction = true;
        config
    }

    fn provider(self) -> Arc<CryptoProvider> {
        let provider = provider(KeyExchange::Classical);
        Arc::new(CryptoProvider {
            cipher_suites: provider.cipher_suites.iter().filter(|known| known.suite() == self.1).copied().collect(),
            ..(*provider).clone()
        })
    }
}

pub(super) fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ salt).collect()
}
