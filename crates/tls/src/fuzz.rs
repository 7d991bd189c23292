//! What the fuzzer calls: bytes before, during and after a handshake. Behind it the bytes are a script of what a peer with
//! the right keys does, see `pump/scripts.rs`.

use std::sync::{Arc, OnceLock};

use rustls::server::UnbufferedServerConnection;

use crate::bundle::Bundle;
use crate::credentials::{Credentials, Reuse};
use crate::handshake::{Incoming, Step, advance};
use crate::hello::Hello;
use crate::leaf::Leaf;
use crate::pump::fake::forge;
use crate::suite::KeyExchange;
use crate::verify::Gate;

pub use crate::pump::scripts::{frames, records};

/// What a stranger sends first: our look into it agrees with nothing but itself, and the handshake only refuses.
pub fn hello(bytes: &[u8]) {
    let (mut incoming, mut outgoing) = (Incoming::default(), Vec::new());
    incoming.push(bytes);
    if !incoming.show_record() {
        return;
    }
    let config = Arc::clone(credentials().server(Hello::parse(incoming.first_record()), Reuse::Connections));
    let mut half = UnbufferedServerConnection::new(config).unwrap();
    while let Ok(step) = advance(&mut half, &mut incoming, &mut outgoing) {
        assert_eq!(step, Step::Blocked, "a handshake without our keys came to its end");
        if !incoming.show_record() {
            break;
        }
    }
}

fn credentials() -> &'static Credentials {
    static CREDENTIALS: OnceLock<Credentials> = OnceLock::new();
    CREDENTIALS.get_or_init(|| {
        let authority = forge::Authority::new("root");
        let issued = authority.leaf("web");
        let leaf = Leaf::from_pem(&issued.certificates, &issued.key).unwrap();
        let gate: Arc<dyn Gate> = Arc::new(|_: &crate::Peer| Ok(()));
        let bundle = Bundle::from_pem([authority.pem.as_str()]).unwrap();
        Credentials::new(leaf, bundle, KeyExchange::Classical, &gate).unwrap()
    })
}

#[cfg(test)]
mod tests {
    use lictor_testkit::corpus;

    #[test]
    fn what_the_fuzzer_keeps_for_records_breaks_no_promise() {
        corpus::replay("records", super::records);
    }

    #[test]
    fn what_the_fuzzer_keeps_for_frames_breaks_no_promise() {
        corpus::replay("frames", super::frames);
    }

    #[test]
    fn what_the_fuzzer_keeps_for_hellos_breaks_no_promise() {
        corpus::replay("hello", super::hello);
    }
}
