//! The edge: of the larger models that are up and fit, the one of greatest utility.
//!
//! In: a [`Job`], from a device gateway with an embedding and the link's state, or from a client. Out:
//! the answer of the model that `EdgeSelector` picks or, where its server fails before the first
//! content, of the one that it picks among the others.

use std::sync::Arc;

use cr2fast_core::{LinkState, Selection};
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::answer::{Label, nobody, respond};
use crate::ask::Target;
use crate::brain::Point;
use crate::config::{Config, ModelConfig};
use crate::device::unknown_model;
use crate::job::Job;
use crate::log::LinkRecord;
use crate::refusal::Refusal;
use crate::relay::Out;
use crate::trace::Trace;
use crate::upstream::{Question, Upstream};
use crate::wire::{Place, Why};

/// One model of the file.
#[derive(Debug)]
struct Model {
    upstream: Arc<Upstream>,
    /// What its server calls it.
    served: String,
    context_tokens: Option<u64>,
}

/// An edge.
#[derive(Debug)]
pub struct Edge {
    models: Vec<Model>,
    not_text: Option<usize>,
}

/// Where a request goes.
#[derive(Debug)]
enum Plan {
    /// To this model and no other.
    One(usize, Why),
    /// To the best of those that are up.
    Best { point: Point, embedding: Vec<f32>, state: LinkState, why: Why },
}

impl Edge {
    /// From its configuration.
    pub fn new(config: &Config, models: &[ModelConfig], not_text: Option<usize>) -> Self {
        let model = |m: &ModelConfig| Model {
            upstream: Arc::new(Upstream::new(
                m.address.clone(),
                m.deadlines,
                config.limits.answer_bytes,
                config.breaker,
            )),
            served: m.model.clone().unwrap_or_else(|| m.address.name.clone()),
            context_tokens: m.context_tokens,
        };
        Self { models: models.iter().map(model).collect(), not_text }
    }

    /// All of them.
    pub fn upstreams(&self) -> Vec<&Arc<Upstream>> {
        self.models.iter().map(|m| &m.upstream).collect()
    }

    /// The decision alone.
    pub async fn decision(&self, job: &Job) -> Result<Value, Refusal> {
        let (plan, input_tokens) = self.plan(job).await?;
        let mut out = json!({
            "object": "cr2fast.decision",
            "place": Place::Edge.word(),
            "n_input_tokens_estimated": input_tokens,
        });
        match &plan {
            Plan::One(k, why) => {
                out["model"] = self.models[*k].upstream.name().into();
                out["why"] = why.word().into();
            }
            Plan::Best { state, why, .. } => {
                let picked = self.pick(job, &plan, input_tokens, &[])?;
                let Some((k, s)) = picked else {
                    let words = "expected a model's server that is up, got none; retry later";
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    return Err(Refusal::new(status, "upstreams_down", words).retry_after(1.0));
                };
                out["model"] = self.models[k].upstream.name().into();
                out["why"] = why.word().into();
                out["link"] = json!(LinkRecord::from(*state));
                if let Some(s) = s {
                    out["utility"] = s.utility.into();
                    out["accuracy"] = s.accuracy.into();
                    out["cost"] = s.cost.into();
                }
            }
        }
        Ok(out)
    }

    /// Answer a request.
    pub async fn answer(
        &self,
        job: &Job,
        mut trace: Box<Trace>,
        log_embedding: bool,
    ) -> Result<Response<Out>, Refusal> {
        let refused = |trace: &mut Trace, refusal: &Refusal| {
            trace.ended("refused");
            trace.record.status = refusal.status.as_u16();
        };
        let (plan, input_tokens) =
            self.plan(job).await.inspect_err(|refusal| refused(&mut trace, refusal))?;
        trace.record.n_input_tokens_estimated = Some(input_tokens);
        let why = match &plan {
            Plan::One(_, why) => *why,
            Plan::Best { why, state, embedding, .. } => {
                trace.record.link = Some((*state).into());
                if log_embedding {
                    trace.record.embedding = Some(embedding.clone());
                }
                *why
            }
        };
        trace.record.why = Some(why.word());
        let (mut asked, mut tried) = (Vec::new(), Vec::new());
        while let Some((k, _)) = self
            .pick(job, &plan, input_tokens, &asked)
            .inspect_err(|refusal| refused(&mut trace, refusal))?
        {
            let upstream = &self.models[k].upstream;
            let question = Question {
                path: job.kind.path(),
                body: job.ask.body_for(&self.models[k].served),
                headers: HeaderMap::new(),
                stream: job.ask.stream,
            };
            match upstream.ask(&question).await {
                Ok(answer) => {
                    let model = upstream.name().to_string();
                    let label = Label { place: Place::Edge, model, why, margin: None };
                    return Ok(respond(job, upstream, answer, &label, trace));
                }
                Err(failure) => {
                    trace.failed(upstream.name(), &failure);
                    tried.push((upstream.name().to_string(), failure));
                    asked.push(k);
                }
            }
        }
        Err(nobody(&tried, trace))
    }

