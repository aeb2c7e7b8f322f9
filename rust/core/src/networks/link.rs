//! The link as the gate may see it, beside the embedding and the cost weight (ours).
//!
//! In: ξ. Out: z(ξ) = ((log τ_rtt, log R_ul, log R_dl) − shift)·scale, kept within three standard
//! deviations, and W_ξ·z, which is added to the gate's hidden row W1·LN(e).
//!
//! shift is the mean over training's link states and scale the inverse of their standard deviation, so
//! z = 0, which adds nothing, stands for a link that nobody measured. What does not vary in training is
//! 0 for every link. The sum is made of products and additions that are rounded one by one, in one order:
//! the same bits on every processor.

use crate::base::checks::{check_finite, check_len};
use crate::base::error::{Error, Result};
use crate::pricing::link::LinkState;

/// What of the link is looked at.
pub const LINK_FEATURES: [&str; 3] = ["log rtt_s", "log rate_ul_bps", "log rate_dl_bps"];
/// Number of these.
pub const LINK: usize = LINK_FEATURES.len();

/// Standard deviations within which a number is kept.
const BOUND: f64 = 3.0;
/// Round trips below a microsecond are one: a logarithm needs a positive time.
const LEAST_RTT_S: f64 = 1e-6;
/// Logarithms that spread by less are constant.
const LEAST_SD: f64 = 1e-6;

/// How link states become z.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkScale {
    /// Mean of each logarithm.
    pub shift: [f32; LINK],
    /// Inverse standard deviation of each, 0 for one that does not vary.
    pub scale: [f32; LINK],
}

impl LinkScale {
    /// From training's link states; an error where none of the three varies.
    pub fn fit(states: &[LinkState]) -> Result<Self> {
        let n = states.len().max(1) as f64;
        let mut made = Self::default();
        for j in 0..LINK {
            let values = || states.iter().map(|s| logs(s)[j]);
            let mean = values().sum::<f64>() / n;
            let sd = (values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt();
            made.shift[j] = mean as f32;
            made.scale[j] = if sd > LEAST_SD { (1.0 / sd) as f32 } else { 0.0 };
        }
        if made.scale == [0.0; LINK] {
            return Err(Error::argument(
                "link_features",
                "a cost table whose link varies (measured samples, or fading)",
                "one whose link is always the same",
            ));
        }
        Ok(made)
    }

    /// z(ξ).
    pub fn of(&self, state: &LinkState) -> [f32; LINK] {
        let logs = logs(state);
        std::array::from_fn(|j| {
            let z = (logs[j] - f64::from(self.shift[j])) * f64::from(self.scale[j]);
            z.clamp(-BOUND, BOUND) as f32
        })
    }
}

fn logs(state: &LinkState) -> [f64; LINK] {
    [state.rtt_s.max(LEAST_RTT_S), state.rate_ul_bps, state.rate_dl_bps].map(libm::log)
}

/// What the gate makes of the link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkWeights {
    /// From ξ to z.
    pub scale: LinkScale,
    /// W_ξ (3, h), a row per number.
    pub w: Vec<f32>,
}

impl LinkWeights {
    pub(crate) fn check(&self, hidden: usize) -> Result<()> {
        check_len("gate.link.w", LINK * hidden, self.w.len())?;
        check_finite("gate.link.w", &self.w)?;
        check_finite("gate.link.shift", &self.scale.shift)?;
        check_finite("gate.link.scale", &self.scale.scale)?;
        match self.scale.scale.iter().find(|s| **s < 0.0) {
            Some(s) => Err(Error::argument("gate.link.scale", "numbers, at least 0", s)),
            None => Ok(()),
        }
    }

    /// Add W_ξ·z to a hidden row.
    pub(crate) fn add(&self, z: &[f32; LINK], hidden: &mut [f32]) {
        let h = self.w.len() / LINK;
        for (z, w) in z.iter().zip(self.w.chunks_exact(h)) {
            for (u, w) in hidden.iter_mut().zip(w) {
                *u += w * z;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(rtt_s: f64, rate: f64) -> LinkState {
        LinkState { rate_ul_bps: rate, rate_dl_bps: 4e7, rtt_s }
    }

    #[test]
    fn logarithms_are_standardised_and_bounded() -> Result<()> {
        let e = std::f64::consts::E;
        let scale = LinkScale::fit(&[state(0.01, 1e6), state(0.01 * e * e, 1e6 * e * e)])?;
        let z = scale.of(&state(0.01 * e * e, 1e6));
        assert!((z[0] - 1.0).abs() < 1e-5 && (z[1] + 1.0).abs() < 1e-5, "{z:?}");
        assert_eq!(z[2], 0.0, "what never varied is 0");
        assert_eq!(scale.of(&state(0.0, 1e300))[..2], [-3.0, 3.0]);
        assert!(LinkScale::fit(&[state(0.01, 1e6); 3]).is_err());
        assert!(LinkScale::fit(&[]).is_err());
        Ok(())
    }
}
