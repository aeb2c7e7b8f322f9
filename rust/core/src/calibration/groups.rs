//! Thresholds per group: the promise within each, for groups known when a query comes (Mondrian).
//!
//! In: which group each query of a split is in. Out: for each group the thresholds that its own queries
//! allow (equations 62–68 on them alone), so that the risk is at most α within every group, whatever the
//! mix of groups. A query of no known group is deferred or, where that was asked for, compared with the
//! threshold of all groups together, which promises for their mix only.

use crate::base::checks::check_len;
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_SAMPLES;
use crate::calibration::crc::{accepts, just_above};
use crate::ranks::select::Selector;

/// Groups of one calibration, at most.
pub const MAX_GROUPS: usize = 1024;
/// Bytes of a group's name, at most.
pub const MAX_NAME: usize = 200;
/// Thresholds of all groups together, at most: 16 MB.
const MAX_CELLS: usize = 1 << 22;

/// Which group each query of a split is in.
#[derive(Clone, Copy, Debug)]
pub struct Grouping<'a> {
    /// Names (G,), strictly ascending.
    pub names: &'a [String],
    /// (N,) index of each query's group.
    pub of: &'a [usize],
    /// Whether unknown groups take the threshold of all rather than defer.
    pub pooled: bool,
}

/// Thresholds per group.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// Names (G,), strictly ascending.
    pub names: Vec<String>,
    /// Calibration samples of each.
    pub counts: Vec<usize>,
    /// Thresholds (G, L, A).
    pub thresholds: Vec<f32>,
    /// Whether unknown groups take the threshold of all rather than defer.
    pub pooled: bool,
}

/// What a calibration did in its groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupReport {
    /// False acceptances allowed, (G, A).
    pub allowed: Vec<Option<usize>>,
    /// Fraction of each group's queries wrongly kept local, (G, L, A).
    pub empirical_risk: Vec<f64>,
    /// Fraction of each group's queries accepted, (G, L, A).
    pub local_rate: Vec<f64>,
}

/// Refuse names that no calibration keeps.
pub fn check_names(names: &[String]) -> Result<()> {
    if names.is_empty() || names.len() > MAX_GROUPS {
        return Err(Error::argument("groups", format!("1 to {MAX_GROUPS} groups"), names.len()));
    }
    if let Some(name) = names.iter().find(|n| n.is_empty() || n.len() > MAX_NAME) {
        return Err(Error::argument(
            "groups",
            format!("names of 1 to {MAX_NAME} bytes in UTF-8"),
            name,
        ));
    }
    if !names.is_sorted_by(|a, b| a < b) {
        return Err(Error::argument("groups", "distinct names in ascending order", "others"));
    }
    Ok(())
}

impl Groups {
    /// Refuse what no calibration of `n` samples on a grid of `cells` makes.
    pub fn check(&self, n: usize, cells: usize) -> Result<()> {
        check_names(&self.names)?;
        check_len("samples per group", self.names.len(), self.counts.len())?;
        let sum = self.counts.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n));
        if self.counts.contains(&0) || sum != Some(n) || n > MAX_SAMPLES {
            let expected = format!("at least one per group, {n} in all");
            return Err(Error::argument("samples per group", expected, format!("{sum:?}")));
        }
        check_cells(self.names.len(), cells)?;
        check_len("thresholds per group", self.names.len() * cells, self.thresholds.len())?;
        if self.thresholds.iter().any(|t| t.is_nan()) {
            return Err(Error::argument("thresholds per group", "margins or infinities", "NaN"));
        }
        Ok(())
    }
}

fn check_cells(groups: usize, cells: usize) -> Result<()> {
    if groups * cells <= MAX_CELLS {
        return Ok(());
    }
    Err(Error::argument(
        "groups",
        format!("at most {MAX_CELLS} thresholds, groups x lams x alphas"),
        format!("{groups} x {cells}"),
    ))
}

/// The queries of each group, in the order of the split.
pub(super) struct Members {
    /// Indices of queries, group after group.
    order: Vec<usize>,
    /// Where each group ends.
    ends: Vec<usize>,
}

