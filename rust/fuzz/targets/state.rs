//! Any bytes as a saved alarm or rolling threshold: an error, or a state that goes on.

#![no_main]

use cr2fast_core::{RiskAlarm, RollingThreshold};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut alarm) = RiskAlarm::from_bytes(bytes) {
        assert_eq!(RiskAlarm::from_bytes(&alarm.to_bytes()).unwrap().to_bytes(), alarm.to_bytes());
        let before = alarm.n();
        if alarm.update(1.0, 1.0).is_ok() {
            assert_eq!(alarm.n(), before + 1);
            assert!(!alarm.log_wealth().is_nan());
        }
    }
    if let Ok(rolling) = RollingThreshold::from_bytes(bytes) {
        let again = RollingThreshold::from_bytes(&rolling.to_bytes()).unwrap();
        assert_eq!(again.to_bytes(), rolling.to_bytes());
        assert!(!rolling.threshold().is_nan());
    }
});
