//! Sessions that carry one connection after another, both ends ours, over an unkind wire.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lictor_tls::fuzz::frames(bytes));
