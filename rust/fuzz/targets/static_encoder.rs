//! Any bytes as a static encoder: an error, or an encoder that encodes any text. The first bytes, up to
//! a zero, are the text.

#![no_main]

use cr2fast_core::StaticEncoder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(0);
    let (text, file) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end..]);
    let Ok(encoder) = StaticEncoder::from_bytes(file.get(1..).unwrap_or_default()) else { return };
    if let Ok(vector) = encoder.encode(&text) {
        assert_eq!(vector.len(), encoder.dim());
        assert!(vector.iter().all(|x| x.is_finite()));
    }
});
