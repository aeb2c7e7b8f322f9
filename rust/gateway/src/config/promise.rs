//! Settings of the promise's watch.
//!
//! In: `[promise]` of a device's file. Out: [`PromiseConfig`], or the line that is wrong.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::check::Checker;
use super::{ConfigError, Lined};

/// `[promise]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromiseFile {
    /// Chance of a wrong alarm at one operating point (and group), ever or per `window`.
    delta: Spanned<f64>,
    /// Which threshold decides.
    threshold: Threshold,
    /// What an alarm does.
    on_alarm: OnAlarm,
    /// First step of a rolling threshold, as a fraction of the range of the calibration's margins.
    step: Spanned<f64>,
    /// Labels after which an alarm that was not raised begins anew; never where it is absent.
    window: Option<Spanned<i64>>,
    /// Where alarms and thresholds are kept over a restart; nowhere where it is absent.
    state: Option<Spanned<PathBuf>>,
    /// Between two savings, ms: what a kill may lose.
    save_ms: Spanned<i64>,
    /// Requests that may wait for their labels; more are dropped and counted.
    queue: Spanned<i64>,
}

impl Default for PromiseFile {
    fn default() -> Self {
        Self {
            delta: Spanned::new(0..0, 0.01),
            threshold: Threshold::default(),
            on_alarm: OnAlarm::default(),
            step: Spanned::new(0..0, 0.1),
            window: None,
            state: None,
            save_ms: Spanned::new(0..0, 10_000),
            queue: Spanned::new(0..0, 4_096),
        }
    }
}

/// Which threshold decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Threshold {
    /// The calibrated one.
    #[default]
    Calibrated,
    /// One that starts there and follows the labels.
    Rolling,
}

impl Threshold {
    /// The word in files and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Calibrated => "calibrated",
            Self::Rolling => "rolling",
        }
    }
}

/// What an alarm does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAlarm {
    /// It is told; decisions stay as they are.
    #[default]
    Report,
    /// All requests at its point are deferred until another router is loaded.
    Defer,
}

impl OnAlarm {
    /// The word in files and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Defer => "defer",
        }
    }
}

/// How the promise is watched.
#[derive(Clone, Debug, PartialEq)]
pub struct PromiseConfig {
    /// δ of each alarm.
    pub delta: f64,
    /// Which threshold decides.
    pub threshold: Threshold,
    /// What an alarm does.
    pub on_alarm: OnAlarm,
    /// First step, as a fraction of the margins' range.
    pub step: f64,
    /// Labels of one alarm, at most.
    pub window: Option<u64>,
    /// Where the state is kept.
    pub state: Option<Lined<PathBuf>>,
    /// Between two savings.
    pub save: Duration,
    /// Requests that may wait.
    pub queue: usize,
}

impl Checker<'_> {
    pub(super) fn promise(&self, file: &PromiseFile) -> Result<PromiseConfig, ConfigError> {
        let window = file.window.as_ref();
        let window = window.map(|x| self.whole("promise.window", x, 100..=1 << 40)).transpose()?;
        Ok(PromiseConfig {
            delta: self.real("promise.delta", &file.delta, 1e-12..=0.999)?,
            threshold: file.threshold,
            on_alarm: file.on_alarm,
            step: self.real("promise.step", &file.step, 1e-6..=0.999)?,
            window,
            state: file.state.as_ref().map(|path| self.near(path)),
            save: self.ms("promise.save_ms", &file.save_ms)?,
            queue: self.size("promise.queue", &file.queue, 1..=1 << 20)?,
        })
    }
}
