//! What a fit can be told: the values of the paper (arXiv 2605.12001), and ours.
//!
//! In: options by name, as JSON. Out: a checked [`FitConfig`]. The paper prints neither the weights of
//! its losses nor how it chooses a checkpoint; those values are ours in both recipes.

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// Cost weights that single precision can learn.
pub const LAMS: (f64, f64) = (1e-6, 1e6);

/// Which output lengths price a query while the gate learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lengths {
    /// From the length predictor: what a deployed edge has.
    Predicted,
    /// The recorded ones: the paper's assumption.
    Known,
}

/// Where a fit starts from; every option can then be set by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipe {
    /// Networks learn a kernel smoother's view of the answers on jittered copies of the queries,
    /// under a cosine schedule: it orders queries better (`benches/paper`).
    #[default]
    Smoothed,
    /// Networks learn the answers themselves: the paper's recipe.
    Paper,
}

/// Hyperparameters of a fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // Options, each by itself.
pub struct FitConfig {
    /// What the values below started from.
    pub recipe: Recipe,
    /// Seed of everything random.
    pub seed: u64,
    /// Hidden width of heads and gate.
    pub hidden: usize,
    /// Passes over the data for the teacher.
    pub teacher_epochs: usize,
    /// Passes over the data for the gate.
    pub gate_epochs: usize,
    /// Rows per step.
    pub batch: usize,
    /// AdamW learning rate; the highest one under `cosine`.
    pub lr: f64,
    /// Warm up over a twentieth of the steps, then fall along a half cosine to a hundredth.
    pub cosine: bool,
    /// AdamW decoupled weight decay.
    pub weight_decay: f64,
    /// Global gradient norm is clipped to this.
    pub clip: f64,
    /// Dropout probability.
    pub dropout: f64,
    /// Factor of the cross-entropy in the teacher's loss.
    pub w_cls: f64,
    /// Factor of the pairwise ranking loss in the teacher's loss.
    pub w_rank: f64,
    /// Factor of the sign loss in the gate's loss.
    pub w_sign: f64,
    /// Factor of the margin regression in the gate's loss.
    pub w_margin: f64,
    /// Factor of the monotone penalty in the gate's loss.
    pub w_mono: f64,
    /// The fraction of (query, edge model) pairs with a dearer local model above which the monotone
    /// penalty is left out.
    pub mono_tolerance: f64,
    /// δ of the Huber loss.
    pub huber: f64,
    /// Cost weights λ sampled per step.
    pub lams_per_step: usize,
    /// Least λ that the gate learns; without it and `lam_high`, from the data (`lams`).
    pub lam_low: Option<f64>,
    /// Greatest λ that the gate learns.
    pub lam_high: Option<f64>,
    /// Fraction of the training split that is held out to choose checkpoints.
    pub holdout: f64,
    /// Ridge penalty of the length predictor.
    pub ridge: f64,
    /// The lengths that price the gate's targets.
    pub lengths: Lengths,
    /// Learn from the smoother rather than from the answers.
    pub smoothing: bool,
    /// s of the smoother's kernel exp(−s·‖x − x'‖ / median distance).
    pub kernel_scale: f64,
    /// The smoother's ridge ρ.
    pub kernel_ridge: f64,
    /// Share of the smoother in the teacher's p, beside the heads' own; 0 for none.
    pub smoother_share: f64,
    /// Most centres of the smoother in the teacher.
    pub smoother_centres: usize,
    /// The greatest number of jittered copies of the training rows; epochs take turns in them.
    pub copies: usize,
    /// Most rows of an epoch in a jittered copy; of more training rows each copy takes a part.
    pub rows_per_epoch: usize,
    /// Standard deviation of the jitter, in units of the standardised embedding's.
    pub jitter: f64,
    /// Length of the features' part of a row, beside the embedding's 1; 0: chosen by
    /// cross-validation.
    pub feature_weight: f64,
    /// Whether λ scales the gate's hidden units (FiLM) or only shifts them.
    pub film: bool,
    /// Whether the gate sees the link's state beside the query.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub link_features: bool,
}

impl FitConfig {
    /// The paper's recipe.
    pub fn paper() -> Self {
        Self {
            recipe: Recipe::Paper,
            seed: 0,
            hidden: 256,
            teacher_epochs: 20,
            gate_epochs: 20,
            batch: 256,
            lr: 3e-4,
            cosine: false,
            weight_decay: 0.01,
            clip: 1.0,
            dropout: 0.1,
            w_cls: 1.0,
            w_rank: 0.5,
            w_sign: 1.0,
            w_margin: 1.0,
            w_mono: 1.0,
            mono_tolerance: 0.03,
            huber: 0.1,
            lams_per_step: 8,
            lam_low: None,
            lam_high: None,
            holdout: 0.15,
            ridge: 1.0,
            lengths: Lengths::Predicted,
            smoothing: false,
            kernel_scale: 4.0,
            kernel_ridge: 2.0,
            smoother_share: 0.0,
            smoother_centres: 8192,
            copies: 8,
            rows_per_epoch: 65_536,
            jitter: 0.7,
            feature_weight: 1.0,
            film: true,
            link_features: false,
        }
    }

