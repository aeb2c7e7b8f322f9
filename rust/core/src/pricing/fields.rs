//! Which fields a cost table may have: an unknown one is an error that names the nearest known one.
//!
//! In: the parsed JSON. Out: nothing, or an error. What costs do not read is kept under `note`,
//! `intervals`, `provenance` and `extra` of any object, whatever these hold. Samples of a link are rows
//! of measurements, whose other columns are kept: costs need each of the three that they read.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::pricing::version::Version;

/// Kept in every object, and never looked into.
const KEPT: [&str; 4] = ["note", "intervals", "provenance", "extra"];

const TABLE: &[&str] =
    &["schema", "name", "source", "reference_model", "normalizers", "link", "ue", "models"];
const SHARES: &[&str] = &["latency", "energy"];
const NORMALIZERS: &[&str] = &["T0_s", "E0_j", "definition"];
const UE: &[&str] = &["p_tx_w", "p_rx_w", "p_idle_w"];
const MODEL: &[&str] = &[
    "name",
    "tier",
    "tau0_s",
    "beta_pre_s",
    "beta_dec_s",
    "phi_pre",
    "phi_dec",
    "kappa_pre",
    "kappa_dec",
    "p_active_w",
    "p_prefill_w",
    "p_decode_w",
    "p_idle_w",
    "p_idle_unloaded_w",
];
const PRICES: &[&str] = &["usd_per_input_token", "usd_per_output_token", "usd_per_request"];
const LINK: &[&str] = &["kind", "bits_per_input_token", "bits_per_output_token"];
const SHANNON: &[&str] = &[
    "bandwidth_ul_hz",
    "bandwidth_dl_hz",
    "tx_power_ue_w",
    "tx_power_ap_w",
    "noise_psd_dbm_hz",
    "reference_gain_db",
    "path_loss_exponent",
    "distance_m",
    "fading",
    "rtt_s",
];
const EMPIRICAL: &[&str] = &["samples", "rtt_source", "flags"];
/// Longest name shown.
const SHOWN: usize = 60;

/// Refuse the first field of `object` that is in none of `names`; `path` says where it stands.
fn check_object(
    object: &Value,
    names: &[&[&str]],
    version: Version,
    path: impl Fn() -> String,
) -> Result<()> {
    let Some(map) = object.as_object() else { return Ok(()) };
    let known = || KEPT.iter().chain(names.iter().copied().flatten());
    let Some(name) = map.keys().find(|name| !known().any(|k| k == name)) else { return Ok(()) };
    let short: String = name.chars().take(SHOWN).collect();
    let nearest = known().min_by_key(|k| strsim::damerau_levenshtein(k, &short));
    let later = version == Version::One
        && (PRICES.contains(&short.as_str()) || ["shares", "price", "D0_usd"].contains(&&*short));
    let hint = if later { "; it belongs to schema \"cr2fast.cost_table/2\"" } else { "" };
    Err(Error::CostTable {
        field: path() + &short,
        expected: format!(
            "a field of schema \"{}\" (the nearest is {:?}; what costs do not read goes under \
             \"extra\")",
            version.schema(),
            nearest.expect("names are known"),
        ),
        got: format!("an unknown one{hint}"),
    })
}

/// Refuse unknown fields anywhere in a table.
pub fn check(raw: &Value, version: Version) -> Result<()> {
    let two = version == Version::Two;
    let when = |names: &'static [&'static str]| if two { names } else { &[] };
    let word = version.shares();
    check_object(raw, &[TABLE, &[word]], version, String::new)?;
    check_object(&raw[word], &[SHARES, when(&["price"])], version, || format!("{word}."))?;
    let scale = &raw["normalizers"];
    check_object(scale, &[NORMALIZERS, when(&["D0_usd"])], version, || "normalizers.".into())?;
    check_object(&raw["ue"], &[UE], version, || "ue.".into())?;
    for (i, model) in raw["models"].as_array().into_iter().flatten().enumerate() {
        let name = || model["name"].as_str().unwrap_or("").chars().take(SHOWN).collect::<String>();
        let path = || format!("models[{i}] ({}).", name());
        check_object(model, &[MODEL, when(PRICES)], version, path)?;
    }
    let link = &raw["link"];
    let of_kind = match link["kind"].as_str() {
        Some("shannon") => SHANNON,
        Some("empirical") => EMPIRICAL,
        Some("none") => &[],
        // The kind itself is the error.
        _ => return Ok(()),
    };
    check_object(link, &[LINK, of_kind], version, || "link.".into())
}
