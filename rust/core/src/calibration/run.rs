//! One calibration: a split in, thresholds and a report out (equations 62–68).
//!
//! For every λ of the grid: margins of the gate, r = 1[the judge's full-information choice is an edge
//! model], and from these the thresholds of every α, what they let pass on this split, and the order
//! statistics by which drift is noticed later. Cost weights are taken in groups, so that the margins
//! kept at once stay within a budget; r is made for one λ at a time on each thread.

use crate::base::checks::{check_lam, check_len, check_tokens};
use crate::base::error::{Error, Result};
use crate::base::ids::{Named, Seen};
use crate::base::threads;
use crate::calibration::grid::{Calibration, check_level};
use crate::calibration::groups::{GroupReport, Grouping, Groups, Members};
use crate::calibration::line::{Line, Work};
use crate::calibration::longest::factors;
use crate::calibration::promise::{Grid, OnInfeasible, Promise};
use crate::calibration::typicality::{self, Typicality};
use crate::networks::gate::Gate;
use crate::networks::length::LengthPredictor;
use crate::networks::teacher::Teacher;
use crate::pricing::cost::CostTable;
use crate::pricing::link::LinkState;
use crate::simd::isa::Simd;

/// Margins kept at once, in bytes.
const MARGINS: usize = 32 << 20;
/// Cost weights that share a pass over the embeddings at least, whatever they take.
const LEAST_GROUP: usize = 8;

/// The fitted parts that a calibration runs.
#[derive(Clone, Copy, Debug)]
pub struct Fitted<'a> {
    /// The gate.
    pub gate: &'a Gate,
    /// The teacher.
    pub teacher: &'a Teacher,
    /// The length predictor.
    pub length: &'a LengthPredictor,
    /// The cost table, normalizers set.
    pub costs: &'a CostTable,
    /// The typicality score, where the router has one.
    pub typicality: Option<&'a Typicality>,
}

/// What a false acceptance is measured against: whose p_m makes the full-information choice.
#[derive(Clone, Copy, Debug)]
pub enum Judge<'a> {
    /// The teacher's estimates: no answer is needed.
    Teacher,
    /// The recorded answers y (N, M).
    Outcomes(&'a [f32]),
}

/// Whose output lengths price the judge's choice.
#[derive(Clone, Copy, Debug)]
pub enum Lengths<'a> {
    /// The length predictor's, as at a deployed edge.
    Predicted,
    /// The recorded ones (N, M), the paper's assumption.
    Known(&'a [f64]),
}

/// N queries, exchangeable with future ones and used nowhere before.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    /// (N, d).
    pub embeddings: &'a [f32],
    /// (N,) L_in.
    pub n_input_tokens: &'a [f64],
    /// What they are called and what they say: remembered as hashes.
    pub queries: Named<'a>,
    /// What a false acceptance is measured against.
    pub judge: Judge<'a>,
    /// Whose lengths price its choice.
    pub lengths: Lengths<'a>,
    /// (N, M) output tokens as recorded, which tell how far predictions fall short; `None` without.
    pub recorded: Option<&'a [f64]>,
    /// (N,) ξ of each query, where they are known; `None` samples them.
    pub states: Option<&'a [LinkState]>,
    /// Seed of the sampled link states.
    pub seed: u64,
    /// Defer queries whose typicality p-value is at most this. Thresholds stay what they are without:
    /// what is accepted with it would be accepted without it too, query by query, so the risk can only
    /// be lower and every promise holds as it stands.
    pub defer_atypical: Option<f64>,
    /// Which group each query is in, where each is to have thresholds of its own.
    pub groups: Option<Grouping<'a>>,
}

/// What a calibration did, beside its thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// False acceptances allowed, (A,); `None` where the level is infeasible and defers everything.
    pub allowed: Vec<Option<usize>>,
    /// Fraction of the split wrongly kept local, (L, A).
    pub empirical_risk: Vec<f64>,
    /// Fraction of the split accepted, (L, A).
    pub local_rate: Vec<f64>,
    /// Levels that left the grid.
    pub left_out: Vec<f64>,
    /// The same within each group, where there are groups.
    pub groups: Option<GroupReport>,
}

