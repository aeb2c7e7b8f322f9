//! Any bytes as `router.safetensors`: an error, or a router whose decisions do not panic.
//!
//! When fuzzing, a container's hash is not checked, so that what lies behind it is reached.

#![no_main]

use cr2fast_core::{DeviceRouter, Router};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(router) = Router::from_bytes(bytes) else { return };
    let again = router.to_bytes().expect("what was read can be written");
    assert_eq!(Router::from_bytes(&again).expect("and read again").to_bytes().unwrap(), again);
    let Some(calibration) = router.calibration() else { return };
    let row = vec![0.25_f32; router.dim()];
    for (&lam, &alpha) in calibration.lams.iter().zip(&calibration.alphas) {
        if let Ok(device) = DeviceRouter::new(&router, lam, alpha) {
            let _ = device.route(&row, false);
        }
    }
});
