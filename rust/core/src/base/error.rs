//! What can be wrong, one variant for each way a caller can be wrong.
//!
//! Every message names the argument, what was expected and what came, at a bounded length: what came
//! may be a megabyte.

use std::borrow::Cow;

/// Characters of a caller's value that a message shows.
const SHOWN: usize = 200;
/// Items of a caller's list that a message shows.
const ITEMS: usize = 16;

/// A caller's text as a message shows it: the start of it and how long it is, where it is long.
pub fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN) {
        None => text.into(),
        Some((end, _)) => {
            format!("{}... ({} characters in all)", &text[..end], text.chars().count()).into()
        }
    }
}

/// The same for a list.
pub fn listed<T: std::fmt::Debug>(items: &[T]) -> String {
    let first: Vec<String> =
        items.iter().take(ITEMS).map(|i| shown(&format!("{i:?}")).into_owned()).collect();
    let more = if items.len() > ITEMS { ", ..." } else { "" };
    let count =
        if items.len() > ITEMS { format!(" ({} in all)", items.len()) } else { String::new() };
    format!("[{}{more}]{count}", first.join(", "))
}

/// Where two lists differ, for those whose difference is not among the items that are shown.
fn first_difference(expected: &[String], got: &[String]) -> String {
    let at = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let one = |list: &[String]| {
        list.get(at).map_or_else(|| "none".into(), |name| format!("{:?}", shown(name)))
    };
    if at < ITEMS && expected.len() == got.len() {
        return String::new();
    }
    format!("; the first to differ is number {}: {} and {}", at + 1, one(expected), one(got))
}

/// A number in few characters, whatever its size: a plain one would have 300 digits.
pub fn number(x: f64) -> String {
    if x == 0.0 || (1e-5..1e16).contains(&x.abs()) { x.to_string() } else { format!("{x:?}") }
}

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// By what a query is known to have been used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Same {
    /// Its id.
    Id,
    /// What it says, under another id.
    Content,
}

/// The one error type of the crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has the wrong shape, range or kind.
    #[error("{}: expected {}, got {}", shown(what), shown(expected), shown(got))]
    Argument {
        /// Name of the argument.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What came instead.
        got: String,
    },
    /// A float array holds NaN or an infinity.
    #[error("{}: expected finite numbers, got {value} at flat index {index}", shown(what))]
    NotFinite {
        /// Name of the argument.
        what: String,
        /// Position of the first offender in row-major order.
        index: usize,
        /// The offender.
        value: f64,
    },
    /// No threshold can promise this risk with so few calibration samples.
    #[error(
        "alpha={alpha} is infeasible with {n} calibration samples: expected at least {needed} \
         (alpha >= 1/(N+1), here {}); calibrate on more queries, raise alpha, or pass \
         on_infeasible=\"defer\" (--on-infeasible defer) to send every query to the edge",
        least_alpha(*n)
    )]
    Infeasible {
        /// The risk level asked for.
        alpha: f64,
        /// Calibration samples at hand.
        n: usize,
        /// Fewest samples that make `alpha` feasible.
        needed: u128,
    },
    /// No threshold can promise this risk everywhere on the grid with so few calibration samples.
    #[error(
        "alpha={alpha} is infeasible with {n} calibration samples for {} x {} cells at once; calibrate \
         on more queries, on fewer cells, or with a larger delta, or pass on_infeasible=\"defer\" \
         (--on-infeasible defer) to send every query to the edge there", cells.0, cells.1
    )]
    InfeasibleAtOnce {
        /// The risk level asked for.
        alpha: f64,
        /// Calibration samples at hand.
        n: usize,
        /// Cost weights and risk levels of the grid.
        cells: (usize, usize),
    },
    /// The operating point was never calibrated in λ.
    #[error(
        "lam={} is not on the calibrated grid: expected one of its {size} points, nearest {nearest}",
        number(*lam)
    )]
    LamOffGrid {
        /// The λ asked for.
        lam: f64,
        /// Points on the grid.
        size: usize,
        /// The neighbours, in words.
        nearest: String,
    },
    /// The operating point was never calibrated in α.
    #[error("alpha={} is not calibrated: expected one of {}", number(*alpha), listed(known))]
    AlphaOffGrid {
        /// The α asked for.
        alpha: f64,
        /// What the artifact holds.
        known: Vec<f64>,
    },
    /// No model that a call may use keeps the call's limits.
    #[error(
        "budget: expected limits that some model meets{}, got {limits}, which none does; the nearest \
         is {nearest}", row.map_or_else(String::new, |i| format!(" in row {i}"))
    )]
    Budget {
        /// The limits asked for.
        limits: String,
        /// The nearest model, in words.
        nearest: String,
        /// Row of a batch.
        row: Option<usize>,
    },
    /// The router has no thresholds yet.
    #[error(
        "router: expected a calibrated router, got one without thresholds; run Router.calibrate (or `cr2fast calibrate`) first"
    )]
    NotCalibrated,
    /// A cost table breaks its schema.
    #[error("cost table: {}: expected {}, got {}", shown(field), shown(expected), shown(got))]
    CostTable {
        /// JSON path of the offending field.
        field: String,
        /// What the schema asks for.
        expected: String,
        /// What the file says.
        got: String,
    },
    /// Model names or their order differ between two parts.
    #[error(
        "models of the {}: expected {} in this order, got {}{}",
        shown(what),
        listed(expected),
        listed(got),
        first_difference(expected, got)
    )]
    Models {
        /// Which part disagrees.
        what: String,
        /// The names that rule.
        expected: Vec<String>,
        /// The names that came.
        got: Vec<String>,
    },
    /// Queries that were already used in another split.
    #[error(
        "{what}: expected {} the {used_in} split, got {count} {} (first: \"{}\"); an overlap voids \
         the guarantee: take other queries, or leave these out with overlap=\"drop\" (--overlap drop)",
        match same {
            Same::Id => "query ids disjoint from",
            Same::Content => "queries that say something else than those of",
        },
        match same {
            Same::Id => "shared",
            Same::Content => "that say the same under other ids",
        },
        shown(first)
    )]
    Overlap {
        /// The split offered.
        what: String,
        /// The split that already used them.
        used_in: &'static str,
        /// By what they are known.
        same: Same,
        /// How many are shared.
        count: usize,
        /// One of them.
        first: String,
    },
    /// An embedding for a router that also looks at features.
    #[error(
        "embedding: expected a row of {rows}, {dim} numbers, got an embedding only, {width}: this router \
         also looks at {features}; {advice}"
    )]
    EmbeddingOnly {
        /// The call that makes rows.
        rows: &'static str,
        /// Width of a row.
        dim: usize,
        /// Width of what came, the embedding's.
        width: usize,
        /// What the router looks at, in words.
        features: String,
        /// What to do.
        advice: String,
    },
    /// The artifact's bytes are not a valid router.
    #[error("artifact: expected {}, got {}", shown(expected), shown(got))]
    Artifact {
        /// What the format asks for.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// A saved state is damaged, forged, or another kind's.
    #[error("{what}: expected {}, got {}", shown(expected), shown(got))]
    State {
        /// Which kind of state.
        what: &'static str,
        /// What the format asks for.
        expected: String,
        /// What the bytes hold.
        got: String,
    },
    /// The artifact was written by a newer format.
    #[error(
        "artifact: expected format {expected}, got \"{}\"; upgrade cr2fast to read it",
        shown(got)
    )]
    Version {
        /// The format this build reads.
        expected: &'static str,
        /// The format of the file.
        got: String,
    },
    /// The artifact belongs to another encoder.
    #[error(
        "encoder: the router was fitted on embeddings of {expected}, got {got}; margins of another \
         encoder mean nothing"
    )]
    Encoder {
        /// Encoder of the artifact, its name and hash of bounded length each.
        expected: String,
        /// Encoder of the caller, likewise.
        got: String,
    },
    /// The operating system said no.
    #[error("{}: {source}", shown(path))]
    Io {
        /// File concerned.
        path: String,
        /// The system's words.
        source: std::io::Error,
    },
}