/// Calibrate.
pub fn run(
    fitted: &Fitted,
    split: &Split,
    grid: &Grid,
    promise: Promise,
    threads: usize,
) -> Result<(Calibration, Report)> {
    let n = split.n_input_tokens.len();
    check_len("embeddings (N·d values)", n * fitted.gate.weights().d, split.embeddings.len())?;
    check_len("query ids", n, split.queries.ids.len())?;
    check_tokens("n_input_tokens", split.n_input_tokens)?;
    if n == 0 {
        return Err(Error::argument("calibration split", "at least one query", "none"));
    }
    grid.lams.iter().try_for_each(|lam| check_lam(*lam))?;
    // A promise at once is one of all groups and of the whole together.
    let shares = 1 + split.groups.map_or(0, |g| g.names.len());
    let (kept, left_out) = feasible(grid, promise, n, shares)?;
    let (alphas, allowed): (Vec<f64>, Vec<Option<usize>>) = kept.into_iter().unzip();
    let members = split.groups.map(|g| Members::new(&g, n, grid.lams.len() * alphas.len()));
    let members = members.transpose()?;
    let grouped = members.as_ref().map(|m| within(m, promise, grid.lams.len() * shares, &alphas));
    let grouped = grouped.transpose()?;
    let sampled;
    let states = if let Some(known) = split.states {
        check_len("states", n, known.len())?;
        known
    } else {
        sampled = fitted.costs.link().sample(n, split.seed)?;
        &sampled
    };
    let (p, c) = judged(fitted, split, states, threads)?;
    let (typicality, typical) = typical(fitted, split, threads)?;
    let mut lines = Vec::with_capacity(grid.lams.len());
    let group = (MARGINS / (n * size_of::<f32>())).max(LEAST_GROUP);
    for lams in grid.lams.chunks(group) {
        let films = lams.iter().map(|lam| fitted.gate.film(*lam)).collect::<Result<Vec<_>>>()?;
        let margins = fitted.gate.margins_at(split.embeddings, &films, Some(states), threads)?;
        let simd = Simd::best()?;
        let first = lines.len();
        lines.resize_with(first + lams.len(), Line::default);
        threads::chunks(threads, &mut lines[first..], 1, |start, part| {
            let mut work = Work::new(simd, n, &typical);
            for (i, line) in part.iter_mut().enumerate() {
                let margins = &margins[(start + i) * n..(start + i + 1) * n];
                *line = work.line(margins, &p, &c, lams[start + i], &allowed);
                if let (Some(members), Some(allowed)) = (&members, &grouped) {
                    line.groups = work.groups(margins, members, allowed);
                }
            }
        });
    }
    let (groups, group_report) = in_groups(split, members.as_ref(), grouped, &lines);
    let mut report = Report {
        allowed,
        empirical_risk: vec![],
        local_rate: vec![],
        left_out,
        groups: group_report,
    };
    let (mut thresholds, mut quantiles) = (Vec::new(), Vec::new());
    for line in lines {
        thresholds.extend(line.thresholds);
        quantiles.extend(line.quantiles);
        report.empirical_risk.extend(line.risk);
        report.local_rate.extend(line.local);
    }
    let calibration = Calibration {
        lams: grid.lams.clone(),
        alphas,
        thresholds,
        n,
        judge: if matches!(split.judge, Judge::Teacher) { "teacher" } else { "outcomes" }.into(),
        lengths: if matches!(split.lengths, Lengths::Predicted) { "predicted" } else { "known" }
            .into(),
        delta: promise.delta(),
        quantiles,
        length_factors: length_factors(fitted, split)?,
        typicality,
        defer_atypical: split.defer_atypical,
        groups,
        queries: Seen::new(&split.queries),
    };
    Ok((calibration, report))
}

/// A risk level, and the false acceptances it allows.
type Allowed = (f64, Option<usize>);

/// The levels of the grid with what they allow, and those left out.
fn feasible(
    grid: &Grid,
    promise: Promise,
    n: usize,
    shares: usize,
) -> Result<(Vec<Allowed>, Vec<f64>)> {
    let cells = (grid.lams.len() * shares, grid.alphas.len());
    if cells.0 == 0 || cells.1 == 0 {
        return Err(Error::argument("grid", "at least one λ and one α", format!("{cells:?}")));
    }
    let counts = promise.allowed(n, cells.0, &grid.alphas)?;
    let all = grid.alphas.iter().copied().zip(counts);
    let (kept, out): (Vec<Allowed>, Vec<Allowed>) = match grid.on_infeasible {
        OnInfeasible::Defer => return Ok((all.collect(), Vec::new())),
        OnInfeasible::Raise | OnInfeasible::LeaveOut => all.partition(|(_, k)| k.is_some()),
    };
    match (out.last(), grid.on_infeasible) {
        (Some((alpha, _)), OnInfeasible::LeaveOut) if kept.is_empty() => {
            Err(promise.infeasible(*alpha, n, cells))
        }
        (Some(_), OnInfeasible::Raise) => Err(promise.infeasible(out[0].0, n, cells)),
        (None, _) => Ok((kept, Vec::new())),
        _ => {
            // A promise at once is of what is left: fewer cells, by a rule that sees no data.
            let alphas: Vec<f64> = kept.into_iter().map(|(alpha, _)| alpha).collect();
            let counts = promise.allowed(n, cells.0, &alphas)?;
            let kept = alphas.into_iter().zip(counts).collect();
            Ok((kept, out.into_iter().map(|(alpha, _)| alpha).collect()))
        }
    }
}

