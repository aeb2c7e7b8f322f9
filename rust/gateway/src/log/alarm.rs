//! An alarm in the decision log.

use serde::Serialize;

use super::threshold;

/// An alarm of the promise.
#[derive(Clone, Debug, Serialize)]
pub struct AlarmRecord {
    /// [`super::SCHEMA`].
    pub schema: &'static str,
    /// `alarm`.
    pub kind: &'static str,
    /// The request whose label raised it.
    pub id: String,
    /// When.
    pub ts: String,
    /// λ.
    pub lam: f64,
    /// α.
    pub alpha: f64,
    /// The group; none where the threshold is that of all.
    pub group: Option<String>,
    /// δ.
    pub delta: f64,
    /// Labels that it counted.
    pub n: u64,
    /// False acceptances among them.
    pub risk: f64,
    /// ln W.
    pub log_wealth: f64,
    /// What it does: `report` or `defer`.
    pub on_alarm: &'static str,
    /// τ from now on.
    #[serde(serialize_with = "threshold")]
    pub threshold: Option<f32>,
    /// SHA-256 of the router's file.
    pub router: String,
}
