//! Rules of policies and older tokens, and their translation.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lictor_state::fuzz::rules(bytes));
