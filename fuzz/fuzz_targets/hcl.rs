//! Configuration files and rules as people write them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lictor_notation::fuzz::hcl(bytes));
