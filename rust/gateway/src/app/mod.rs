//! The gateway as one value: requests in, responses out.
//!
//! In: a checked configuration, then requests. Out: responses. What a device and an edge share stands
//! here: routes, tokens, limits, the operating point; what each does with a request is theirs.

mod certificates;
mod describe;
mod front;
mod ids;
mod intake;
mod outcomes;
mod reload;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::rustls::ServerConfig;

use crate::ask::Kind;
use crate::brain::Brain;
use crate::config::{Access, Config, ConfigError, Limits, RoleConfig};
use crate::device::Device;
use crate::edge::Edge;
use crate::endpoint::Proof;
use crate::energy::Meter;
use crate::heavy::{LONG, away};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::promise::Promise;
use crate::refusal::Refusal;
use crate::shadow::Shadowed;
use crate::spans::Tracer;
use crate::stop::Stop;
use crate::trace::{STOPPED, Trace};
use crate::upstream::{Failure, Upstream};
use crate::wire;

pub use front::router;
pub use intake::Headed;
use intake::bearer_hash;
use outcomes::Recent;

/// What a device does, or an edge.
#[derive(Debug)]
pub enum Role {
    /// In front of a local server.
    Device(Box<Device>),
    /// In front of the larger models.
    Edge(Edge),
}

/// The gateway.
#[derive(Debug)]
pub struct App {
    path: PathBuf,
    role: Role,
    brain: RwLock<Arc<Brain>>,
    tls: RwLock<Option<Arc<ServerConfig>>>,
    reloading: Mutex<()>,
    /// What a client may take.
    pub limits: Limits,
    access: Access,
    at_once: Arc<Semaphore>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Ends before the log, which its last lines go to.
    promise: Option<Promise>,
    /// Ends before the log as well.
    meter: Option<Arc<Meter>>,
    tracer: Option<Tracer>,
    log: Arc<Log>,
    recent: Recent,
    /// Ends what is in flight.
    pub stop: Stop,
}

impl App {
    /// From a configuration; loads the router, opens the log.
    pub fn new(config: &Config) -> Result<Arc<Self>, ConfigError> {
        let trust = certificates::trust(config)?;
        let mut brain = Brain::load(config, &trust)?;
        let metrics = Arc::new(Metrics::default());
        let log = Log::start(config.log.as_ref(), metrics.log_dropped.clone())
            .map_err(|e| no_log(config, &e))?;
        let log = Arc::new(log);
        let promise = Promise::start(config, &brain, &log, &metrics.promise)?;
        if let Some(promise) = &promise {
            brain.watched_by(promise.kept());
        }
        let meter = Meter::start(config, &trust, &log, &metrics.energy)?;
        let role = match &config.role {
            RoleConfig::Device { local, edge, not_text, shadow } => Role::Device(Box::new(
                Device::new(config, local, edge, (*not_text, *shadow), &brain, &trust),
            )),
            RoleConfig::Edge { models, not_text, health, .. } => {
                Role::Edge(Edge::new(config, models, (*not_text, *health), &trust))
            }
        };
        let tracer = Tracer::start(config, &trust, &metrics.spans_dropped)?;
        Ok(Arc::new(Self {
            path: config.path.clone(),
            role,
            brain: RwLock::new(Arc::new(brain)),
            tls: RwLock::new(certificates::served(config)?),
            reloading: Mutex::default(),
            limits: config.limits,
            access: config.access,
            at_once: Arc::new(Semaphore::new(config.limits.concurrency)),
            metrics,
            promise,
            meter,
            tracer,
            log,
            recent: Recent::default(),
            stop: Stop::default(),
        }))
    }

    /// SHA-256 of the router's file.
    pub fn router_hash(&self) -> String {
        self.brain().hash().into()
    }

