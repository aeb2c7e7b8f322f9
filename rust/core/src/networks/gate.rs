//! The margin gate's forward pass (equations 49–55).
//!
//! In: a frozen embedding e (d,) and a cost weight λ. Out: the predicted margin Δ̂.
//!
//! ψ(λ) = [log λ, sin 2πf_k log λ, cos 2πf_k log λ], f = ½, 1, 2, 4
//! h = W1·LN(e) + b1;  (γ, β) = W_film·ψ + b_film;  Δ̂ = W2·GELU(γ⊙h + β) + b2
//!
//! A gate that sees the link (ours, [`crate::networks::link`]) adds W_ξ·z(ξ) to h.
//!
//! Two things are folded when weights are packed, once, for every λ: LayerNorm's affine into W1, and
//! b1 with FiLM into one shift a λ. So the trunk is one matrix–vector product shared by all λ, and a
//! λ costs one fused pass over the hidden layer. A single call, a batch and a sweep run the same
//! operations in the same order.

use crate::base::checks::{check_finite, check_lam, check_len, filled};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_WIDTH;
use crate::base::threads;
use crate::networks::link::{LINK, LinkWeights};
use crate::networks::trunk::{Trunk, fold_layer_norm};
use crate::pricing::link::LinkState;
use crate::simd::isa::Simd;
use crate::simd::packed::{Packed, PaddedVec};

/// Size of ψ(λ).
pub const PSI: usize = 9;
/// Frequencies f_k.
const FREQUENCIES: [f64; 4] = [0.5, 1.0, 2.0, 4.0];
/// Rows whose hidden layer is kept at once in a batch (fits in L2).
const ROWS: usize = 48;

/// The gate's parameters as they are trained and stored; row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateWeights {
    /// Embedding width d.
    pub d: usize,
    /// Hidden width h.
    pub hidden: usize,
    /// LayerNorm gain (d,).
    pub ln_weight: Vec<f32>,
    /// LayerNorm bias (d,).
    pub ln_bias: Vec<f32>,
    /// W1 (h, d).
    pub w1: Vec<f32>,
    /// b1 (h,).
    pub b1: Vec<f32>,
    /// W_film (2h, 9): γ rows, then β rows.
    pub film_weight: Vec<f32>,
    /// b_film (2h,).
    pub film_bias: Vec<f32>,
    /// W2 (h,).
    pub w2: Vec<f32>,
    /// b2.
    pub b2: f32,
    /// η_T: T = softplus(η_T) + 1e-6.
    pub eta_t: f32,
    /// What it makes of the link; the paper's gate does not see it.
    pub link: Option<LinkWeights>,
}

impl GateWeights {
    /// Number of parameters; 104,706 at d = 384, h = 256.
    pub fn parameter_count(&self) -> usize {
        let (d, h) = (self.d, self.hidden);
        let link = self.link.as_ref().map_or(0, |l| l.w.len());
        2 * d + h * d + h + 2 * h * PSI + 2 * h + h + 1 + 1 + link
    }

    /// The score's temperature T = softplus(η_T) + 1e-6.
    pub fn temperature(&self) -> f64 {
        let eta = f64::from(self.eta_t);
        // max(η, 0) + log(1 + e^−|η|): no overflow.
        eta.max(0.0) + libm::log1p(libm::exp(-eta.abs())) + 1e-6
    }

    /// The same gate with LayerNorm's affine in W1 and b1, up to their rounding.
    #[must_use]
    pub fn folded(&self) -> Self {
        let (w1, b1) = fold_layer_norm(&self.ln_weight, &self.ln_bias, &self.w1, &self.b1);
        Self {
            ln_weight: vec![1.0; self.d],
            ln_bias: vec![0.0; self.d],
            w1,
            b1: b1.into_iter().map(|b| b as f32).collect(),
            ..self.clone()
        }
    }

