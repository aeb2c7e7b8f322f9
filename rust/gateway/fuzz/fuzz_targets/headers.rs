//! Headers of clients and of device gateways.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cr2fast_gateway::internals::headers(data));
