//! The device: accept a request for the local server, or send it on to the edge.
//!
//! In: a [`Job`]. Out: the answer of whichever place decides or, before the first content, of the other
//! one where the first fails. A request that names a model, that is too long for the local model or
//! that text does not decide has one place only: the other could not give what is asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use cr2fast_core::{Decision, LinkState};
use hyper::Response;
use hyper::header::HeaderMap;
use serde_json::{Value, json};

use crate::answer::{nobody, respond};
use crate::ask::Target;
use crate::brain::{Brain, Call, Estimate};
use crate::config::{Config, ModelConfig, NotText, ShadowConfig};
use crate::job::Job;
use crate::link::{Exchange, Link, Measured};
use crate::refusal::{REFUSAL, Refusal, no_bound, unknown_model};
use crate::relay::Out;
use crate::shadow::{Shadow, Shadowed, Shadows};
use crate::standing::Standing;
use crate::tls::Trust;
use crate::trace::{Label, Trace};
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
    /// Whether the edge takes what this device sends.
    standing: Standing,
    shadows: Option<Shadows>,
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
    measured: Measured,
    state: LinkState,
    /// Why the encoder's endpoint gave no embedding.
    failure: Option<Failure>,
}

impl Plan {
    /// What the core is asked about; none where text does not decide.
    fn call<'a>(&'a self, job: &'a Job) -> Option<Call<'a>> {
        job.call(self.embedding.as_deref(), self.input_tokens, self.state)
    }

    /// What a model is expected to take.
    fn estimate(&self, job: &Job, model: &str) -> Option<Estimate> {
        job.estimate(&self.call(job)?, model)
    }
}

impl Device {
    /// From its configuration.
    pub fn new(
        config: &Config,
        local: &ModelConfig,
        edge: &(Address, Deadlines),
        (not_text, shadow): (NotText, Option<ShadowConfig>),
        brain: &Brain,
        trust: &Trust,
    ) -> Self {
        let upstream = |address: &Address, deadlines| {
            let largest = config.limits.answer_bytes;
            Upstream::new(address.clone(), deadlines, largest, config.breaker, trust)
        };
        Self {
            local: Arc::new(upstream(&local.address, local.deadlines)),
            local_model: local.model.clone().unwrap_or_else(|| brain.models()[0].clone()),
            context_tokens: local.context_tokens,
            edge: Arc::new(upstream(&edge.0, edge.1).of_edge()),
            not_text,
            link: Link::default(),
            warm: Mutex::default(),
            standing: Standing::new(config.breaker),
            shadows: shadow.map(Shadows::new),
        }
    }

    /// Both of them.
    pub fn upstreams(&self) -> Vec<&Arc<Upstream>> {
        vec![&self.local, &self.edge]
    }

    /// Whether somebody would answer, and why the edge would not take this device's requests.
    pub fn ready(&self) -> (bool, Option<String>) {
        let reason = self.standing.words();
        (self.local.is_up() || (self.edge.is_up() && reason.is_none()), reason)
    }

    /// The decision alone.
    pub async fn decision(&self, job: &Job) -> Result<Value, Refusal> {
        let plan = self.plan(job).await?;
        let names = job.brain.models();
        let expected = match (plan.first, plan.call(job)) {
            (Place::Device, _) => Some(0),
            // Who it is, the edge decides: it knows which of its models are up.
            (Place::Edge, Some(call)) => {
                let edge: Vec<bool> = (0..names.len()).map(|m| m > 0).collect();
                Some(job.brain.select(&call, &edge, None)?.model)
            }
            (Place::Edge, None) => None,
        };
        let model = (plan.first == Place::Device).then(|| names[0].clone());
        let estimate = expected.and_then(|m| plan.estimate(job, &names[m]));
        let threshold = plan.decision.map(|d| match d.threshold {
            t if t.is_finite() => json!(t),
            t => json!(t.to_string()), // JSON has no infinity
        });
        Ok(json!({
            "object": "cr2fast.decision",
            "place": plan.first.word(),
            "model": model,
            "expected_model": expected.map(|m| &names[m]),
            "why": plan.why.word(),
            "margin": plan.decision.map(|d| d.margin),
            "threshold": threshold,
            "score": plan.decision.map(|d| d.score),
            "n_input_tokens_estimated": plan.input_tokens,
            "n_output_tokens_estimated": estimate.map(|e| e.output_tokens),
            "latency_s_estimated": estimate.and_then(|e| e.latency_s),
            "energy_j_estimated": estimate.and_then(|e| e.energy_j),
            "usd_estimated": estimate.and_then(|e| e.usd),
            "link": job.brain.told_link(plan.measured),
            "link_measured": plan.measured.names(),
        }))
    }

