//! Bodies of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cr2fast_gateway::internals::request(data));