/// Counts (G, A) that each group's own queries allow; a group too small for a level defers there.
fn within(
    members: &Members,
    promise: Promise,
    lams: usize,
    alphas: &[f64],
) -> Result<Vec<Option<usize>>> {
    let counts = members.counts().into_iter().map(|n| promise.allowed(n, lams, alphas));
    Ok(counts.collect::<Result<Vec<_>>>()?.concat())
}

/// Thresholds (G, L, A) and a report from lines of (G, A).
fn in_groups(
    split: &Split,
    members: Option<&Members>,
    allowed: Option<Vec<Option<usize>>>,
    lines: &[Line],
) -> (Option<Groups>, Option<GroupReport>) {
    let (Some(of), Some(members), Some(allowed)) = (split.groups, members, allowed) else {
        return (None, None);
    };
    let levels = allowed.len() / of.names.len();
    let mut groups = Groups {
        names: of.names.to_vec(),
        counts: members.counts(),
        thresholds: Vec::new(),
        pooled: of.pooled,
    };
    let mut report = GroupReport { allowed, ..GroupReport::default() };
    for g in 0..of.names.len() {
        let span = g * levels..(g + 1) * levels;
        for line in lines {
            groups.thresholds.extend(&line.groups.thresholds[span.clone()]);
            report.empirical_risk.extend(&line.groups.risk[span.clone()]);
            report.local_rate.extend(&line.groups.local[span.clone()]);
        }
    }
    (Some(groups), Some(report))
}

/// The scores kept for p-values, and which queries of the split are typical enough to accept.
fn typical(fitted: &Fitted, split: &Split, threads: usize) -> Result<(Vec<f32>, Vec<bool>)> {
    let n = split.n_input_tokens.len();
    let Some(typicality) = fitted.typicality else {
        return match split.defer_atypical {
            None => Ok((Vec::new(), vec![true; n])),
            Some(_) => Err(Error::argument(
                "defer_atypical",
                "a router with typicality; fit it again with this version",
                "one of an earlier version",
            )),
        };
    };
    split.defer_atypical.map_or(Ok(()), check_level)?;
    let scores = typicality.scores(split.embeddings, threads)?;
    let kept = typicality::keep(scores.clone());
    let accepted = |score: &f32| {
        split.defer_atypical.is_none_or(|level| typicality::p_value(*score, &kept, n) > level)
    };
    let accepted = scores.iter().map(accepted).collect();
    Ok((kept, accepted))
}

/// p and c (N, M) that the judge's choice compares.
fn judged(
    fitted: &Fitted,
    split: &Split,
    states: &[LinkState],
    threads: usize,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let n_input = split.n_input_tokens;
    let values = n_input.len() * fitted.costs.table().models.len();
    let p = match split.judge {
        Judge::Teacher => fitted.teacher.accuracies(split.embeddings, threads)?,
        Judge::Outcomes(y) => {
            check_len("outcomes (N·M values)", values, y.len())?;
            y.to_vec()
        }
    };
    let c = match split.lengths {
        Lengths::Known(n_output) => fitted.costs.costs(n_input, n_output, states, threads)?,
        Lengths::Predicted => {
            let n_output = fitted.length.predict(split.embeddings, n_input)?;
            fitted.costs.costs(n_input, &n_output, states, threads)?
        }
    };
    Ok((p, c))
}

/// Conformal factors of the recorded output lengths, where there are any.
fn length_factors(fitted: &Fitted, split: &Split) -> Result<Vec<f64>> {
    let Some(recorded) = split.recorded else { return Ok(Vec::new()) };
    let models = fitted.costs.table().models.len();
    check_len("n_output_tokens (N·M values)", split.n_input_tokens.len() * models, recorded.len())?;
    check_tokens("n_output_tokens", recorded)?;
    let predicted = fitted.length.predict(split.embeddings, split.n_input_tokens)?;
    Ok(factors(&predicted, recorded, models))
}
