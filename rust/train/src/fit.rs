//! The fit, from a training split to a router's weights.
//!
//! In: a training split and a cost table. Out: [`Fitted`]. One direction: [`judge`] learns what each
//! model would answer and how long; [`Prices`] and the teacher's p make the margins (eqs. 46–48 of
//! arXiv 2605.12001); the gate learns them.

use cr2fast_core::{
    CostTable, Gate, GateWeights, LengthPredictor, LengthWeights, LinkScale, LinkState,
    SmootherWeights, Teacher, TeacherWeights, check_len,
};

use crate::config::{FitConfig, LAMS, Lengths};
use crate::data::{Split, TrainData};
use crate::error::Result;
use crate::lams::{LamRange, LocalRate};
use crate::networks::{gate, length, teacher};
use crate::ops::nn;
use crate::progress::{Record, Report};
use crate::record::{Monotone, Summary};
use crate::views::{self, Limits, View};

/// A frozen teacher, the smoother in it, and its length predictor.
pub type Frozen = (TeacherWeights, Option<SmootherWeights>, LengthWeights);

/// What a fit leaves.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The gate.
    pub gate: GateWeights,
    /// The heads.
    pub teacher: TeacherWeights,
    /// The smoother beside them.
    pub smoother: Option<SmootherWeights>,
    /// The length heads.
    pub length: LengthWeights,
    /// Hyperparameters, losses, checks: JSON.
    pub record: String,
}

/// Rows that the teacher grades at a time.
const STRIP: usize = 4096;
/// Sets training's link states apart from those of the caller's small seeds.
const STATES: u64 = 0x7374_6174_6573;

/// Fit teacher, length predictor and gate, or, for a `frozen` teacher, only the gate. `costs` has its
/// normalizers set.
pub fn fit(
    data: &TrainData,
    costs: &CostTable,
    config: &FitConfig,
    frozen: Option<Frozen>,
    report: Report,
) -> Result<Fitted> {
    config.check()?;
    let m = costs.models().len();
    data.check(m)?;
    if let Some((teacher, _, _)) = &frozen {
        check_len("embedding width", teacher.d, data.d)?;
        check_len("models", teacher.models, m)?;
    }
    let split = Split::new(data.rows(), config);
    let limits = Limits::of(config.rows_per_epoch);
    let (views, held, smoother) =
        views::make(*data, &split, config, frozen.is_some(), limits, report)?;
    let ((teacher, smoother, length), teacher_record) = match frozen {
        Some(frozen) => (frozen, None),
        None => judge(data, &split, (&views, &held, smoother), config, report)?,
    };

    let threads = rayon::current_num_threads();
    let predicted = LengthPredictor::new(length.clone())?.predict(data.embeddings, data.n_input)?;
    let n_output = match config.lengths {
        Lengths::Predicted => predicted.as_slice(),
        Lengths::Known => data.n_output,
    };
    let mut prices =
        Prices { costs, n_input: data.n_input, n_output, seed: config.seed, link: None, threads };
    if config.link_features {
        prices.link = Some(LinkScale::fit(&prices.states(0)?)?);
    }
    let held_prices = prices.epoch(0)?.c;
    let monotone = Monotone::new(&held_prices, m, config);
    // The frozen teacher is the one that will serve: the core's arithmetic, not the trainer's.
    let serving = Teacher::new(teacher.clone())?.with_smoother(smoother.clone())?;
    let lams = lam_range(data, &split, &serving, &held_prices, config, limits.rows)?;
    let accuracies = |view: &View| -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(view.rows.len() * m);
        view.pieces(limits.rows, |x| {
            all.extend(serving.accuracies(&nn::values(x)?, threads)?);
            Ok(())
        })?;
        Ok(all)
    };
    let targets = gate::Targets {
        models: m,
        views: &views,
        accuracies: views.iter().map(accuracies).collect::<Result<_>>()?,
        held: (&held, accuracies(&held)?),
        lams: (lams.low, lams.high),
        costs: &|epoch| prices.epoch(epoch),
        link: prices.link,
    };
    let (gate, gate_record) = gate::fit(&targets, monotone.w_mono, config, report)?;

    let summary = Summary {
        config: &FitConfig { lam_low: Some(lams.low), lam_high: Some(lams.high), ..config.clone() },
        lams: &lams,
        split: &split,
        views: views.len(),
        teacher: teacher_record,
        gate: gate_record,
        temperature: Gate::new(gate.clone())?.weights().temperature(),
        parameters: (teacher.parameter_count(), gate.parameter_count()),
        monotone,
        lengths: (&predicted, data.n_output),
        models: m,
    };
    Ok(Fitted { record: summary.json(), gate, teacher, smoother, length })
}

/// The teacher and the length predictor: what grades queries, and what prices them.
fn judge(
    data: &TrainData,
    split: &Split,
    (views, held, smoother): (&[View], &View, Option<SmootherWeights>),
    config: &FitConfig,
    report: Report,
) -> Result<(Frozen, Option<Record>)> {
    let (teacher, record) = teacher::fit(views, held, config, report)?;
    let length = length::fit(data, split, config.ridge)?;
    Ok(((teacher, smoother, length), Some(record)))
}

/// The λ to learn: those asked for, or those between which the choices of the teacher that will serve
/// change. At most `rows` of the split tell.
fn lam_range(
    data: &TrainData,
    split: &Split,
    teacher: &Teacher,
    prices: &[f32],
    config: &FitConfig,
    rows: usize,
) -> Result<LamRange> {
    let (d, m) = (data.d, teacher.weights().models);
    let rows = &split.all()[..data.rows().min(rows)];
    let (mut p, mut c) = (Vec::new(), Vec::new());
    for rows in rows.chunks(STRIP) {
        let row = |r: &u32| &data.embeddings[*r as usize * d..][..d];
        let x: Vec<f32> = rows.iter().flat_map(row).copied().collect();
        p.extend(teacher.accuracies(&x, rayon::current_num_threads())?);
        c.extend(rows.iter().flat_map(|r| &prices[*r as usize * m..][..m]));
    }
    let rate = LocalRate::new(&p, &c, m);
    Ok(match config.lams()? {
        None => rate.range(LAMS),
        Some(lams) => rate.given(lams),
    })
}

/// What the training split costs, under link states drawn anew each epoch.
struct Prices<'a> {
    costs: &'a CostTable,
    n_input: &'a [f64],
    n_output: &'a [f64],
    seed: u64,
    /// For a gate that sees the link.
    link: Option<LinkScale>,
    threads: usize,
}

impl Prices<'_> {
    /// Link states of an epoch; 0 stands for the held-out ones.
    fn states(&self, epoch: usize) -> Result<Vec<LinkState>> {
        // States of its own: callers number theirs from 0.
        let seed =
            (self.seed ^ STATES).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(epoch as u64);
        Ok(self.costs.link().sample(self.n_input.len(), seed)?)
    }

    /// What the split costs at these.
    fn epoch(&self, epoch: usize) -> Result<gate::Priced> {
        let states = self.states(epoch)?;
        let c = self.costs.costs(self.n_input, self.n_output, &states, self.threads)?;
        let z = self.link.map(|link| states.iter().flat_map(|s| link.of(s)).collect());
        Ok(gate::Priced { c, z: z.unwrap_or_default() })
    }
}
