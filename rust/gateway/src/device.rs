//! The device: accept a request for the local server, or send it on to the edge.
//!
//! In: a [`Job`]. Out: the answer of whichever place decides or, before the first content, of the other
//! one where the first fails. A request that names a model, that is too long for the local model or
//! that text does not decide has one place only: the other could not give what is asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cr2fast_core::Decision;
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::answer::{Label, nobody, respond};
use crate::ask::Target;
use crate::brain::Brain;
use crate::config::{Config, ModelConfig, NotText};
use crate::job::Job;
use crate::link::{Exchange, Link};
use crate::log::LinkRecord;
use crate::refusal::Refusal;
use crate::relay::Out;
use crate::trace::Trace;
use crate::upstream::{Address, Answer, Content, Deadlines, Failure, Question, Upstream};
use crate::wire::{self, Deferral, Place, Why};

/// Connections to the edge that are known to be warm.
const WARM: usize = 256;

/// A device.
#[derive(Debug)]
pub struct Device {
    local: Arc<Upstream>,
    /// What the local server calls its model.
    local_model: String,
    context_tokens: Option<u64>,
    edge: Arc<Upstream>,
    not_text: NotText,
    link: Link,
    warm: Mutex<VecDeque<SocketAddr>>,
    /// Whether it was said that the edge refuses this device.
    refused: AtomicBool,
}

/// Where a request goes.
#[derive(Clone, Debug)]
struct Plan {
    first: Place,
    why: Why,
    /// Whether the other place may answer where the first fails.
    both: bool,
    decision: Option<Decision>,
    embedding: Option<Vec<f32>>,
    input_tokens: u64,
}

impl Device {
    /// From its configuration.
    pub fn new(
        config: &Config,
        local: &ModelConfig,
        edge: &(Address, Deadlines),
        not_text: NotText,
        brain: &Brain,
    ) -> Self {
        let upstream = |address: &Address, deadlines| {
            let largest = config.limits.answer_bytes;
            Arc::new(Upstream::new(address.clone(), deadlines, largest, config.breaker))
        };
        Self {
            local: upstream(&local.address, local.deadlines),
            local_model: local.model.clone().unwrap_or_else(|| brain.models()[0].clone()),
            context_tokens: local.context_tokens,
            edge: upstream(&edge.0, edge.1),
            not_text,
            link: Link::default(),
            warm: Mutex::default(),
            refused: AtomicBool::new(false),
        }
    }

    /// Both of them.
    pub fn upstreams(&self) -> Vec<&Arc<Upstream>> {
        vec![&self.local, &self.edge]
    }

    /// The decision alone.
    pub async fn decision(&self, job: &Job) -> Result<Value, Refusal> {
        let plan = self.plan(job).await?;
        let model = (plan.first == Place::Device).then(|| job.brain.models()[0].clone());
        let threshold = plan.decision.map(|d| match d.threshold {
            t if t.is_finite() => json!(t),
            t => json!(t.to_string()), // JSON has no infinity
        });
        Ok(json!({
            "object": "cr2fast.decision",
            "place": plan.first.word(),
            "model": model,
            "why": plan.why.word(),
            "margin": plan.decision.map(|d| d.margin),
            "threshold": threshold,
            "score": plan.decision.map(|d| d.score),
            "n_input_tokens_estimated": plan.input_tokens,
        }))
    }

    /// Answer a request.
    pub async fn answer(
        &self,
        job: &Job,
        mut trace: Box<Trace>,
        log_embedding: bool,
    ) -> Result<Response<Out>, Refusal> {
        let plan = self.plan(job).await.inspect_err(|refusal| {
            trace.ended("refused");
            trace.record.status = refusal.status.as_u16();
        })?;
        trace.record.n_input_tokens_estimated = Some(plan.input_tokens);
        if log_embedding {
            trace.record.embedding.clone_from(&plan.embedding);
        }
        let other = match plan.first {
            Place::Device => (Place::Edge, Why::DeviceDown),
            Place::Edge => (Place::Device, Why::EdgeDown),
        };
        let mut tried = Vec::new();
        for (place, why) in
            [(plan.first, plan.why), other].into_iter().take(1 + usize::from(plan.both))
        {
            let (upstream, question) = match place {
                Place::Device => (&self.local, self.to_local(job)),
                Place::Edge => (&self.edge, self.to_edge(job, &plan, why)),
            };
            match upstream.ask(&question).await {
                Ok(answer) => {
                    if place == Place::Edge {
                        self.observe(&question, &answer);
                        let m = self.link.now();
                        trace.record.link = Some(LinkRecord {
                            rtt_s: m.rtt_s,
                            rate_ul_bps: m.rate_ul_bps,
                            rate_dl_bps: m.rate_dl_bps,
                        });
                    }
                    let model = match place {
                        Place::Device => job.brain.models()[0].clone(),
                        Place::Edge => model_of(&answer, job),
                    };
                    let margin = plan.decision.map(|d| d.margin);
                    let label = Label { place, model, why, margin };
                    return Ok(respond(job, upstream, answer, &label, trace));
                }
                Err(failure) => {
                    if place == Place::Edge {
                        self.tell(&failure);
                    }
                    trace.failed(upstream.name(), &failure);
                    tried.push((upstream.name().to_string(), failure));
                }
            }
        }
        trace.record.why = Some(plan.why.word());
        Err(nobody(&tried, trace))
    }

