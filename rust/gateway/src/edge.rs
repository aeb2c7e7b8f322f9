//! The edge: of the larger models that are up and fit, the one of greatest utility.
//!
//! In: a [`Job`], from a device gateway with an embedding and the link's state, or from a client. Out:
//! the answer of the model that `EdgeSelector` picks or, where its server fails before the first
//! content, of the one that it picks among the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use cr2fast_core::{LinkState, Selection};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::answer::{nobody, respond};
use crate::ask::Target;
use crate::brain::{Call, Estimate};
use crate::config::{Config, ModelConfig};
use crate::job::Job;
use crate::link::Measured;
use crate::refusal::{Refusal, no_bound, unknown_model};
use crate::tls::Trust;
use crate::trace::{Label, Trace};
use crate::upstream::{Content, Failure, HealthSettings, Question, Upstream, watch};
use crate::wire::{Place, Why};

/// One model of the file.
#[derive(Debug)]
struct Model {
    upstream: Arc<Upstream>,
    /// What its server calls it.
    served: String,
    context_tokens: Option<u64>,
    health_path: String,
}

/// An edge.
#[derive(Debug)]
pub struct Edge {
    models: Vec<Model>,
    not_text: Option<usize>,
    health: Option<HealthSettings>,
}

/// Where a request goes.
#[derive(Debug)]
struct Plan {
    /// The one model that may be asked; none where the selector chooses.
    only: Option<usize>,
    why: Why,
    embedding: Option<Vec<f32>>,
    input_tokens: u64,
    measured: Measured,
    state: LinkState,
    /// Why the encoder's endpoint gave no embedding.
    failure: Option<Failure>,
}

/// Whom to ask next.
#[derive(Debug)]
enum Next {
    /// This model.
    Model(usize),
    /// The device's own.
    Device,
    /// Nobody is left.
    Nobody,
}

/// A choice, by what it was made and among whom.
#[derive(Debug)]
struct Picked {
    next: Next,
    selection: Option<Selection>,
    available: Option<Vec<String>>,
    /// Queueing delays of those, s.
    waits: Option<BTreeMap<String, f64>>,
}

impl Plan {
    /// What the core is asked about; none where text does not decide.
    fn call<'a>(&'a self, job: &'a Job) -> Option<Call<'a>> {
        job.call(self.embedding.as_deref(), self.input_tokens, self.state)
    }

    /// From a request to a model's first content, s, as the cost table has it for an idle server; 0 where
    /// it cannot tell, or the model is not the router's.
    fn idle_s(&self, job: &Job, model: &str) -> f64 {
        let at = job.brain.models().iter().position(|m| m == model);
        at.and_then(|m| job.brain.idle_s(m, self.input_tokens)).unwrap_or(0.0)
    }

    /// What a model is expected to take.
    fn estimate(&self, job: &Job, model: &str) -> Option<Estimate> {
        job.estimate(&self.call(job)?, model)
    }
}

impl Edge {
    /// From its configuration.
    pub fn new(
        config: &Config,
        models: &[ModelConfig],
        (not_text, health): (Option<usize>, Option<HealthSettings>),
        trust: &Trust,
    ) -> Self {
        let model = |m: &ModelConfig| Model {
            upstream: Arc::new(Upstream::new(
                m.address.clone(),
                m.deadlines,
                config.limits.answer_bytes,
                config.breaker,
                trust,
            )),
            served: m.model.clone().unwrap_or_else(|| m.address.name.clone()),
            context_tokens: m.context_tokens,
            health_path: m.health_path.clone(),
        };
        Self { models: models.iter().map(model).collect(), not_text, health }
    }

    /// Ask each server whether it is well, until the value is dropped.
    pub fn watch(&self) -> JoinSet<()> {
        let mut watching = JoinSet::new();
        if let Some(settings) = self.health {
            for m in &self.models {
                watching.spawn(watch(Arc::clone(&m.upstream), m.health_path.clone(), settings));
            }
        }
        watching
    }

    /// How long each model keeps requests waiting, s, as far as measured.
    pub fn waits(&self) -> Vec<(&str, f64)> {
        let upstreams = self.models.iter().map(|m| &m.upstream);
        upstreams.filter_map(|u| Some((u.name(), u.queue.delay_s()?))).collect()
    }

    /// All of them.
    pub fn upstreams(&self) -> Vec<&Arc<Upstream>> {
        self.models.iter().map(|m| &m.upstream).collect()
    }