    /// Answer a request.
    pub async fn answer(
        &self,
        job: &Job,
        mut trace: Box<Trace>,
        log_embedding: bool,
    ) -> Result<Response<Out>, Refusal> {
        let plan = {
            let _deciding = trace.decides();
            self.plan(job).await
        };
        let plan = plan.inspect_err(|refusal| trace.refused(refusal))?;
        trace.planned(plan.input_tokens, &job.brain, plan.measured);
        trace.unembedded(plan.failure.as_ref());
        trace.record.margin = plan.decision.map(|d| d.margin);
        trace.record.threshold = plan.decision.map(|d| d.threshold);
        trace.record.p_value = plan.decision.and_then(|d| d.p_value);
        if log_embedding {
            trace.record.embedding.clone_from(&plan.embedding);
        }
        if let (Some(call), Some(decision)) = (plan.call(job), &plan.decision) {
            job.brain.watch(&job.id, &call, decision, plan.measured);
        }
        let other = match plan.first {
            Place::Device => (Place::Edge, Why::DeviceDown),
            Place::Edge => (Place::Device, Why::EdgeDown),
        };
        let mut ways = VecDeque::from([(plan.first, plan.why)]);
        ways.extend(plan.both.then_some(other));
        let mut tried = Vec::new();
        while let Some((place, why)) = ways.pop_front() {
            let (upstream, mut question) = match place {
                Place::Device => (&self.local, self.to_local(job)),
                Place::Edge => (&self.edge, self.to_edge(job, &plan, why)),
            };
            trace.asks(upstream.name(), &mut question);
            let asked = match place {
                Place::Device => upstream.ask(&question).await,
                Place::Edge => self.standing.ask(upstream, &question, why).await,
            };
            match asked {
                Ok(answer) => {
                    if place == Place::Edge {
                        self.observe(&question, &answer);
                        if let Some(next) = sent_back(&answer, &plan, why) {
                            ways = next;
                            continue;
                        }
                    }
                    let model = match place {
                        Place::Device => job.brain.models()[0].clone(),
                        Place::Edge => model_of(&answer, job),
                    };
                    let margin = plan.decision.map(|d| (d.margin, d.threshold));
                    let estimate = plan.estimate(job, &model);
                    let label = Label { place, model, why, margin, estimate };
                    self.shadow(job, &plan, why, &mut trace);
                    let shadowed = trace.record.shadow.is_some();
                    let mut response = respond(job, upstream, answer, &label, trace);
                    if shadowed {
                        response.extensions_mut().insert(Shadowed);
                    }
                    return Ok(response);
                }
                Err(failure) => {
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
        let measured = self.link.now();
        let only = |first, why| Plan {
            first,
            why,
            both: false,
            decision: None,
            embedding: encoded.embedding.clone(),
            input_tokens,
            measured,
            state: job.brain.link(measured),
            failure: encoded.failure.clone(),
        };
        if let Target::Model(name) = &job.ask.target {
            return match job.brain.models().iter().position(|m| m == name) {
                Some(0) => Ok(only(Place::Device, Why::Direct)),
                Some(_) => Ok(only(Place::Edge, Why::Direct)),
                None => Err(unknown_model(name, job.brain.models())),
            };
        }
        let within = job.wish.budget();
        let tokens = input_tokens.saturating_add(job.ask.max_output_tokens.unwrap_or(0));
        let too_long = self.context_tokens.is_some_and(|most| tokens > most);
        if encoded.embedding.is_none() {
            let failed = encoded.failure.is_some();
            if !within.is_none() {
                return Err(no_bound(failed));
            }
            if failed && too_long {
                return Ok(only(Place::Edge, Why::TooLong));
            }
            let place = match self.not_text {
                NotText::Edge => Place::Edge,
                NotText::Device => Place::Device,
            };
            let why = if failed { Why::NoEmbedding } else { Why::NotText };
            return Ok(Plan { both: failed, ..only(place, why) });
        }
        if too_long {
            return Ok(only(Place::Edge, Why::TooLong));
        }
        let plan = only(Place::Edge, Why::Deferred);
        let call = plan.call(job).expect("a routed request with an embedding");
        let (decision, choice) = job.brain.decide(&call)?;
        let local = choice.map_or(decision.local, |c| c.model == 0);
        let (first, why) = match (local, decision.local) {
            (true, true) => (Place::Device, Why::Accepted),
            (false, false) => (Place::Edge, Why::Deferred),
            (true, false) => (Place::Device, Why::Budget),
            (false, true) => (Place::Edge, Why::Budget),
        };
        // The edge checks the budget itself; the device's model is asked only where it keeps it.
        let both = match choice {
            None => true,
            Some(c) if local => !c.forced,
            Some(_) => job.brain.keeps(0, &call)?,
        };
        Ok(Plan { first, why, both, decision: Some(decision), ..plan })
    }

    /// Send a request that stage one decided to the other place too, where the lot falls on it.
    fn shadow(&self, job: &Job, plan: &Plan, why: Why, trace: &mut Trace) {
        let Some(shadows) = &self.shadows else { return };
        let id = job.id.clone();
        let Some(drawn) = shadows.draw(&id).filter(|_| job.wish.budget().is_none()) else { return };
        let (place, upstream, question, model) = match why {
            Why::Accepted => (Place::Edge, &self.edge, self.to_edge(job, plan, Why::Shadow), None),
            Why::Deferred => {
                let model = job.brain.models()[0].clone();
                (Place::Device, &self.local, self.to_local(job), Some(model))
            }
            _ => return,
        };
        let (router, upstream) = (job.brain.hash().into(), Arc::clone(upstream));
        trace.record.shadow = Some(drawn);
        let shadow = Shadow { id, place, model, router, upstream, question };
        shadows.send(shadow, trace.at_end());
    }

    fn to_local(&self, job: &Job) -> Question {
        Question {
            path: job.kind.path(),
            body: job.ask.body_for(&self.local_model),
            headers: HeaderMap::new(),
            stream: job.ask.stream,
            named: false,
        }
    }

    fn to_edge(&self, job: &Job, plan: &Plan, why: Why) -> Question {
        let mut headers = HeaderMap::new();
        let deferral = Deferral {
            id: job.id.clone(),
            why,
            encoder: job.brain.encoder_hash().into(),
            router: job.brain.hash().into(),
            embedding: plan.embedding.clone(),
            input_tokens: job.brain.endpoint().map(|_| plan.input_tokens),
            link: self.link.now(),
        };
        deferral.write(&mut headers);
        if let Some(point) = job.point {
            headers.insert(wire::LAM, wire::text(&point.lam.to_string()));
            headers.insert(wire::ALPHA, wire::text(&point.alpha.to_string()));
        }
        job.wish.write_budget(&mut headers);
        // The headers give the point as the grid spells it, so the name must not give it again.
        let body = match &job.ask.target {
            Target::Routed { .. } => job.ask.body_for("cr2fast"),
            Target::Model(_) => job.ask.body.clone(),
        };
        let named = matches!(job.ask.target, Target::Model(_));
        Question { path: job.kind.path(), body, headers, stream: job.ask.stream, named }
    }

    /// What an exchange with the edge shows of the link.
    fn observe(&self, question: &Question, answer: &Answer) {
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

/// Who is asked next where the edge sends a request back: by its rule, or as no model of its own keeps
/// the budget and the device's does.
fn sent_back(answer: &Answer, plan: &Plan, why: Why) -> Option<VecDeque<(Place, Why)>> {
    match answer.head.headers.get(REFUSAL)?.to_str().ok()? {
        "returned" if why == Why::Deferred => {
            Some([(Place::Device, Why::Returned), (Place::Edge, Why::DeviceDown)].into())
        }
        "budget" if plan.both && why == Why::Deferred => {
            Some([(Place::Device, Why::Budget)].into())
        }
        _ => None,
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