    fn check(&self) -> Result<()> {
        let (d, h) = (self.d, self.hidden);
        for (name, n) in [("gate embedding width", d), ("gate hidden width", h)] {
            if !(1..=MAX_WIDTH).contains(&n) {
                return Err(Error::argument(name, format!("1 to {MAX_WIDTH}"), n));
            }
        }
        for (name, expected, xs) in [
            ("gate.ln.weight", d, &self.ln_weight),
            ("gate.ln.bias", d, &self.ln_bias),
            ("gate.w1", h * d, &self.w1),
            ("gate.b1", h, &self.b1),
            ("gate.film.weight", 2 * h * PSI, &self.film_weight),
            ("gate.film.bias", 2 * h, &self.film_bias),
            ("gate.w2", h, &self.w2),
        ] {
            check_len(name, expected, xs.len())?;
            check_finite(name, xs)?;
        }
        self.link.as_ref().map_or(Ok(()), |link| link.check(h))?;
        check_finite("gate.b2, gate.eta_t", &[self.b2, self.eta_t])
    }
}

/// ψ(λ).
pub fn psi(lam: f64) -> [f64; PSI] {
    let log = libm::log(lam);
    let mut out = [0.0; PSI];
    out[0] = log;
    for (k, f) in FREQUENCIES.iter().enumerate() {
        let angle = 2.0 * std::f64::consts::PI * f * log;
        out[1 + k] = libm::sin(angle);
        out[1 + FREQUENCIES.len() + k] = libm::cos(angle);
    }
    out
}

/// A packed gate, ready to run.
#[derive(Clone, Debug)]
pub struct Gate {
    weights: GateWeights,
    w1: Packed,
    b1: Vec<f64>,
    w2: PaddedVec,
    simd: Simd,
}

/// A λ, bound: γ, and the shift δ = γ⊙b1 + β.
#[derive(Clone, Debug)]
pub struct Film {
    gamma: PaddedVec,
    shift: PaddedVec,
}

impl Gate {
    /// Check, fold and pack.
    pub fn new(weights: GateWeights) -> Result<Self> {
        Self::with_simd(weights, Simd::best()?)
    }

    /// The same on a chosen instruction set.
    pub fn with_simd(weights: GateWeights, simd: Simd) -> Result<Self> {
        weights.check()?;
        let (d, h) = (weights.d, weights.hidden);
        let (packed, b1) =
            fold_layer_norm(&weights.ln_weight, &weights.ln_bias, &weights.w1, &weights.b1);
        let w2 = PaddedVec::new(&weights.w2);
        Ok(Self { w1: Packed::new(&packed, h, d), b1, w2, weights, simd })
    }

    /// The parameters as stored.
    pub fn weights(&self) -> &GateWeights {
        &self.weights
    }

    /// Bind a λ.
    pub fn film(&self, lam: f64) -> Result<Film> {
        check_lam(lam)?;
        let (h, psi) = (self.weights.hidden, psi(lam));
        let affine = |row: usize| {
            let w = &self.weights.film_weight[row * PSI..(row + 1) * PSI];
            let dot: f64 = w.iter().zip(&psi).map(|(w, p)| f64::from(*w) * p).sum();
            dot + f64::from(self.weights.film_bias[row])
        };
        let gamma: Vec<f64> = (0..h).map(affine).collect();
        let shift: Vec<f32> =
            (0..h).map(|o| (gamma[o] * self.b1[o] + affine(h + o)) as f32).collect();
        let gamma: Vec<f32> = gamma.into_iter().map(|g| g as f32).collect();
        check_finite("lam (FiLM overflows)", &gamma)?;
        check_finite("lam (FiLM overflows)", &shift)?;
        Ok(Film { gamma: PaddedVec::new(&gamma), shift: PaddedVec::new(&shift) })
    }

    fn head(&self, u: &[f32], film: &Film) -> f32 {
        self.simd.film_gelu_dot(u, &film.gamma, &film.shift, &self.w2) + self.weights.b2
    }

