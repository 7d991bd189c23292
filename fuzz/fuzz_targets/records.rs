//! TLS records once the handshake is over, whole and broken ones, through the pump.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lictor_tls::fuzz::records(bytes));
