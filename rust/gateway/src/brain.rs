//! What decides: a router, its encoder, and the operating points that requests ask for.
//!
//! In: files, then texts, embeddings and points. Out: decisions of `cr2fast-core`, the same bits as
//! everywhere. Immutable once loaded; a reload makes another one beside it.

mod rule;
mod watched;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use cr2fast_core::{
    Budget, Choice, Decision, DeviceRouter, EdgeSelector, Error, LinkState, Query, Router, Rule,
    Selection, StaticEncoder, TwoStage,
};
use sha2::{Digest, Sha256};

use crate::ask::Texts;
use crate::config::{Config, ConfigError, EncoderConfig, Lined};
use crate::encoding::{Encoded, Encoder, ask, bounded, encode, encoder_hash, endpoint};
use crate::endpoint::Endpoint;
use crate::heavy::{LONG, away};
use crate::link::Measured;
use crate::log::LinkRecord;
use crate::promise::Kept;
use crate::refusal::Refusal;
use crate::tls::Trust;

/// Largest file read: as the core's own bound on artifacts is finer, this one only stops a mix-up.
const MAX_FILE: u64 = 1 << 31;

/// An operating point on the calibrated grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// λ, as the grid spells it.
    pub lam: f64,
    /// α, as the grid spells it.
    pub alpha: f64,
}

/// One routed request, as the core is asked about it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// λ and α.
    pub point: Point,
    /// e(x).
    pub embedding: &'a [f32],
    /// L_in.
    pub input_tokens: u64,
    /// ξ.
    pub state: LinkState,
    /// What it may cost at most.
    pub budget: Budget,
    /// Whose threshold applies.
    pub group: Option<&'a str>,
}

impl<'a> Call<'a> {
    fn query(&self) -> Query<'a> {
        Query {
            embedding: self.embedding,
            n_input_tokens: self.input_tokens as f64,
            n_output_tokens: None,
            state: self.state,
            available: None,
            waiting_s: None,
            budget: self.budget,
        }
    }
}

/// What the cost table expects of a model; none where it cannot tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// L̂_out.
    pub output_tokens: f64,
    /// t, s.
    pub latency_s: Option<f64>,
    /// e, J.
    pub energy_j: Option<f64>,
    /// d, $.
    pub usd: Option<f64>,
}

/// A router and its encoder.
#[derive(Debug)]
pub struct Brain {
    router: Router,
    encoder: Encoder,
    /// What device and edge compare of their encoders.
    encoder_hash: String,
    /// SHA-256 of the router's file.
    hash: String,
    default: (f64, f64),
    /// ξ where nothing is measured.
    typical: LinkState,
    /// Whether the cost table has a link.
    linked: bool,
    rule: Rule,
    /// Who watches the promise, where anybody does.
    kept: Option<Arc<Kept>>,
    stages: RwLock<HashMap<(u64, u64), Arc<TwoStage>>>,
    selectors: RwLock<HashMap<u64, Arc<EdgeSelector>>>,
}