impl Members {
    pub fn new(grouping: &Grouping, n: usize, cells: usize) -> Result<Self> {
        check_names(grouping.names)?;
        check_cells(grouping.names.len(), cells)?;
        check_len("groups", n, grouping.of.len())?;
        let mut ends = vec![0; grouping.names.len()];
        for group in grouping.of {
            let count = ends.get_mut(*group);
            *count.ok_or_else(|| Error::argument("groups", "indices of names", group))? += 1;
        }
        if let Some(empty) = ends.iter().position(|n| *n == 0) {
            return Err(Error::argument(
                "groups",
                "a query in every group",
                &grouping.names[empty],
            ));
        }
        let mut next = 0;
        for end in &mut ends {
            (*end, next) = (next, next + *end);
        }
        let mut order = vec![0; n];
        for (i, group) in grouping.of.iter().enumerate() {
            order[ends[*group]] = i;
            ends[*group] += 1;
        }
        Ok(Self { order, ends })
    }

    /// Each group's queries.
    pub fn iter(&self) -> impl Iterator<Item = &[usize]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.order[start..*end])
    }

    /// Samples per group.
    pub fn counts(&self) -> Vec<usize> {
        self.iter().map(<[usize]>::len).collect()
    }
}

/// What one λ comes to within the groups, (G, A) each.
#[derive(Default)]
pub(super) struct GroupLine {
    pub thresholds: Vec<f32>,
    pub risk: Vec<f64>,
    pub local: Vec<f64>,
}

/// Thresholds of one λ within each group, and what they let pass of its queries. `allowed` is (G, A);
/// `typical` queries may be accepted.
pub(super) fn line(
    selector: &mut Selector,
    members: &Members,
    (margins, prefers_edge, typical): (&[f32], &[bool], &[bool]),
    allowed: &[Option<usize>],
) -> GroupLine {
    let mut out = GroupLine::default();
    let levels = allowed.len() / members.ends.len();
    for (queries, allowed) in members.iter().zip(allowed.chunks_exact(levels)) {
        let scores: Vec<f32> = queries.iter().map(|i| margins[*i]).collect();
        let mask: Vec<bool> = queries.iter().map(|i| prefers_edge[*i]).collect();
        let ranks: Vec<usize> = allowed.iter().flatten().copied().collect();
        let found = selector.largest(&scores, &mask, &ranks).expect("margins are finite");
        let mut found = found.into_iter().map(just_above);
        for k in allowed {
            let threshold = k.and_then(|_| found.next()).unwrap_or(f32::INFINITY);
            let accepted = |i: &&usize| accepts(margins[**i], threshold) && typical[**i];
            let local = queries.iter().filter(accepted).count();
            let wrong = queries.iter().filter(accepted).filter(|i| prefers_edge[**i]).count();
            out.thresholds.push(threshold);
            out.local.push(local as f64 / queries.len() as f64);
            out.risk.push(wrong as f64 / queries.len() as f64);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(names: &[&str], counts: Vec<usize>) -> Groups {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let thresholds = vec![0.5; names.len() * 6];
        Groups { names, counts, thresholds, pooled: false }
    }

    #[test]
    fn only_what_a_calibration_makes_is_taken() {
        let good = groups(&["a", "b", "é"], vec![1, 2, 3]);
        assert!(good.check(6, 6).is_ok());
        let many: Vec<String> = (0..=MAX_GROUPS).map(|i| format!("{i:05}")).collect();
        assert!(check_names(&many[1..]).is_ok());
        for (bad, n, cells, words) in [
            (groups(&["b", "a"], vec![3, 3]), 6, 6, "ascending"),
            (groups(&["a", "a"], vec![3, 3]), 6, 6, "ascending"),
            (groups(&["", "a"], vec![3, 3]), 6, 6, "names of 1 to 200 bytes"),
            (groups(&["a"], vec![5]), 6, 6, "samples per group"),
            (groups(&["a", "b"], vec![6, 0]), 6, 6, "samples per group"),
            (groups(&["a", "b"], vec![usize::MAX, 7]), 6, 6, "samples per group"),
            (groups(&["a", "b"], vec![6]), 6, 6, "samples per group"),
            (groups(&["a"], vec![6]), 6, 5, "thresholds per group"),
            (groups(&["a"], vec![6]), 6, 1 << 30, "thresholds, groups x lams x alphas"),
            (Groups { thresholds: vec![f32::NAN; 18], ..good.clone() }, 6, 6, "NaN"),
            (Groups { names: many, ..good.clone() }, 6, 6, "1 to 1024 groups"),
            (groups(&[&"x".repeat(100_000)], vec![6]), 6, 6, "(100000 characters in all)"),
        ] {
            let error = bad.check(n, cells).unwrap_err().to_string();
            assert!(error.contains(words) && error.len() < 500, "{error}");
        }
    }
}