    async fn plan(&self, job: &Job) -> Result<Plan, Refusal> {
        let texts = &job.ask.texts;
        let routed = job.point.is_some();
        let encoded = job.brain.encode(texts, routed).await?;
        let input_tokens = encoded.input_tokens;
        let only = |first, why| Plan {
            first,
            why,
            both: false,
            decision: None,
            embedding: encoded.embedding.clone(),
            input_tokens,
        };
        if let Target::Model(name) = &job.ask.target {
            return match job.brain.models().iter().position(|m| m == name) {
                Some(0) => Ok(only(Place::Device, Why::Direct)),
                Some(_) => Ok(only(Place::Edge, Why::Direct)),
                None => Err(unknown_model(name, job.brain.models())),
            };
        }
        let (Some(embedding), Some(point)) = (&encoded.embedding, job.point) else {
            let place = match self.not_text {
                NotText::Edge => Place::Edge,
                NotText::Device => Place::Device,
            };
            return Ok(only(place, Why::NotText));
        };
        let tokens = input_tokens.saturating_add(job.ask.max_output_tokens.unwrap_or(0));
        if self.context_tokens.is_some_and(|most| tokens > most) {
            return Ok(only(Place::Edge, Why::TooLong));
        }
        let decision = job.brain.decide(point, embedding)?;
        let (first, why) = if decision.local {
            (Place::Device, Why::Accepted)
        } else {
            (Place::Edge, Why::Deferred)
        };
        Ok(Plan { both: true, decision: Some(decision), ..only(first, why) })
    }

    fn to_local(&self, job: &Job) -> Question {
        Question {
            path: job.kind.path(),
            body: job.ask.body_for(&self.local_model),
            headers: HeaderMap::new(),
            stream: job.ask.stream,
        }
    }

    fn to_edge(&self, job: &Job, plan: &Plan, why: Why) -> Question {
        let mut headers = HeaderMap::new();
        let deferral = Deferral {
            id: job.id.clone(),
            why,
            encoder: job.brain.encoder_hash().into(),
            embedding: plan.embedding.clone(),
            link: self.link.now(),
        };
        deferral.write(&mut headers);
        if let Some(point) = job.point {
            headers.insert(wire::LAM, wire::text(&point.lam.to_string()));
            headers.insert(wire::ALPHA, wire::text(&point.alpha.to_string()));
        }
        // The headers give the point as the grid spells it, so the name must not give it again.
        let body = match &job.ask.target {
            Target::Routed { .. } => job.ask.body_for("cr2fast"),
            Target::Model(_) => job.ask.body.clone(),
        };
        Question { path: job.kind.path(), body, headers, stream: job.ask.stream }
    }

    /// An edge that refuses this device is a matter for whoever runs it: said once until it is mended.
    fn tell(&self, failure: &Failure) {
        let Failure::Status(status) = failure else { return };
        let what = match status.as_u16() {
            401 | 403 => "edge.token_env here and access.device_token_env there hold one token",
            421 => "both run the same release, router and encoder",
            _ => return,
        };
        if !self.refused.swap(true, Ordering::Relaxed) {
            let status = status.as_u16();
            crate::say(&format!(
                "the edge refuses this device with status {status}: check that {what}"
            ));
        }
    }

    /// What an exchange with the edge shows of the link.
    fn observe(&self, question: &Question, answer: &Answer) {
        self.refused.store(false, Ordering::Relaxed);
        let edge_s = answer.head.headers.get(wire::EDGE_S).and_then(|v| v.to_str().ok());
        let Some(edge_s) = edge_s.and_then(|s| s.parse::<f64>().ok()) else { return };
        let Some(local) = answer.local else { return };
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        if !warm.contains(&local) {
            warm.push_back(local);
            if warm.len() > WARM {
                warm.pop_front();
            }
            return;
        }
        drop(warm);
        let head: usize =
            question.headers.iter().map(|(k, v)| k.as_str().len() + v.len() + 4).sum();
        let received = match &answer.content {
            Content::Whole(bytes, _) => {
                Some((8.0 * bytes.len() as f64, answer.first_content_s - answer.head_s))
            }
            Content::Stream(..) => None,
        };
        let sent_bits = 8.0 * (head + question.body.len()) as f64;
        self.link.observe(Exchange { sent_bits, up_s: answer.head_s - edge_s, received });
    }
}

/// The model that the edge says it chose, where that is one of the router's.
fn model_of(answer: &Answer, job: &Job) -> String {
    let said = answer.head.headers.get(wire::MODEL).and_then(|v| v.to_str().ok());
    let asked = match &job.ask.target {
        Target::Model(name) => Some(name.as_str()),
        Target::Routed { .. } => None,
    };
    let said = said.filter(|name| job.brain.models().iter().any(|m| m == name));
    said.or(asked).unwrap_or("unknown").into()
}

/// The 404 that names the models.
pub fn unknown_model<S: AsRef<str>>(name: &str, known: &[S]) -> Refusal {
    let name: String = name.chars().take(80).collect();
    let known: Vec<&str> = known.iter().take(20).map(AsRef::as_ref).collect();
    let words = format!("model: expected \"cr2fast\" or one of {known:?}, got {name:?}");
    Refusal::new(StatusCode::NOT_FOUND, "model_not_found", words)
}