impl Brain {
    /// Load and check what a configuration names.
    pub fn load(config: &Config, trust: &Trust) -> Result<Self, ConfigError> {
        let wrong = |line: usize, message: String| ConfigError {
            path: config.path.clone(),
            line: Some(line),
            message,
        };
        let files = &config.router;
        let read = |file: &Lined<std::path::PathBuf>, key: &str| {
            let long = std::fs::metadata(&file.value).map(|m| m.len());
            let bytes = match long {
                Ok(bytes) if bytes > MAX_FILE => Err(format!("a file of {bytes} bytes")),
                _ => std::fs::read(&file.value).map_err(|e| e.to_string()),
            };
            bytes.map_err(|got| {
                let path = file.value.display();
                wrong(
                    file.line,
                    format!("{key}: expected a file that can be read, got {path}: {got}"),
                )
            })
        };
        let bytes = read(&files.path, "router.path")?;
        let core = |line: usize, key: &'static str| {
            move |e: Error| wrong(line, format!("{key}: {}", bounded(&e)))
        };
        let router = Router::from_bytes(&bytes).map_err(core(files.path.line, "router.path"))?;
        let encoder = match &files.encoder {
            EncoderConfig::File(file) => {
                let encoder = StaticEncoder::from_bytes(&read(file, "router.encoder")?)
                    .map_err(core(file.line, "router.encoder"))?;
                let checked = router.encoder().check(encoder.info());
                checked.map_err(core(file.line, "router.encoder"))?;
                let (expected, got) = (router.embedding_dim(), encoder.dim());
                if expected != got {
                    let words = format!(
                        "router.encoder: expected embeddings of width {expected}, got {got}"
                    );
                    return Err(wrong(file.line, words));
                }
                Encoder::Table(Arc::new(encoder))
            }
            EncoderConfig::Endpoint(file) => {
                Encoder::Endpoint(Arc::new(endpoint(config, file, &router, trust)?))
            }
        };
        if let Some(columns) = router.features().map(|f| f.columns()).filter(|c| !c.is_empty()) {
            let words = format!(
                "router.path: expected a router that looks at texts, got one that also looks at \
                 columns of its caller's: {}",
                columns.join(", ").chars().take(200).collect::<String>()
            );
            return Err(wrong(files.path.line, words));
        }
        let hash = Sha256::digest(&bytes).iter().fold(String::new(), |s, b| format!("{s}{b:02x}"));
        let point = &files.point;
        point.check_router(&hash).map_err(|(line, words)| wrong(line, words))?;
        let (lam, alpha) = (point.lam.value, point.alpha.value);
        router.threshold(lam, alpha).map_err(|e| {
            let of_alpha = match &e {
                Error::Argument { what, .. } => what == "alpha",
                e => matches!(e, Error::AlphaOffGrid { .. }),
            };
            let line = if of_alpha { point.alpha.line } else { point.lam.line };
            core(line, "router")(e)
        })?;
        let typical =
            router.costs().link().typical().map_err(core(files.path.line, "router.path"))?;
        // Transfers without a link have no bits.
        let linked = router.costs().link().bits_per_input_token > 0.0;
        let rule = rule::rule(config, &router, &wrong)?;
        let brain = Self {
            encoder_hash: encoder_hash(&router, &encoder),
            router,
            encoder,
            hash,
            default: (lam, alpha),
            typical,
            linked,
            rule,
            kept: None,
            stages: RwLock::default(),
            selectors: RwLock::default(),
        };
        let point = brain.point(None, None).map_err(|r| wrong(files.point.lam.line, r.message))?;
        brain.stages(point).map_err(core(files.point.lam.line, "router"))?;
        Ok(brain)
    }

    /// SHA-256 of the router's file.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What device and edge compare.
    pub fn encoder_hash(&self) -> &str {
        &self.encoder_hash
    }

    /// The server that embeds, where one does.
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match &self.encoder {
            Encoder::Table(_) => None,
            Encoder::Endpoint(endpoint) => Some(endpoint),
        }
    }

    /// Model names, the device's first.
    pub fn models(&self) -> &[String] {
        self.router.models()
    }

    /// Whether groups have thresholds of their own.
    pub fn has_groups(&self) -> bool {
        self.router.calibration().is_some_and(|c| c.groups.is_some())
    }

    /// Width of what networks read: the embedding's, and the features'.
    pub fn dim(&self) -> usize {
        self.router.dim()
    }

    /// The point that a request asks for; a 400 that names the neighbours where it is off the grid.
    pub fn point(&self, lam: Option<f64>, alpha: Option<f64>) -> Result<Point, Refusal> {
        let (lam, alpha) = (lam.unwrap_or(self.default.0), alpha.unwrap_or(self.default.1));
        let (lam, alpha, _) = self
            .router
            .threshold(lam, alpha)
            .map_err(|e| Refusal::bad("operating_point", bounded(&e)))?;
        Ok(Point { lam, alpha })
    }

    /// Count what a request holds, and embed it where no embedding came with it.
    pub async fn encode(&self, texts: &Arc<Texts>, embed: bool) -> Result<Encoded, Refusal> {
        let features = self.router.features();
        let table = match &self.encoder {
            Encoder::Endpoint(endpoint) => return ask(endpoint, features, texts, embed).await,
            Encoder::Table(table) => table,
        };
        if texts.len() <= LONG {
            return encode(table, features.map(AsRef::as_ref), texts, embed);
        }
        let (encoder, texts) = (Arc::clone(table), Arc::clone(texts));
        let features = features.cloned();
        let done = away(move || encode(&encoder, features.as_deref(), &texts, embed)).await;
        done.unwrap_or_else(|| Err(Refusal::internal("the encoder stopped")))
    }

    /// Both stages at a point; those of one λ share what is large.
    fn stages(&self, point: Point) -> cr2fast_core::Result<Arc<TwoStage>> {
        let (lam, alpha) = (point.lam, point.alpha);
        cached(&self.stages, (lam.to_bits(), alpha.to_bits()), || {
            let device = DeviceRouter::new(&self.router, lam, alpha)?;
            TwoStage::of(device, self.selector(lam)?.as_ref().clone())
        })
    }

    fn selector(&self, lam: f64) -> cr2fast_core::Result<Arc<EdgeSelector>> {
        cached(&self.selectors, lam.to_bits(), || EdgeSelector::new(&self.router, lam, self.rule))
    }

    /// Stage one; within a budget both stages, as [`TwoStage::route`] has it.
    pub fn decide(&self, call: &Call) -> Result<(Decision, Option<Choice>), Refusal> {
        let stages = self.stages(call.point).map_err(|e| Refusal::internal(&bounded(&e)))?;
        let device = stages.device();
        let threshold = self.watched(device, call).map(|point| point.threshold());
        if call.budget.is_none() {
            let decision = match threshold {
                Some(by) => device.route_by((by, Some(&call.state)), call.embedding, false),
                None => device.route_in((call.group, Some(&call.state)), call.embedding, false),
            };
            return decision.map(|d| (d, None)).map_err(|e| refused(&e));
        }
        let (state, budget) = (Some(call.state), call.budget);
        let group = call.group;
        let limits = cr2fast_core::Call { state, budget, group, threshold, ..Default::default() };
        let choice = stages.route(call.embedding, call.input_tokens as f64, &limits);
        choice.map(|c| (c.decision, Some(c))).map_err(|e| refused(&e))
    }

    /// From a request to its first content on an idle server, s; none where the table cannot tell.
    pub fn idle_s(&self, model: usize, input_tokens: u64) -> Option<f64> {
        let model = self.router.costs().table().models.get(model)?;
        let seconds = model.inference_s(input_tokens as f64, 0.0);
        Some(seconds).filter(|s| s.is_finite())
    }

    /// Stage two, among the models that are up, each with its queueing delay, s, where that is known; an
    /// embedding from outside may be wrong.
    pub fn select(
        &self,
        call: &Call,
        available: &[bool],
        waiting_s: Option<&[f64]>,
    ) -> Result<Selection, Refusal> {
        let query = Query { available: Some(available), waiting_s, ..call.query() };
        self.selector(call.point.lam).and_then(|s| s.select(&query)).map_err(|e| refused(&e))
    }

    /// Whether a model keeps a call's budget.
    pub fn keeps(&self, model: usize, call: &Call) -> Result<bool, Refusal> {
        self.selector(call.point.lam)
            .and_then(|s| s.keeps(model, &call.query()))
            .map_err(|e| refused(&e))
    }

    /// What a model is expected to take for a call.
    pub fn estimate(&self, model: usize, call: &Call) -> Option<Estimate> {
        let query = Query { budget: Budget::default(), ..call.query() };
        let expected =
            self.selector(call.point.lam).and_then(|s| s.expected(model, &query)).ok()?;
        Some(Estimate {
            output_tokens: expected.n_output_tokens,
            latency_s: expected.latency_s,
            energy_j: expected.energy_j,
            usd: expected.usd,
        })
    }

    /// Dollars of an answer of so many tokens by the table's prices.
    pub fn usd(&self, model: usize, input_tokens: u64, output_tokens: u64) -> Option<f64> {
        let model = self.router.costs().table().models.get(model)?;
        let usd = model.usd(input_tokens as f64, output_tokens as f64);
        Some(usd).filter(|usd| usd.is_finite())
    }

    /// Whether the rule sends routed requests to a model.
    pub fn allows(&self, model: usize) -> bool {
        match self.rule {
            Rule::Fallback(_) => {
                Rule::fallback(self.models(), &self.models()[model]).ok() == Some(self.rule)
            }
            Rule::Inclusive => true,
            Rule::EdgeOnly => model > 0,
        }
    }

    /// The link's state: what is measured, the rest as it typically is by the cost table.
    pub fn link(&self, measured: Measured) -> LinkState {
        measured.or(self.typical)
    }

    /// The same, as it is told: what a table without a link puts in its place is no state of one.
    pub fn told_link(&self, measured: Measured) -> LinkRecord {
        let typical = self.linked.then(|| self.link(measured).into());
        typical.unwrap_or(measured).into()
    }
}

