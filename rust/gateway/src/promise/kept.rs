//! What is counted of one router: a point for each operating point and group that requests came at.
//!
//! In: the points that requests ask for, on the router's grid, so that no client can make more of them.
//! Out: each point's threshold and state; all of them in words, and as the text of the state's file.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use cr2fast_core::{DeviceRouter, Whose};
use serde_json::{Value, json};

use super::point::{Counted, Known, Place, Point, Rules};
use super::queue::Queue;
use super::{Decided, state};

/// Points of one (λ, α).
#[derive(Debug, Default)]
struct Cell {
    /// Of the threshold of all.
    all: Option<Arc<Point>>,
    groups: HashMap<String, Arc<Point>>,
}

/// What is counted of one router.
#[derive(Debug)]
pub struct Kept {
    rules: Rules,
    /// SHA-256 of the router's file.
    router: String,
    queue: Queue,
    cells: RwLock<HashMap<(u64, u64), Cell>>,
}

impl Kept {
    /// Nothing counted yet.
    pub fn new(rules: Rules, router: &str, queue: Queue) -> Self {
        Self { rules, router: router.into(), queue, cells: RwLock::default() }
    }

    /// SHA-256 of the router's file.
    pub fn router(&self) -> &str {
        &self.router
    }

    /// Hand a decision over to be labelled.
    pub fn put(&self, decided: Decided) {
        self.queue.put(decided);
    }

    /// The point of a request, made where it is the first there; none where its group is nobody's, since
    /// all such requests are deferred. `range` tells the range of the calibration's margins.
    pub fn point(
        &self,
        device: &DeviceRouter,
        group: Option<&str>,
        range: impl FnOnce() -> Option<(f32, f32)>,
    ) -> Option<Arc<Point>> {
        let (name, calibrated) = match device.whose(group).ok()? {
            Whose::All => (None, device.threshold()),
            Whose::Group(name, threshold) => (Some(name), threshold),
            Whose::Nobody => return None,
        };
        let (lam, alpha) = (device.lam(), device.alpha());
        let key = (lam.to_bits(), alpha.to_bits());
        let found = |cell: &Cell| match name {
            None => cell.all.clone(),
            Some(name) => cell.groups.get(name).cloned(),
        };
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(point) = cells.get(&key).and_then(found) {
            return Some(point);
        }
        drop(cells);
        let place = Place { lam, alpha, group: name.map(String::from) };
        let at = Known { place, calibrated, range: range() };
        let counted = self.rules.begin(&at).ok()?;
        Some(self.keep(Point::new(at, counted, &self.rules)))
    }

    /// Go on from what was saved; whose threshold it is was checked.
    pub fn restore(&self, at: Known, counted: Counted) {
        self.keep(Point::new(at, counted, &self.rules));
    }

    /// The point that is there, or this one.
    fn keep(&self, point: Point) -> Arc<Point> {
        let key = (point.place.lam.to_bits(), point.place.alpha.to_bits());
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let cell = cells.entry(key).or_default();
        let slot = match point.place.group.clone() {
            None => &mut cell.all,
            Some(name) => {
                return Arc::clone(cell.groups.entry(name).or_insert_with(|| Arc::new(point)));
            }
        };
        Arc::clone(slot.get_or_insert_with(|| Arc::new(point)))
    }

    /// All of them, in the order of λ, α and group.
    pub fn points(&self) -> Vec<Arc<Point>> {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        let of =
            |cell: &Cell| cell.all.iter().chain(cell.groups.values()).cloned().collect::<Vec<_>>();
        let mut points: Vec<Arc<Point>> = cells.values().flat_map(of).collect();
        drop(cells);
        points.sort_by(|a, b| {
            let (a, b) = (&a.place, &b.place);
            a.lam.total_cmp(&b.lam).then(a.alpha.total_cmp(&b.alpha)).then(a.group.cmp(&b.group))
        });
        points
    }

    /// For people and programs.
    pub fn told(&self) -> Value {
        json!({
            "object": "cr2fast.promise",
            "router": self.router,
            "delta": self.rules.delta,
            "threshold": self.rules.threshold.word(),
            "on_alarm": self.rules.on_alarm.word(),
            "window": self.rules.window,
            "points": self.points().iter().map(|p| p.told(&self.rules)).collect::<Vec<_>>(),
        })
    }

    /// The text of the state's file.
    pub fn text(&self) -> Vec<u8> {
        let points = self.points();
        let all = points.iter().map(|p| (&p.place, p.snapshot()));
        state::text(&self.router, &self.rules, all)
    }
}
