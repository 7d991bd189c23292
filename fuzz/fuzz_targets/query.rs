//! Targets of requests: path, query string, durations, and what of them is logged.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lictor_http::fuzz::target(bytes));