    /// What the gate makes of a link; none where it does not look, or nobody measured.
    fn seen<'a>(&'a self, state: Option<&LinkState>) -> Result<Option<Addend<'a>>> {
        let Some((link, state)) = self.weights.link.as_ref().zip(state) else { return Ok(None) };
        state.check(|| "state".into())?;
        Ok(Some((link, link.scale.of(state))))
    }

    /// The same of N links.
    #[allow(clippy::type_complexity)]
    fn links(
        &self,
        states: Option<&[LinkState]>,
        n: usize,
    ) -> Result<Option<(&LinkWeights, Vec<[f32; LINK]>)>> {
        let Some((link, states)) = self.weights.link.as_ref().zip(states) else { return Ok(None) };
        check_len("states", n, states.len())?;
        for (i, state) in states.iter().enumerate() {
            state.check(|| format!("states[{i}]"))?;
        }
        Ok(Some((link, states.iter().map(|s| link.scale.of(s)).collect())))
    }

    /// Δ̂ of one embedding, the link unknown. Up to a width of 1024 nothing is allocated.
    pub fn margin(&self, x: &[f32], film: &Film) -> Result<f32> {
        self.margin_at(x, film, None)
    }

    /// The same at a link state, for a gate that sees the link; others do not look at it.
    pub fn margin_at(&self, x: &[f32], film: &Film, state: Option<&LinkState>) -> Result<f32> {
        check_len("embedding", self.weights.d, x.len())?;
        let link = self.seen(state)?;
        let mut centered = [0.0; MAX_STACK];
        let mut hidden = [0.0; MAX_STACK];
        let (d, h) = (self.weights.d, self.w1.padded_outputs());
        if d > MAX_STACK || h > MAX_STACK {
            check_finite("embedding", x)?;
            let states = state.map(std::slice::from_ref);
            return Ok(self.margins_at(x, std::slice::from_ref(film), states, 1)?[0]);
        }
        let scale = self.simd.center(x, &mut centered[..d]);
        self.simd.dense(&self.w1, &centered[..d], &[scale], &mut hidden[..h]);
        if let Some((link, z)) = link {
            link.add(&z, &mut hidden[..h]);
        }
        let margin = self.head(&hidden[..h], film);
        check_margins("embedding", x, &[margin])?;
        Ok(margin)
    }

    /// Δ̂ of N embeddings (N·d values) at L bound λ → (L, N), the link unknown.
    pub fn margins(&self, xs: &[f32], films: &[Film], threads: usize) -> Result<Vec<f32>> {
        self.margins_at(xs, films, None, threads)
    }

    /// The same at N link states, for a gate that sees the link; others do not look at them.
    pub fn margins_at(
        &self,
        xs: &[f32],
        films: &[Film],
        states: Option<&[LinkState]>,
        threads: usize,
    ) -> Result<Vec<f32>> {
        let d = self.weights.d;
        if !xs.len().is_multiple_of(d) {
            return Err(Error::argument("embeddings", format!("rows of {d} values"), xs.len()));
        }
        let (n, l) = (xs.len() / d, films.len());
        let links = self.links(states, n)?;
        if l == 0 {
            return Ok(Vec::new());
        }
        let mut out = filled("margins", l, n, 0.0)?;
        threads::columns(threads, &mut out, n, |first, parts| {
            let mut trunk = Trunk::new(self.simd);
            let mut moved = Vec::new();
            let rows = parts[0].len();
            for start in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - start);
                let x = &xs[(first + start) * d..(first + start + count) * d];
                trunk.center(x, self.weights.d);
                for (i, mut u) in trunk.product(&self.w1).enumerate() {
                    if let Some((link, z)) = &links {
                        moved.clear();
                        moved.extend_from_slice(u);
                        link.add(&z[first + start + i], &mut moved);
                        u = &moved;
                    }
                    for (film, part) in films.iter().zip(parts.iter_mut()) {
                        part[start + i] = self.head(u, film);
                    }
                }
            }
        });
        check_margins("embeddings", xs, &out)?;
        Ok(out)
    }
}

/// What a link adds to a hidden row: the gate's weights, and z.
type Addend<'a> = (&'a LinkWeights, [f32; LINK]);

/// Widths up to this run on the stack.
const MAX_STACK: usize = 1024;

/// An embedding that is not finite makes a margin that is not (its variance is no number), so only a
/// bad margin is worth a look at what came in.
fn check_margins(what: &str, xs: &[f32], margins: &[f32]) -> Result<()> {
    if check_finite("", margins).is_err() {
        check_finite(what, xs)?;
    }
    check_finite("margin (embedding too large in magnitude?)", margins)
}
