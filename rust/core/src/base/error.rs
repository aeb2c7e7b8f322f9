//! What can be wrong, one variant for each way a caller can be wrong.
//!
//! Every message names the argument, what was expected and what came.

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The one error type of the crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has the wrong shape, range or kind.
    #[error("{what}: expected {expected}, got {got}")]
    Argument {
        /// Name of the argument.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What came instead.
        got: String,
    },
    /// A float array holds NaN or an infinity.
    #[error("{what}: expected finite numbers, got {value} at flat index {index}")]
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
         (alpha >= 1/(N+1)); calibrate on more queries, raise alpha, or pass \
         on_infeasible=\"defer\" (--on-infeasible defer) to send every query to the edge"
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
        "lam={lam} is not on the calibrated grid: expected one of its {size} points, nearest {nearest}"
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
    #[error("alpha={alpha} is not calibrated: expected one of {known:?}")]
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
    #[error("cost table: {field}: expected {expected}, got {got}")]
    CostTable {
        /// JSON path of the offending field.
        field: String,
        /// What the schema asks for.
        expected: String,
        /// What the file says.
        got: String,
    },
    /// Model names or their order differ between two parts.
    #[error("models of the {what}: expected {expected:?} in this order, got {got:?}")]
    Models {
        /// Which part disagrees.
        what: String,
        /// The names that rule.
        expected: Vec<String>,
        /// The names that came.
        got: Vec<String>,
    },
    /// Query ids that were already used in another split.
    #[error(
        "{what}: expected query ids disjoint from the {used_in} split, got {count} shared (first: {first:?}); an overlap voids the guarantee"
    )]
    Overlap {
        /// The split offered.
        what: String,
        /// The split that already used them.
        used_in: &'static str,
        /// How many ids are shared.
        count: usize,
        /// One of them.
        first: String,
    },
    /// The artifact's bytes are not a valid router.
    #[error("artifact: expected {expected}, got {got}")]
    Artifact {
        /// What the format asks for.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// The artifact was written by a newer format.
    #[error("artifact: expected format {expected}, got {got:?}; upgrade cr2fast to read it")]
    Version {
        /// The format this build reads.
        expected: &'static str,
        /// The format of the file.
        got: String,
    },
    /// The artifact belongs to another encoder.
    #[error(
        "encoder: the router was fitted on embeddings of {expected}, got {got}; margins of another encoder mean nothing"
    )]
    Encoder {
        /// Encoder of the artifact.
        expected: String,
        /// Encoder of the caller.
        got: String,
    },
    /// The operating system said no.
    #[error("{path}: {source}")]
    Io {
        /// File concerned.
        path: String,
        /// The system's words.
        source: std::io::Error,
    },
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

    /// An [`Error::Artifact`] from anything printable.
    pub fn artifact(expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Artifact { expected: expected.into(), got: got.to_string() }
    }
}
