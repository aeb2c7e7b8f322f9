//! A request between its reading and its answer.

use std::sync::Arc;

use tokio::time::Instant;

use crate::ask::{Ask, Kind};
use crate::brain::{Brain, Point};
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
    /// When it was there in full.
    pub read: Instant,
}
