//! Fits the margin gate (eqs. 49–55 of arXiv 2605.12001).
//!
//! In: views of the queries, the teacher's p on each, and every query's c under link states drawn
//! anew each epoch. Out: [`GateWeights`] of the epoch with the least held-out loss. With the Fourier
//! features ψ(λ), and * the product of entries,
//!
//! (γ, β) = W_film·ψ(λ) + b_film,  Δ̂ = w2·Dropout(GELU(γ*(W1·LN(e) + b1) + β)) + b2,
//! T = softplus(η_T) + 1e-6 (a gate that sees the link adds W_ξ·z(ξ) to W1·LN(e), z of the very states
//! behind c),
//!
//! and the loss, over cost weights λ_1 < … < λ_J drawn anew each step, is
//! w_sign·BCE(Δ̂/T, 1[Δ ≥ 0]) + w_margin·Huber(Δ̂ − Δ) + w_mono·mean relu(Δ̂(λ_j) − Δ̂(λ_{j+1})).

use candle_core::{DType, Result as TensorResult, Tensor, Var};
use cr2fast_core::{GateWeights, LINK, LinkScale, LinkWeights, PSI, choice_margin, psi};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::config::FitConfig;
use crate::error::Result;
use crate::losses::{bce, huber, monotone, softplus};
use crate::ops::heads::heads;
use crate::ops::nn::{self, Stream};
use crate::ops::trunk::trunk;
use crate::progress::{Record, Report};
use crate::schedule::Schedule;
use crate::views::{Turns, View};

/// T at the start.
const FIRST_TEMPERATURE: f64 = 0.1;
/// Number of cost weights λ on which checkpoints are compared.
const HOLDOUT_LAMS: usize = 16;

/// The gate.
pub struct GateNet {
    ln_weight: Var,    // (d, 1)
    ln_bias: Var,      // (1, d)
    w1: Var,           // (d, h), transposed as in the teacher
    b1: Var,           // (1, h)
    film_weight: Var,  // (9, 2h)
    film_bias: Var,    // (2h,)
    w2: Var,           // (h,)
    b2: Var,           // (1,)
    eta_t: Var,        // (1,)
    link: Option<Var>, // (3, h)
    film: bool,        // whether γ learns
}

impl GateNet {
    /// Fresh weights of a seed.
    pub fn new(
        (d, h): (usize, usize),
        (film, link): (bool, bool),
        seed: u64,
        dtype: DType,
    ) -> TensorResult<Self> {
        let rng = &mut nn::stream(seed, Stream::GateWeights);
        // FiLM starts near the identity: γ ≈ 1, β ≈ 0, a small dependence on λ.
        let film_weight = nn::uniform(rng, &[PSI, 2 * h], PSI * 100, dtype)?;
        if !film {
            let shift = film_weight.narrow(1, h, h)?;
            film_weight.set(&Tensor::cat(&[shift.zeros_like()?, shift], 1)?)?;
        }
        let start = Tensor::cat(
            &[Tensor::ones(h, dtype, &nn::CPU)?, Tensor::zeros(h, dtype, &nn::CPU)?],
            0,
        )?;
        Ok(Self {
            ln_weight: nn::constant(1.0, &[d, 1], dtype)?,
            ln_bias: nn::constant(0.0, &[1, d], dtype)?,
            w1: nn::uniform(rng, &[d, h], d, dtype)?,
            b1: nn::uniform(rng, &[1, h], d, dtype)?,
            film_weight,
            film_bias: Var::from_tensor(&start)?,
            w2: nn::uniform(rng, &[h], h, dtype)?,
            b2: nn::uniform(rng, &[1], h, dtype)?,
            eta_t: nn::constant(libm::expm1(FIRST_TEMPERATURE).ln(), &[1], dtype)?,
            film,
            // Drawn last: a gate without it starts as it always did.
            link: link.then(|| nn::uniform(rng, &[LINK, h], d, dtype)).transpose()?,
        })
    }

    /// Everything that learns.
    pub fn vars(&self) -> Vec<Var> {
        let all = [
            &self.ln_weight,
            &self.ln_bias,
            &self.w1,
            &self.b1,
            &self.film_weight,
            &self.film_bias,
            &self.w2,
            &self.b2,
            &self.eta_t,
        ];
        all.into_iter().chain(&self.link).cloned().collect()
    }

