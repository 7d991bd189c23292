//! The first bytes of a connection, read by our look into them and by the handshake.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lictor_tls::fuzz::hello(bytes));