/// From the map, or made and kept; keys are points of the grid, so the map is bounded by it.
fn cached<K: std::hash::Hash + Eq, V>(
    map: &RwLock<HashMap<K, Arc<V>>>,
    key: K,
    make: impl FnOnce() -> cr2fast_core::Result<V>,
) -> cr2fast_core::Result<Arc<V>> {
    if let Some(found) = map.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key) {
        return Ok(Arc::clone(found));
    }
    let made = Arc::new(make()?);
    Ok(Arc::clone(
        map.write().unwrap_or_else(std::sync::PoisonError::into_inner).entry(key).or_insert(made),
    ))
}

/// What the core refuses in a call: its limits, or an embedding that is none.
fn refused(e: &Error) -> Refusal {
    let words = format!(
        "{} (limits: the headers x-cr2fast-max-latency-ms, -max-energy-j and -max-usd)",
        bounded(e)
    );
    match e {
        Error::Budget { .. } => {
            Refusal::new(hyper::StatusCode::UNPROCESSABLE_ENTITY, "budget", words)
        }
        Error::Argument { what, .. } if what.starts_with("max_") || what == "budget" => {
            Refusal::bad("budget", words)
        }
        Error::Argument { what, .. } if what == "group" => {
            Refusal::bad("group", format!("x-cr2fast-group: {}", bounded(e)))
        }
        e => Refusal::bad("embedding", bounded(e)),
    }
}
