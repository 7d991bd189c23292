//! Certificate signing requests, and what is signed for them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lictor_ca::fuzz::csr(bytes));
