//! The meter in `/metrics`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, &'static str)>;

/// What is counted of the meter itself.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    readings: Family<Labels, Counter>,
    unmeasured: Family<Labels, Counter>,
}

impl Counts {
    /// Under their names.
    pub fn register(&self, r: &mut Registry) {
        let help = "Readings of the energy counters, by result";
        r.register("energy_readings", help, self.readings.clone());
        let help = "Answered requests without measured joules, by reason";
        r.register("energy_unmeasured", help, self.unmeasured.clone());
    }

    /// A reading, and how it went.
    pub fn read(&self, result: &'static str) {
        self.readings.get_or_create(&vec![("result", result)]).inc();
    }

    /// A request without joules.
    pub fn without(&self, reason: &'static str) {
        self.unmeasured.get_or_create(&vec![("reason", reason)]).inc();
    }
}