    /// The decision alone.
    pub async fn decision(&self, job: &Job) -> Result<Value, Refusal> {
        let plan = self.plan(job).await?;
        let picked = self.pick(job, &plan, &[])?;
        let (place, model) = match picked.next {
            Next::Model(k) => (Place::Edge, self.models[k].upstream.name()),
            Next::Device => (Place::Device, job.brain.models()[0].as_str()),
            Next::Nobody => {
                let words = "expected a model's server that is up, got none; retry later";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(Refusal::new(status, "upstreams_down", words).retry_after(1.0));
            }
        };
        let why = if place == Place::Device { Why::Returned } else { plan.why };
        let estimate = plan.estimate(job, model);
        let s = picked.selection;
        Ok(json!({
            "object": "cr2fast.decision",
            "place": place.word(),
            "model": model,
            "why": why.word(),
            "utility": s.map(|s| s.utility),
            "accuracy": s.map(|s| s.accuracy),
            "cost": s.map(|s| s.cost),
            "n_input_tokens_estimated": plan.input_tokens,
            "n_output_tokens_estimated": estimate.map(|e| e.output_tokens),
            "latency_s_estimated": estimate.and_then(|e| e.latency_s),
            "energy_j_estimated": estimate.and_then(|e| e.energy_j),
            "usd_estimated": estimate.and_then(|e| e.usd),
            "link": job.brain.told_link(plan.measured),
            "link_measured": plan.measured.names(),
            "available": picked.available,
            "queueing_s": picked.waits,
        }))
    }

    /// Answer a request.
    pub async fn answer(
        &self,
        job: &Job,
        mut trace: Box<Trace>,
        log_embedding: bool,
    ) -> Result<Response, Refusal> {
        let plan = {
            let _deciding = trace.decides();
            self.plan(job).await
        };
        let plan = plan.inspect_err(|refusal| trace.refused(refusal))?;
        trace.planned(plan.input_tokens, &job.brain, plan.measured);
        trace.record.why = Some(plan.why.word());
        trace.unembedded(plan.failure.as_ref());
        if log_embedding {
            trace.record.embedding.clone_from(&plan.embedding);
        }
        let (mut asked, mut tried) = (Vec::new(), Vec::new());
        loop {
            let picked =
                self.pick(job, &plan, &asked).inspect_err(|refusal| trace.refused(refusal))?;
            trace.record.available = picked.available.or(trace.record.available.take());
            trace.record.queueing_s = picked.waits.or(trace.record.queueing_s.take());
            let k = match picked.next {
                Next::Model(k) => k,
                Next::Device => return Ok(returned(job, trace)),
                Next::Nobody => return Err(nobody(&tried, trace)),
            };
            let upstream = &self.models[k].upstream;
            let waiting = upstream.queue.enter(plan.idle_s(job, upstream.name()));
            let mut question = Question {
                path: job.kind.path(),
                body: job.ask.body_for(&self.models[k].served),
                headers: HeaderMap::new(),
                stream: job.ask.stream,
                named: false,
            };
            trace.asks(upstream.name(), &mut question);
            match upstream.ask(&question).await {
                Ok(answer) => {
                    // An answer in one piece does not say when its first content was there.
                    if matches!(answer.content, Content::Stream(..)) {
                        waiting.answered(answer.first_content_s);
                    }
                    let model = upstream.name().to_string();
                    let estimate = plan.estimate(job, &model);
                    let (place, why) = (Place::Edge, plan.why);
                    let label = Label { place, model, why, margin: None, estimate };
                    return Ok(respond(job, upstream, answer, &label, trace).into_response());
                }
                Err(failure) => {
                    trace.failed(upstream.name(), &failure);
                    tried.push((upstream.name().to_string(), failure));
                    asked.push(k);
                }
            }
        }
    }