    /// Our recipe.
    pub fn smoothed() -> Self {
        Self {
            recipe: Recipe::Smoothed,
            smoothing: true,
            teacher_epochs: 40,
            gate_epochs: 40,
            lr: 2e-3,
            cosine: true,
            dropout: 0.0,
            w_rank: 0.0,
            holdout: 0.1,
            ..Self::paper()
        }
    }

    /// A recipe's values.
    pub fn of(recipe: Recipe) -> Self {
        match recipe {
            Recipe::Smoothed => Self::smoothed(),
            Recipe::Paper => Self::paper(),
        }
    }

    /// From JSON: the named recipe's values (ours where none is named), with those given in their
    /// place; unknown names are refused.
    pub fn from_json(json: &str) -> Result<Self> {
        let refuse = |e| TrainError::argument("fit options", "known names and values", e);
        let given: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(json).map_err(refuse)?;
        let recipe = given.get("recipe").cloned().unwrap_or_else(|| "smoothed".into());
        let recipe = serde_json::from_value(recipe).map_err(refuse)?;
        let mut all = serde_json::to_value(Self::of(recipe)).map_err(refuse)?;
        for (name, value) in given {
            all[name] = value;
        }
        let config: Self = serde_json::from_value(all).map_err(refuse)?;
        config.check()?;
        Ok(config)
    }

    /// Check every range; the first option out of range is named.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("hidden", self.hidden, cr2fast_core::MAX_WIDTH),
            ("teacher_epochs", self.teacher_epochs, 10_000),
            ("gate_epochs", self.gate_epochs, 10_000),
            ("batch", self.batch, 1 << 20),
            ("lams_per_step", self.lams_per_step, 1024),
            ("smoother_centres", self.smoother_centres, cr2fast_core::MAX_CENTRES),
            ("copies", self.copies, 1024),
            ("rows_per_epoch", self.rows_per_epoch, 1 << 24),
        ];
        for (name, v, max) in counts {
            if !(1..=max).contains(&v) {
                return Err(TrainError::argument(name, &format!("1 to {max}"), v));
            }
        }
        let positive = [
            ("lr", self.lr),
            ("clip", self.clip),
            ("huber", self.huber),
            ("ridge", self.ridge),
            ("kernel_scale", self.kernel_scale),
            ("kernel_ridge", self.kernel_ridge),
        ];
        for (name, v) in positive {
            if !(v.is_finite() && v > 0.0) {
                return Err(TrainError::argument(name, "a positive number", v));
            }
        }
        let not_negative = [
            ("weight_decay", self.weight_decay),
            ("w_cls", self.w_cls),
            ("w_rank", self.w_rank),
            ("w_sign", self.w_sign),
            ("w_margin", self.w_margin),
            ("w_mono", self.w_mono),
            ("mono_tolerance", self.mono_tolerance),
            ("jitter", self.jitter),
            ("feature_weight", self.feature_weight),
        ];
        for (name, v) in not_negative {
            if !(v.is_finite() && v >= 0.0) {
                return Err(TrainError::argument(name, "a number, at least 0", v));
            }
        }
        if !(0.0..=1.0).contains(&self.smoother_share) {
            let expected = "a number from 0 to 1";
            return Err(TrainError::argument("smoother_share", expected, self.smoother_share));
        }
        if self.smoother_share > 0.0 && !self.smoothing {
            let expected = "0 without smoothing, since there is no smoother then";
            return Err(TrainError::argument("smoother_share", expected, self.smoother_share));
        }
        self.lams()?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(TrainError::argument("dropout", "a number in [0, 1)", self.dropout));
        }
        if !(self.holdout > 0.0 && self.holdout <= 0.5) {
            return Err(TrainError::argument("holdout", "a number in (0, 0.5]", self.holdout));
        }
        Ok(())
    }

    /// The range of λ that was asked for; `None` where the data are to tell.
    pub fn lams(&self) -> Result<Option<(f64, f64)>> {
        let (low, high) = match (self.lam_low, self.lam_high) {
            (None, None) => return Ok(None),
            (Some(low), Some(high)) => (low, high),
            (low, _) => {
                let missing = if low.is_some() { "lam_high" } else { "lam_low" };
                return Err(TrainError::argument(missing, "both ends of a range, or none", "one"));
            }
        };
        if !(LAMS.0..=LAMS.1).contains(&low) {
            let expected = format!("a positive number, {:e} to {:e}", LAMS.0, LAMS.1);
            return Err(TrainError::argument("lam_low", &expected, low));
        }
        if !(high > low && high <= LAMS.1) {
            let expected = format!("a number above lam_low, at most {:e}", LAMS.1);
            return Err(TrainError::argument("lam_high", &expected, high));
        }
        if libm::log(high) <= libm::log(low) {
            return Err(TrainError::argument("lam_high", "a number well above lam_low", high));
        }
        Ok(Some((low, high)))
    }
}

impl Default for FitConfig {
    fn default() -> Self {
        Self::of(Recipe::default())
    }
}
