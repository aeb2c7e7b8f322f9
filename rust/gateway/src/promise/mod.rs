//! The promise in service: every request that stage one decides is labelled, and the labels watched.
//!
//! In: decisions, each with its embedding and what is known of the link, through a bounded queue; one
//! that finds it full is dropped and counted. Out: per operating point (and group) an alarm that is valid
//! at every moment and, where the file asks for it, a threshold that follows the labels; a line of the
//! decision log for each alarm; a state that outlives the process.
//!
//! Whoever decides can label: with the teacher as judge and predicted lengths r needs the embedding, L_in
//! and ξ, and the router's file holds all of its networks. What is not measured of ξ is drawn from the
//! cost table, as in a calibration, by a seed that is the request's own: `cr2fast.traffic.label` gives
//! the same labels.

mod gauges;
mod kept;
mod point;
mod queue;
mod state;
mod worker;

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::config::{Config, ConfigError, PromiseConfig};
use crate::link::Measured;
use crate::log::Log;
use point::Rules;
use queue::{Queue, Work};
use worker::{Saver, Worker, save};

pub use point::{Known, Place, Point};

pub use gauges::Gauges;
pub use kept::Kept;

/// What decides, as far as labels need it.
pub trait Judge: std::fmt::Debug + Send + Sync {
    /// SHA-256 of the router's file.
    fn router(&self) -> &str;

    /// The label r of a request at λ; `seed` draws what is not measured of its link.
    fn prefers_edge(
        &self,
        lam: f64,
        of: (&[f32], u64),
        measured: Measured,
        seed: u64,
    ) -> cr2fast_core::Result<bool>;

    /// A place that a state names, as the grid spells it; or why the router has none such.
    fn place(&self, place: &Place) -> Result<Known, String>;
}

/// A decision to label.
#[derive(Debug)]
pub struct Decided {
    /// The request's id.
    pub id: String,
    /// What decided.
    pub judge: Arc<dyn Judge>,
    /// Where it counts.
    pub point: Arc<Point>,
    /// Δ̂ and τ.
    pub margin: (f32, f32),
    /// Whether stage one accepted.
    pub local: bool,
    /// e(x).
    pub embedding: Vec<f32>,
    /// L_in.
    pub input_tokens: u64,
    /// What is known of the link.
    pub measured: Measured,
}

/// The watch of a gateway, over all routers that it loads.
#[derive(Debug)]
pub struct Promise {
    rules: Rules,
    path: Option<PathBuf>,
    queue: Queue,
    kept: Arc<RwLock<Arc<Kept>>>,
    worker: Option<JoinHandle<()>>,
}

impl Promise {
    /// Restore the state, if there is one, and start the worker.
    pub fn start(
        config: &Config,
        judge: &dyn Judge,
        log: &Arc<Log>,
        gauges: &Gauges,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(settings) = &config.promise else { return Ok(None) };
        let rules = Rules::from(settings);
        let (work, decided) = sync_channel(settings.queue);
        let queue = Queue::new(work, gauges.clone());
        let first = Kept::new(rules, judge.router(), queue.clone());
        if let Restored::Aside(path, router) = restore(config, settings, judge, &first)? {
            let aside = aside(&path, &router);
            let moved = std::fs::rename(&path, &aside).map_or_else(
                |e| format!("could not be set aside ({e}) and is overwritten"),
                |()| format!("is now {}", aside.display()),
            );
            crate::say(&format!(
                "promise.state: {} is of the router {router}, not of the one that is loaded; alarms begin anew, and the old state {moved}",
                path.display()
            ));
        }
        let first = Arc::new(first);
        let kept = Arc::new(RwLock::new(first));
        let path = settings.state.as_ref().map(|path| path.value.clone());
        let saver = Saver { path: path.clone(), every: settings.save, kept: Arc::clone(&kept) };
        let (log, gauges) = (Arc::clone(log), gauges.clone());
        let worker = std::thread::Builder::new()
            .name("promise".into())
            .spawn(move || Worker { rules, saver, log, gauges, failed: false }.run(&decided))
            .map_err(|e| ConfigError {
                path: config.path.clone(),
                line: None,
                message: format!("promise: expected to start a thread, got: {e}"),
            })?;
        Ok(Some(Self { rules, path, queue, kept, worker: Some(worker) }))
    }