    async fn plan(&self, job: &Job) -> Result<(Plan, u64), Refusal> {
        let sent = job.deferral.as_ref();
        if let Some(deferral) = sent
            && deferral.encoder != job.brain.encoder_hash()
        {
            let words = format!(
                "x-cr2fast-encoder: expected {:?}, this edge's encoder, got another; run device and edge with the same router and encoder",
                job.brain.encoder_hash()
            );
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "device_header", words));
        }
        let given = sent.and_then(|d| d.embedding.clone());
        let encoded =
            job.brain.encode(&job.ask.texts, job.point.is_some() && given.is_none()).await?;
        let input_tokens = encoded.input_tokens;
        if let Target::Model(name) = &job.ask.target {
            let at = self.models.iter().position(|m| m.upstream.name() == name);
            let names: Vec<&str> = self.models.iter().map(|m| m.upstream.name()).collect();
            let k = at.ok_or_else(|| unknown_model(name, &names))?;
            return Ok((Plan::One(k, Why::Direct), input_tokens));
        }
        let why = sent.map_or(Why::Deferred, |d| d.why);
        let (Some(embedding), Some(point)) = (given.or(encoded.embedding), job.point) else {
            let k = self.not_text.ok_or_else(|| {
                let words = "body: expected text in the last user turn and no other media, got a request that text does not decide; name a model, or set not_text in the edge's configuration";
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not_text", words)
            })?;
            return Ok((Plan::One(k, Why::NotText), input_tokens));
        };
        if embedding.len() != job.brain.dim() || embedding.iter().any(|x| !x.is_finite()) {
            let words = format!(
                "x-cr2fast-embedding: expected {} finite numbers, got {} numbers",
                job.brain.dim(),
                embedding.len()
            );
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "device_header", words));
        }
        let measured = sent.map(|d| d.link).unwrap_or_default();
        let state = job.brain.link(measured);
        Ok((Plan::Best { point, embedding, state, why }, input_tokens))
    }

    /// The next model to ask; none where all were, or none is up.
    fn pick(
        &self,
        job: &Job,
        plan: &Plan,
        input_tokens: u64,
        asked: &[usize],
    ) -> Result<Option<(usize, Option<Selection>)>, Refusal> {
        let Plan::Best { point, embedding, state, .. } = plan else {
            let Plan::One(k, _) = plan else { return Ok(None) };
            return Ok((!asked.contains(k)).then_some((*k, None)));
        };
        let names = job.brain.models();
        let tokens = input_tokens.saturating_add(job.ask.max_output_tokens.unwrap_or(0));
        let fits = |m: &Model| m.context_tokens.is_none_or(|most| tokens <= most);
        let good = |k: usize| {
            let m = &self.models[k];
            !asked.contains(&k) && m.upstream.breaker.is_up() && fits(m)
        };
        let place = |name: &String| self.models.iter().position(|m| m.upstream.name() == name);
        let places: Vec<Option<usize>> = names.iter().map(place).collect();
        let up =
            |(i, k): (usize, &Option<usize>)| i > 0 && job.brain.allows(i) && k.is_some_and(good);
        let available: Vec<bool> = places.iter().enumerate().map(up).collect();
        if !available.contains(&true) {
            return Ok(None);
        }
        let s = job.brain.select(*point, embedding, input_tokens, *state, &available)?;
        Ok(places[s.model].map(|k| (k, Some(s))))
    }
}

impl From<LinkState> for LinkRecord {
    fn from(s: LinkState) -> Self {
        Self {
            rtt_s: Some(s.rtt_s),
            rate_ul_bps: Some(s.rate_ul_bps),
            rate_dl_bps: Some(s.rate_dl_bps),
        }
    }
}
