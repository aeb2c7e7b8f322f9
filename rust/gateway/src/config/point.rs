//! The operating point of requests that name none: in the file, or chosen by `cr2fast choose`.
//!
//! In: `lam` and `alpha` of `[router]`, or `point`, the JSON that `cr2fast choose --write` wrote. Out:
//! [`PointConfig`], or the line that is wrong. A chosen point belongs to one router, whose hash it names.

use std::path::PathBuf;

use cr2fast_core::{Error, read_bounded};
use serde::Deserialize;

use super::check::Checker;
use super::file::RouterFile;
use super::{ConfigError, Lined};

/// The format of a chosen point.
const FORMAT: &str = "cr2fast.point/1";
/// Largest file read, as in Python.
const MAX_BYTES: u64 = 256 << 20;

/// λ and α of requests that name none.
#[derive(Clone, Debug, PartialEq)]
pub struct PointConfig {
    /// λ.
    pub lam: Lined<f64>,
    /// α.
    pub alpha: Lined<f64>,
    /// The file of both, where they were chosen.
    pub file: Option<Lined<PathBuf>>,
    /// SHA-256 of the router's file that the point was chosen for, where one was.
    pub chosen_for: Option<Lined<String>>,
}

/// What is read of a chosen point.
#[derive(Deserialize)]
struct Chosen {
    format: String,
    lam: f64,
    alpha: f64,
    router: String,
}

impl PointConfig {
    /// Refuse a router that the point was not chosen for.
    pub fn check_router(&self, hash: &str) -> Result<(), (usize, String)> {
        let Some(of) = self.chosen_for.as_ref().filter(|of| of.value != hash) else {
            return Ok(());
        };
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let words = format!(
            "router.point: expected the router that the point was chosen for (sha256 {}), got {}; choose again after each calibration, or name lam and alpha",
            short(&of.value),
            short(hash)
        );
        Err((of.line, words))
    }
}

impl Checker<'_> {
    pub(super) fn point(&self, router: &RouterFile) -> Result<PointConfig, ConfigError> {
        let path = match (&router.lam, &router.alpha, &router.point) {
            (Some(lam), Some(alpha), None) => {
                let (lam, alpha) = (self.lined(lam.clone()), self.lined(alpha.clone()));
                return Ok(PointConfig { lam, alpha, file: None, chosen_for: None });
            }
            (None, None, Some(path)) => path,
            (_, _, Some(path)) => {
                let expected = "no lam and alpha beside it";
                return Err(self.wrong(path, "router.point", expected, &"one of them"));
            }
            (lam, alpha, None) => {
                let words = "router: expected lam and alpha, or point = \"point.json\" (cr2fast choose --write), got neither both nor that";
                let given = lam.as_ref().or(alpha.as_ref());
                let line = given.map_or(self.line(&router.path), |x| self.line(x));
                return Err(self.error(Some(line), words.into()));
            }
        };
        let at = self.near(path);
        let expected = "a point as cr2fast choose --write wrote it";
        let bad = |got: String| {
            let got = format!("{got} in {}", at.value.display());
            let words = format!("router.point: expected {expected}, got {got}");
            self.error(Some(at.line), words.chars().take(500).collect())
        };
        let large =
            |got: String| Error::argument("point", format!("at most {MAX_BYTES} bytes"), got);
        let bytes = read_bounded(&at.value, MAX_BYTES, large).map_err(|e| bad(e.to_string()))?;
        let chosen: Chosen = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let Chosen { format, lam, alpha, router } = chosen;
        if format != FORMAT {
            let format: String = format.chars().take(60).collect();
            return Err(bad(format!("one of format {format:?}")));
        }
        if router.len() != 64 || !router.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad("one that names no router".into()));
        }
        let lined = |value| Lined { value, line: at.line };
        let chosen_for = Some(Lined { value: router, line: at.line });
        let (lam, alpha) = (lined(lam), lined(alpha));
        Ok(PointConfig { lam, alpha, file: Some(at), chosen_for })
    }
}
