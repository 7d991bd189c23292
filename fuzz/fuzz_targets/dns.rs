//! Packets to the DNS server, answered from a small catalog.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lictor_dns::fuzz::packet(bytes));
