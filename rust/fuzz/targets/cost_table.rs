//! Any text as `cost_table.json`: an error of bounded length, or a table whose costs are finite or refused.

#![no_main]

use cr2fast_core::CostTable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match CostTable::from_json(text) {
        Ok(table) => assert!(!table.models().is_empty()),
        Err(error) => assert!(error.to_string().len() < 2000, "{error}"),
    }
});