/// The least α that N samples can promise, as a number that may be typed.
fn least_alpha(n: usize) -> f64 {
    1.0 / (n as f64 + 1.0)
}

impl Error {
    /// An [`Error::Argument`] from anything printable.
    pub fn argument(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Argument { what: what.into(), expected: expected.into(), got: got.to_string() }
    }

    /// The same error, of row `i` of a batch.
    #[must_use]
    pub fn of_row(self, i: usize) -> Self {
        match self {
            Self::Budget { limits, nearest, .. } => Self::Budget { limits, nearest, row: Some(i) },
            other => other,
        }
    }

    /// An [`Error::Argument`] for a router that cannot tell p-values.
    pub(crate) fn no_typicality() -> Self {
        Self::argument(
            "typicality",
            "a router fitted and calibrated with typicality",
            "one of an earlier version, or not calibrated; fit and calibrate again",
        )
    }

    /// An [`Error::State`] from anything printable.
    pub(crate) fn state(
        what: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::State { what, expected: expected.into(), got: got.to_string() }
    }

    /// An [`Error::Artifact`] from anything printable.
    pub fn artifact(expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Artifact { expected: expected.into(), got: got.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_begin_alike_say_where_they_differ() {
        let names = |last: &str| {
            (0..20).map(|i| format!("m{i}")).chain([last.to_string()]).collect::<Vec<_>>()
        };
        let said = |expected: Vec<String>, got: Vec<String>| {
            Error::Models { what: "table".into(), expected, got }.to_string()
        };
        let words = said(names("a"), names("b"));
        assert!(words.ends_with("; the first to differ is number 21: \"a\" and \"b\""), "{words}");
        let words = said(names("a"), names("a")[..20].to_vec());
        assert!(words.ends_with("is number 21: \"a\" and none"), "{words}");
        let words = said(names("a")[..2].to_vec(), names("b")[1..3].to_vec());
        assert!(!words.contains("differ"), "two short lists show it themselves: {words}");
    }
}
