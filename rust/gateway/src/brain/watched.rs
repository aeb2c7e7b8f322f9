//! The promise watched: whose threshold serves a request, and its label.
//!
//! In: calls and decisions. Out: the point that counts them, handed on to be labelled; labels, with the
//! bits of a calibration's; and the places that a saved state may name.

use std::sync::Arc;

use cr2fast_core::{Budget, Decision, DeviceRouter, Query, Whose};

use super::{Brain, Call, Point, bounded};
use crate::link::Measured;
use crate::promise::{Decided, Judge, Kept, Known, Place, Point as Watched};

impl Brain {
    /// The promise is watched from now on.
    pub fn watched_by(&mut self, kept: Arc<Kept>) {
        self.kept = Some(kept);
    }

    pub(super) fn watched(&self, device: &DeviceRouter, call: &Call) -> Option<Arc<Watched>> {
        self.kept.as_ref()?.point(device, call.group, || self.range(device.lam()))
    }

    /// Have a decision labelled, off the request's path.
    pub fn watch(self: &Arc<Self>, id: &str, call: &Call, decision: &Decision, measured: Measured) {
        let (Some(kept), Ok(stages)) = (&self.kept, self.stages(call.point)) else { return };
        let Some(point) = self.watched(stages.device(), call) else { return };
        kept.put(Decided {
            id: id.into(),
            judge: Arc::<Self>::clone(self),
            point,
            margin: (decision.margin, decision.threshold),
            local: decision.local,
            embedding: call.embedding.into(),
            input_tokens: call.input_tokens,
            measured,
        });
    }

    /// Range of the margins that calibration kept at a λ; none of an old file, which kept none.
    fn range(&self, lam: f64) -> Option<(f32, f32)> {
        let c = self.router.calibration()?;
        let at = c.lams.iter().position(|l| l.to_bits() == lam.to_bits())?;
        let row = c.quantiles.chunks_exact((c.quantiles.len() / c.lams.len()).max(1)).nth(at)?;
        Some((*row.first()?, *row.last()?))
    }
}

impl Judge for Brain {
    fn router(&self) -> &str {
        &self.hash
    }

    fn prefers_edge(
        &self,
        lam: f64,
        (embedding, input_tokens): (&[f32], u64),
        measured: Measured,
        seed: u64,
    ) -> cr2fast_core::Result<bool> {
        let drawn = self.router.costs().link().sample_each(&[seed])?;
        let query = Query {
            embedding,
            n_input_tokens: input_tokens as f64,
            n_output_tokens: None,
            state: measured.or(drawn[0]),
            available: None,
            waiting_s: None,
            budget: Budget::default(),
        };
        self.selector(lam)?.prefers_edge(&query)
    }

    fn place(&self, place: &Place) -> Result<Known, String> {
        let (lam, alpha, _) =
            self.router.threshold(place.lam, place.alpha).map_err(|e| bounded(&e))?;
        let stages = self.stages(Point { lam, alpha }).map_err(|e| bounded(&e))?;
        let device = stages.device();
        let calibrated = match (device.whose(place.group.as_deref()), &place.group) {
            (Ok(Whose::All), None) => device.threshold(),
            (Ok(Whose::Group(_, threshold)), Some(_)) => threshold,
            _ => return Err("a group that has no threshold".into()),
        };
        let group = place.group.clone();
        Ok(Known { place: Place { lam, alpha, group }, calibrated, range: self.range(lam) })
    }
}