    /// Standardised rows (B, d), z (B, 3) of their links and λ (J,) → Δ̂ (J, B). The bias goes into FiLM's
    /// shift.
    pub fn margins(
        &self,
        x: &Tensor,
        z: Option<&Tensor>,
        lams: &[f64],
        mask: Vec<f32>,
    ) -> TensorResult<Tensor> {
        let h = self.b1.dim(1)?;
        let psi: Vec<f64> = lams.iter().flat_map(|l| psi(*l)).collect();
        let psi = Tensor::from_vec(psi, (lams.len(), PSI), &nn::CPU)?.to_dtype(x.dtype())?;
        let film = psi.matmul(&self.film_weight)?.broadcast_add(&self.film_bias)?;
        let gamma = film.narrow(1, 0, h)?;
        let gamma = if self.film { gamma } else { gamma.ones_like()?.detach() };
        let shift = (film.narrow(1, h, h)? + gamma.broadcast_mul(&self.b1)?)?;
        let film = Tensor::cat(&[gamma, shift], 1)?;
        let hidden = trunk(x, &self.w1, &self.ln_weight, &self.ln_bias)?;
        let hidden = match (&self.link, z) {
            (Some(w), Some(z)) => (hidden + z.matmul(w)?)?,
            _ => hidden,
        };
        heads(&hidden, &film, &self.w2, 1, mask)?.squeeze(2)?.broadcast_add(&self.b2)
    }

    /// T = softplus(η_T) + 1e-6.
    pub fn temperature(&self) -> TensorResult<Tensor> {
        softplus(&self.eta_t)? + 1e-6
    }

    /// w_sign·BCE(Δ̂/T, z) + w_margin·Huber(Δ̂ − Δ) + w_mono·monotone, targets (J, B).
    pub fn loss(
        &self,
        margins: &Tensor,
        targets: &Tensor,
        w_mono: f64,
        c: &FitConfig,
    ) -> TensorResult<Tensor> {
        let z = targets.ge(0.0)?.to_dtype(targets.dtype())?;
        let sign = bce(&margins.broadcast_div(&self.temperature()?)?, &z)?;
        let fit = huber(&(margins - targets)?, c.huber)?;
        let loss = ((sign * c.w_sign)? + (fit * c.w_margin)?)?;
        if w_mono == 0.0 { Ok(loss) } else { loss + (monotone(margins)? * w_mono)? }
    }

    fn weights(&self, scale: Option<LinkScale>) -> TensorResult<GateWeights> {
        let (d, hidden) = self.w1.dims2()?;
        if !self.film {
            // Weight decay moved the γ that training did not look at.
            let shift = self.film_bias.narrow(0, hidden, hidden)?;
            self.film_bias.set(&Tensor::cat(&[shift.ones_like()?, shift], 0)?)?;
        }
        let scalar = |v: &Var| Ok::<f32, candle_core::Error>(nn::values(v)?[0]);
        Ok(GateWeights {
            d,
            hidden,
            ln_weight: nn::values(&self.ln_weight)?,
            ln_bias: nn::values(&self.ln_bias)?,
            w1: nn::values(&self.w1.t()?.contiguous()?)?,
            b1: nn::values(&self.b1)?,
            film_weight: nn::values(&self.film_weight.t()?.contiguous()?)?,
            film_bias: nn::values(&self.film_bias)?,
            w2: nn::values(&self.w2)?,
            b2: scalar(&self.b2)?,
            eta_t: scalar(&self.eta_t)?,
            link: match (&self.link, scale) {
                (Some(w), Some(scale)) => Some(LinkWeights { scale, w: nn::values(w)? }),
                _ => None,
            },
        })
    }
}

/// What the teacher says of the queries.
pub struct Targets<'a> {
    /// Models M.
    pub models: usize,
    /// Views to learn from.
    pub views: &'a [View<'a>],
    /// p (V, M) on each of them.
    pub accuracies: Vec<Vec<f32>>,
    /// The held-out rows, and p on them.
    pub held: (&'a View<'a>, Vec<f32>),
    /// Least and greatest λ to learn.
    pub lams: (f64, f64),
    /// Epoch (0: the held-out states) → what the training split costs.
    pub costs: &'a dyn Fn(usize) -> Result<Priced>,
    /// How z follows from states, for a gate that sees the link.
    pub link: Option<LinkScale>,
}

/// The training split under the link states of an epoch.
pub struct Priced {
    /// c (N, M).
    pub c: Vec<f32>,
    /// z (N, 3) of the same states; empty unless the gate sees the link.
    pub z: Vec<f32>,
}