    /// What decides now.
    pub fn brain(&self) -> Arc<Brain> {
        Arc::clone(&self.brain.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What clients' connections are served with now; none is plain HTTP.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ask the models' servers whether they are well, until the value is dropped.
    pub fn watch(&self) -> JoinSet<()> {
        match &self.role {
            Role::Device(_) => JoinSet::new(),
            Role::Edge(edge) => edge.watch(),
        }
    }

    async fn answer(&self, request: Request, kind: Kind) -> Result<Response, Refusal> {
        tokio::select! {
            biased;
            answer = self.answer_in_time(request, kind) => answer,
            () = self.stop.wait() => {
                let words = "this gateway was stopped before there was an answer; ask again";
                Err(Refusal::new(STOPPED, "gateway_stopped", words).retry_after(1.0))
            }
        }
    }

    async fn answer_in_time(&self, request: Request, kind: Kind) -> Result<Response, Refusal> {
        let arrived = Instant::now();
        let job = self.job(request, kind).await?;
        let permit = self.permit()?;
        self.recent.remember(&job.id);
        let told = (&self.log, &self.metrics, &self.stop);
        let trace =
            Trace::start(&job, arrived, told, (self.meter.as_ref(), self.tracer.as_ref()), permit);
        let embedding = self.log.wants_embedding();
        let answer = match &self.role {
            Role::Device(device) => {
                let answer = device.answer(&job, Box::new(trace), embedding).await;
                answer.map(IntoResponse::into_response)
            }
            Role::Edge(edge) => edge.answer(&job, Box::new(trace), embedding).await,
        }?;
        // An edge does not know what the device that asks it does beside.
        let both = job.deferral.is_some() || answer.extensions().get::<Shadowed>().is_some();
        self.recent.answered(&job.id, wire::place(answer.headers()), both);
        Ok(answer)
    }

    async fn decide_only(&self, request: Request) -> Result<Response, Refusal> {
        let job = self.job(request, Kind::Any).await?;
        let mut decision = match &self.role {
            Role::Device(device) => device.decision(&job).await?,
            Role::Edge(edge) => edge.decision(&job).await?,
        };
        decision["id"] = job.id.clone().into();
        decision["lam"] = job.point.map(|p| p.lam).into();
        decision["alpha"] = job.point.map(|p| p.alpha).into();
        decision["router"] = job.brain.hash().into();
        let texts = Arc::clone(&job.ask.texts);
        let hash = move || texts.routable().map(|text| hex(&Sha256::digest(text)));
        let long = job.ask.texts.len() > LONG;
        let text = if long { away(hash).await.flatten() } else { hash() };
        decision["text_sha256"] = text.into();
        Ok(json(&decision))
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.at_once).try_acquire_owned().map_err(|_| {
            let words = format!(
                "expected at most {} requests at once (limits.concurrency), got one more; retry later",
                self.limits.concurrency
            );
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", words).retry_after(1.0)
        })
    }

    fn upstreams(&self) -> Vec<&Arc<Upstream>> {
        match &self.role {
            Role::Device(device) => device.upstreams(),
            Role::Edge(edge) => edge.upstreams(),
        }
    }

    /// An endpoint that is another encoder is a fault of whoever set it up; one that is down is none of
    /// ours, and requests are answered without it.
    async fn ready(&self) -> (StatusCode, String) {
        let (up, reason) = match &self.role {
            Role::Device(device) => device.ready(),
            Role::Edge(edge) => (edge.upstreams().iter().any(|u| u.is_up()), None),
        };
        let mut reason =
            reason.map_or(String::new(), |r| format!("the edge refuses this device: {r}\n"));
        for words in self.upstreams().iter().filter_map(|u| u.token_refused()) {
            reason.extend([&words, "\n"]);
        }
        // Requests are answered all the same.
        if let Some(words) = self.log.trouble() {
            reason.extend(["the decision log ", &words, "\n"]);
        }
        if !up {
            let words = format!("every upstream fails\n{reason}");
            return (StatusCode::SERVICE_UNAVAILABLE, words);
        }
        let ready = |more: &str| (StatusCode::OK, format!("ready{more}\n{reason}"));
        let brain = self.brain();
        let Some(endpoint) = brain.endpoint() else { return ready("") };
        match endpoint.ready().await {
            Proof::Good(..) => ready(""),
            Proof::Bad(Failure::OtherEncoder, words, _) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{}: {words}\n{reason}", endpoint.place()),
            ),
            Proof::Bad(_, words, _) => ready(&format!(", without embeddings: {words}")),
            Proof::None => ready(", without embeddings"),
        }
    }

    fn scrape(&self) -> impl IntoResponse + use<> {
        let up = self.upstreams();
        let up = up.iter().map(|u| (u.name(), u.is_up()));
        let waits = match &self.role {
            Role::Device(_) => vec![],
            Role::Edge(edge) => edge.waits(),
        };
        if let Some(promise) = &self.promise {
            promise.measure();
        }
        let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(CONTENT_TYPE, media)], self.metrics.text(up, &waits))
    }

    async fn told(&self) -> Result<Response, Refusal> {
        let Some(promise) = &self.promise else {
            let words = "expected a gateway that watches the promise, got one without; add [promise] to its file";
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "no_promise", words));
        };
        Ok(json(&promise.told().await))
    }

    fn models(&self) -> Response {
        let brain = self.brain();
        let mut names = vec!["cr2fast"];
        names.extend(match &self.role {
            Role::Device(_) => brain.models().iter().map(String::as_str).collect::<Vec<_>>(),
            Role::Edge(edge) => edge.upstreams().into_iter().map(|u| u.name()).collect(),
        });
        let entry = |id| serde_json::json!({"id": id, "object": "model", "created": 0, "owned_by": "cr2fast"});
        let data: Vec<_> = names.into_iter().map(entry).collect();
        json(&serde_json::json!({"object": "list", "data": data}))
    }
}

fn no_log(config: &Config, e: &std::io::Error) -> ConfigError {
    let at = config.log.as_ref().map(|log| &log.path);
    let path = at.map(|path| path.value.display().to_string()).unwrap_or_default();
    let message = format!("log.path: expected a file that can be appended to, got {path}: {e}");
    ConfigError { path: config.path.clone(), line: at.map(|path| path.line), message }
}

fn json(value: &serde_json::Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |s, b| format!("{s}{b:02x}"))
}
