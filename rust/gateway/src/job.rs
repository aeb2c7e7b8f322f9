//! A request between its reading and its answer.

use std::sync::Arc;

use cr2fast_core::LinkState;
use tokio::time::Instant;

use crate::ask::{Ask, Kind};
use crate::brain::{Brain, Call, Estimate, Point};
use crate::context::Context;
use crate::wire::{Deferral, Wish};

/// A request, read and understood.
#[derive(Debug)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What decides; a reload does not change it under way.
    pub brain: Arc<Brain>,
    /// What is asked.
    pub ask: Ask,
    /// Which endpoint.
    pub kind: Kind,
    /// The operating point; none for a request that names a model.
    pub point: Option<Point>,
    /// What its headers ask for.
    pub wish: Wish,
    /// What the device gateway says, where one asks.
    pub deferral: Option<Deferral>,
    /// The trace that it belongs to.
    pub context: Option<Context>,
    /// When it was there in full.
    pub read: Instant,
}

impl Job {
    /// What the core is asked about; none where text does not decide.
    pub fn call<'a>(
        &'a self,
        embedding: Option<&'a [f32]>,
        input_tokens: u64,
        state: LinkState,
    ) -> Option<Call<'a>> {
        Some(Call {
            point: self.point?,
            embedding: embedding?,
            input_tokens,
            state,
            budget: self.wish.budget(),
            group: self.wish.group.as_deref(),
        })
    }

    /// What a model is expected to take.
    pub fn estimate(&self, call: &Call, model: &str) -> Option<Estimate> {
        let at = self.brain.models().iter().position(|m| m == model)?;
        self.brain.estimate(at, call)
    }
}