    /// What a state file that is there would be refused for; starts nothing.
    pub fn check(config: &Config, judge: &dyn Judge) -> Result<Vec<String>, ConfigError> {
        let Some(settings) = &config.promise else { return Ok(vec![]) };
        let (work, _) = sync_channel(1);
        let queue = Queue::new(work, Gauges::default());
        let kept = Kept::new(Rules::from(settings), judge.router(), queue);
        let mut lines = vec![format!(
            "watches the promise: δ = {}, {} thresholds, on an alarm: {}",
            settings.delta,
            settings.threshold.word(),
            settings.on_alarm.word()
        )];
        match restore(config, settings, judge, &kept)? {
            Restored::Nothing => {}
            Restored::Points(n) => {
                lines.push(format!("goes on from the saved state of {n} points"));
            }
            Restored::Aside(path, router) => lines.push(format!(
                "sets {} aside, which is of the router {router}: alarms begin anew",
                path.display()
            )),
        }
        Ok(lines)
    }

    /// A router is about to take another's place: alarms begin anew, unless it is the same one.
    pub fn reload(&self, judge: &dyn Judge) -> Arc<Kept> {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.router() != judge.router() {
            *kept = Arc::new(Kept::new(self.rules, judge.router(), self.queue.clone()));
            crate::say("another router is loaded: the promise's alarms and thresholds begin anew");
            if let Some(path) = &self.path {
                save(path, &kept, &self.queue.gauges);
            }
        }
        Arc::clone(&kept)
    }

    /// What is counted of the router that serves.
    pub fn kept(&self) -> Arc<Kept> {
        Arc::clone(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// All that is known, once the labels are counted that came before the call.
    pub async fn told(&self) -> serde_json::Value {
        let (done, counted) = oneshot::channel();
        let asked = self.queue.work.try_send(Work::Flush(done)).is_ok();
        let whole = asked && counted.await.is_ok();
        let mut told = self.kept().told();
        told["labels_dropped"] = self.queue.gauges.dropped.get().into();
        told["complete"] = whole.into();
        told
    }

    /// Set the gauges to what is counted now.
    pub fn measure(&self) {
        self.queue.gauges.set(&self.kept());
    }
}

impl Drop for Promise {
    /// Count what waits, and write the state.
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            let _ = self.queue.work.send(Work::Stop);
            let _ = worker.join();
        }
    }
}

/// A name beside a state's, with the router that it is of.
fn aside(path: &std::path::Path, router: &str) -> PathBuf {
    let word: String = router.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{word}"));
    path.with_file_name(name)
}

enum Restored {
    Nothing,
    Points(usize),
    /// A state of another router.
    Aside(PathBuf, String),
}

fn restore(
    config: &Config,
    settings: &PromiseConfig,
    judge: &dyn Judge,
    kept: &Kept,
) -> Result<Restored, ConfigError> {
    let Some(path) = &settings.state else { return Ok(Restored::Nothing) };
    let rules = Rules::from(settings);
    let begin = |place: &Place| {
        let known = judge.place(place)?;
        rules.begin(&known).map_err(|e| e.to_string()).map(|counted| (known, counted))
    };
    let expected = state::Expected { router: judge.router(), rules: &rules, begin: &begin };
    match state::load(&path.value, &expected) {
        Ok(None) => Ok(Restored::Nothing),
        Ok(Some(points)) => {
            let n = points.len();
            for (known, counted) in points {
                kept.restore(known, counted);
            }
            Ok(Restored::Points(n))
        }
        Err(state::Refused::Router(router)) => Ok(Restored::Aside(path.value.clone(), router)),
        Err(state::Refused::Other(got)) => Err(ConfigError {
            path: config.path.clone(),
            line: Some(path.line),
            message: format!(
                "promise.state: expected the state of this router at delta = {}, threshold = {:?}, got {got} in {}; name another file, or remove this one to begin anew",
                settings.delta,
                settings.threshold.word(),
                path.value.display()
            ),
        }),
    }
}
