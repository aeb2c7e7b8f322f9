//! What can go wrong in a fit: the core's error, the tensor library's, a stop that the caller asked
//! for, a loss that diverges.

/// Result of a fit.
pub type Result<T> = std::result::Result<T, TrainError>;

/// The one error type of the crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A wrong argument, or the core refused something.
    #[error(transparent)]
    Core(#[from] cr2fast_core::Error),
    /// The tensor library failed.
    #[error("training: expected the tensor library to succeed, got {0}")]
    Tensor(#[from] candle_core::Error),
    /// The caller asked to stop.
    #[error("training was interrupted")]
    Interrupted,
    /// The loss became NaN or infinite.
    #[error(
        "training of the {stage}: expected a finite loss, got {loss} in epoch {epoch}; lower lr"
    )]
    Diverged {
        /// Which network.
        stage: &'static str,
        /// Epoch, from 1.
        epoch: usize,
        /// The loss.
        loss: f64,
    },
}

impl TrainError {
    /// A wrong argument.
    pub fn argument(what: &str, expected: &str, got: impl ToString) -> Self {
        Self::Core(cr2fast_core::Error::argument(what, expected, got))
    }
}