impl Priced {
    /// z (B, 3) of some of a view's rows.
    fn links(&self, view: &View, rows: &[u32]) -> TensorResult<Option<Tensor>> {
        if self.z.is_empty() {
            return Ok(None);
        }
        let of = |i: &u32| &self.z[view.rows[*i as usize] as usize * LINK..][..LINK];
        let z: Vec<f32> = rows.iter().flat_map(of).copied().collect();
        Tensor::from_vec(z, (rows.len(), LINK), &nn::CPU).map(Some)
    }
}

impl Targets<'_> {
    /// Δ_θ (J, B) of some of a view's rows.
    fn margins(
        &self,
        (view, p): (&View, &[f32]),
        c: &[f32],
        rows: &[u32],
        lams: &[f64],
    ) -> TensorResult<Tensor> {
        let m = self.models;
        let row = |xs: &[f32], i: usize| xs[i * m..(i + 1) * m].to_vec();
        let (p, c): (Vec<_>, Vec<_>) = rows
            .iter()
            .map(|i| (row(p, *i as usize), row(c, view.rows[*i as usize] as usize)))
            .unzip();
        let margins: Vec<f32> = lams
            .iter()
            .flat_map(|lam| p.iter().zip(&c).map(|(p, c)| choice_margin(p, c, *lam) as f32))
            .collect();
        Tensor::from_vec(margins, (lams.len(), rows.len()), &nn::CPU)
    }
}

fn sample_lams(rng: &mut ChaCha8Rng, (low, high): (f64, f64), n: usize) -> Vec<f64> {
    let (low, high) = (libm::log(low), libm::log(high));
    let mut lams: Vec<f64> = (0..n).map(|_| libm::exp(rng.random_range(low..high))).collect();
    lams.sort_by(f64::total_cmp);
    lams
}

fn spaced_lams((low, high): (f64, f64), n: usize) -> Vec<f64> {
    let ratio = high / low;
    (0..n).map(|i| low * libm::pow(ratio, i as f64 / (n - 1) as f64)).collect()
}

/// Train on the views in turn; returns the best checkpoint and its record.
pub fn fit(
    targets: &Targets,
    w_mono: f64,
    config: &FitConfig,
    report: Report,
) -> Result<(GateWeights, Record)> {
    let held_x = &targets.held.0.x()?;
    let (shape, sees) = ((held_x.dim(1)?, config.hidden), (config.film, targets.link.is_some()));
    let net = GateNet::new(shape, sees, config.seed, DType::F32)?;
    let (order, dropout) = (
        &mut nn::stream(config.seed, Stream::GateOrder),
        &mut nn::stream(config.seed, Stream::GateDropout),
    );
    let lam_rng = &mut nn::stream(config.seed, Stream::GateLams);
    let held_lams = spaced_lams(targets.lams, HOLDOUT_LAMS);
    let held_rows: Vec<u32> = (0..targets.held.0.rows.len() as u32).collect();
    let mut costs = (0, (targets.costs)(0)?);
    let mut turns = Turns::new(targets.views);
    let held_targets =
        targets.margins((targets.held.0, &targets.held.1), &costs.1.c, &held_rows, &held_lams)?;
    let held_z = costs.1.links(targets.held.0, &held_rows)?;
    let rows = targets.views[0].rows.len();
    let schedule = Schedule { stage: "gate", epochs: config.gate_epochs, rows, config, report };
    let record = schedule.run(
        &net.vars(),
        order,
        |epoch, rows| {
            if costs.0 != epoch {
                costs = (epoch, (targets.costs)(epoch)?);
            }
            let lams = sample_lams(lam_rng, targets.lams, config.lams_per_step);
            let number = turns.number(epoch);
            let view = (&targets.views[number], targets.accuracies[number].as_slice());
            let (x, _) = turns.batch(epoch, rows)?;
            let units = lams.len() * rows.len() * config.hidden;
            let mask = nn::dropout_mask(dropout, config.dropout, units);
            let z = costs.1.links(view.0, rows)?;
            let margins = net.margins(&x, z.as_ref(), &lams, mask)?;
            Ok(net.loss(
                &margins,
                &targets.margins(view, &costs.1.c, rows, &lams)?,
                w_mono,
                config,
            )?)
        },
        || {
            let margins = net.margins(held_x, held_z.as_ref(), &held_lams, Vec::new())?;
            net.loss(&margins, &held_targets, 0.0, config)
        },
    )?;
    Ok((net.weights(targets.link)?, record))
}