    async fn plan(&self, job: &Job) -> Result<Plan, Refusal> {
        let sent = job.deferral.as_ref();
        let given = sent.and_then(|d| d.embedding.clone());
        let encoded =
            job.brain.encode(&job.ask.texts, job.point.is_some() && given.is_none()).await?;
        let measured = sent.map(|d| d.link).unwrap_or_default();
        let plan = |only, why, embedding| Plan {
            only,
            why,
            embedding,
            // With an endpoint, whoever embedded has counted.
            input_tokens: sent.and_then(|d| d.input_tokens).unwrap_or(encoded.input_tokens),
            measured,
            state: job.brain.link(measured),
            failure: encoded.failure.clone(),
        };
        if let Target::Model(name) = &job.ask.target {
            let at = self.models.iter().position(|m| m.upstream.name() == name);
            let names: Vec<&str> = self.models.iter().map(|m| m.upstream.name()).collect();
            let k = at.ok_or_else(|| unknown_model(name, &names))?;
            return Ok(plan(Some(k), Why::Direct, None));
        }
        let why = sent.map_or(Why::Deferred, |d| d.why);
        let Some(embedding) = given.or(encoded.embedding.clone()) else {
            let failed = encoded.failure.is_some();
            if !job.wish.budget().is_none() {
                return Err(no_bound(failed));
            }
            let k = self.not_text.ok_or_else(|| {
                let words = "body: expected text in the last user turn and no other media, got a request that text does not decide; name a model, or set not_text in the edge's configuration";
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not_text", words)
            })?;
            let why = if failed { Why::NoEmbedding } else { Why::NotText };
            return Ok(plan(Some(k), why, None));
        };
        if embedding.len() != job.brain.dim() || embedding.iter().any(|x| !x.is_finite()) {
            let words = format!(
                "x-cr2fast-embedding: expected {} finite numbers, got {} numbers",
                job.brain.dim(),
                embedding.len()
            );
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "device_header", words));
        }
        Ok(plan(None, why, Some(embedding)))
    }

    /// The next model to ask.
    fn pick(&self, job: &Job, plan: &Plan, asked: &[usize]) -> Result<Picked, Refusal> {
        let (None, Some(call)) = (plan.only, plan.call(job)) else {
            let left = plan.only.filter(|k| !asked.contains(k));
            let next = left.map_or(Next::Nobody, Next::Model);
            return Ok(Picked { next, selection: None, available: None, waits: None });
        };
        let names = job.brain.models();
        let tokens = plan.input_tokens.saturating_add(job.ask.max_output_tokens.unwrap_or(0));
        let place = |name: &String| self.models.iter().position(|m| m.upstream.name() == name);
        let places: Vec<Option<usize>> = names.iter().map(place).collect();
        // A device that deferred can take its request back; one that is down or too small cannot.
        let takes_back = job.deferral.as_ref().is_some_and(|d| d.why == Why::Deferred);
        let which = |up: fn(&Upstream) -> bool| -> Vec<bool> {
            let good = |k: usize| {
                let m = &self.models[k];
                let fits = m.context_tokens.is_none_or(|most| tokens <= most);
                !asked.contains(&k) && up(&m.upstream) && fits
            };
            let can = |(i, k): (usize, &Option<usize>)| {
                job.brain.allows(i) && (k.is_some_and(good) || (i == 0 && takes_back))
            };
            places.iter().enumerate().map(can).collect()
        };
        let mut available = which(Upstream::is_up);
        if !available.contains(&true) {
            // Better one that says it is not well than none: the question may be the wrong one.
            available = which(|u| u.breaker.is_up());
        }
        let delay = |k: &Option<usize>| k.and_then(|k| self.models[k].upstream.queue.delay_s());
        let waiting: Vec<f64> = places.iter().map(|k| delay(k).unwrap_or(0.0)).collect();
        let all = || names.iter().zip(&available).zip(&waiting).filter(|((_, up), _)| **up);
        let among = Some(all().map(|((name, _), _)| name.clone()).collect());
        let waits = Some(all().map(|((name, _), wait)| (name.clone(), *wait)).collect());
        if !available.contains(&true) {
            return Ok(Picked { next: Next::Nobody, selection: None, available: among, waits });
        }
        let s = job.brain.select(&call, &available, Some(&waiting))?;
        let next = match places[s.model] {
            _ if s.model == 0 && takes_back => Next::Device,
            Some(k) => Next::Model(k),
            None => Next::Nobody,
        };
        Ok(Picked { next, selection: Some(s), available: among, waits })
    }
}

/// The device gateway is told to answer by itself, by the inclusive rule.
fn returned(job: &Job, mut trace: Box<Trace>) -> Response {
    let model = &job.brain.models()[0];
    let words = format!("expected an edge model, got {model:?} as the best: the device answers");
    let refusal = Refusal::new(StatusCode::CONFLICT, "returned", words);
    trace.refused(&refusal);
    trace.ended("returned");
    trace.record.why = Some(Why::Returned.word());
    let mut response = refusal.into_response();
    response.extensions_mut().remove::<Refusal>(); // none for the metrics
    response
}
