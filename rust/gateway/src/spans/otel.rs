//! Spans by OpenTelemetry's SDK, sent by OTLP over HTTP, in protocol buffers.
//!
//! Names and attributes follow the semantic conventions for generative AI where they exist (`gen_ai.`)
//! and are `cr2fast.` elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags,
    TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context as Parent, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::counted::{Bounded, Sent};
use crate::ask::{Kind, Target};
use crate::config::{Config, ConfigError};
use crate::context::Context;
use crate::job::Job;
use crate::log::Record;
use crate::metrics::Labelled;
use crate::tls::Trust;
use crate::upstream::http_client;

/// Spans that may wait for the collector.
const QUEUE: usize = 2_048;
/// Of one message to it.
const BATCH: usize = 512;
/// For the collector to take a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the last message, at a stop.
const LAST: Duration = Duration::from_secs(1);
/// Bytes of its answer at most.
const MAX_ANSWER: usize = 1 << 20;

/// What begins spans.
#[derive(Debug)]
pub struct Tracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A span.
#[derive(Debug)]
pub struct Span {
    own: SdkSpan,
    tracer: SdkTracer,
    /// What its kind of request is called.
    operation: &'static str,
    state: Option<HeaderValue>,
}

/// The SDK asks from a thread of its own, which has no runtime: each message has one for itself.
#[derive(Debug)]
struct Collector(Trust);

impl Tracer {
    /// From the configuration; a collector that is down is no error. `lost` counts what never reaches it.
    pub fn start(
        config: &Config,
        trust: &Trust,
        lost: &Labelled,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(traces) = &config.traces else { return Ok(None) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector(trust.clone()))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", traces.base))
            .with_timeout(PATIENCE)
            .build()
            .map_err(|e| {
                let message = format!("traces.endpoint: expected a collector's address, got: {e}");
                ConfigError { path: config.path.clone(), line: Some(traces.line), message }
            })?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .build();
        let lost = |reason: &str| {
            let labels = vec![("reason", reason.to_string())];
            lost.get_or_create(&labels).clone()
        };
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter =
            Sent { inner: exporter, waiting: Arc::clone(&waiting), lost: lost("collector") };
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let processor = Bounded { inner, room: QUEUE, waiting, lost: lost("queue") };
        let resource = Resource::builder_empty()
            .with_service_name("cr2fast-gateway")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(traces.ratio))))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("cr2fast-gateway");
        Ok(Some(Self { provider, tracer }))
    }

    /// Of a request.
    pub fn request(&self, job: &Job) -> Span {
        let operation = match job.kind {
            Kind::Completion => "text_completion",
            Kind::Chat | Kind::Responses | Kind::Any => "chat",
        };
        let parent = job.context.as_ref().map_or_else(Parent::new, |c| {
            parent(SpanContext::new(
                TraceId::from_bytes(c.trace.to_be_bytes()),
                SpanId::from_bytes(c.span.to_be_bytes()),
                TraceFlags::new(c.flags),
                true,
                c.state.as_ref().and_then(trace_state).unwrap_or_default(),
            ))
        });
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("cr2fast.request_id", job.id.clone()),
            KeyValue::new("cr2fast.endpoint", job.kind.word()),
            KeyValue::new("cr2fast.stream", job.ask.stream),
        ];
        // A name that a client made up stays out.
        match &job.ask.target {
            Target::Routed { .. } => {
                attributes.push(KeyValue::new("gen_ai.request.model", "cr2fast"));
            }
            Target::Model(name) if job.brain.models().contains(name) => {
                attributes.push(KeyValue::new("gen_ai.request.model", name.clone()));
            }
            Target::Model(_) => {}
        }
        let builder = SpanBuilder::from_name(operation)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        let span = self.tracer.build_with_context(builder, &parent);
        let state = job.context.as_ref().and_then(|c| c.state.clone());
        Span { own: span, tracer: self.tracer.clone(), operation, state }
    }
}

impl Drop for Tracer {
    /// Send what waits, for as long as that may take.
    fn drop(&mut self) {
        let _ = self.provider.shutdown_with_timeout(LAST);
    }
}

impl Span {
    /// What whoever is asked is told.
    pub fn context(&self) -> Context {
        let here = self.own.span_context();
        Context {
            trace: u128::from_be_bytes(here.trace_id().to_bytes()),
            span: u64::from_be_bytes(here.span_id().to_bytes()),
            flags: here.trace_flags().to_u8(),
            state: self.state.clone(),
        }
    }

    fn child(&self, builder: SpanBuilder) -> Self {
        let span =
            self.tracer.build_with_context(builder, &parent(self.own.span_context().clone()));
        Self {
            own: span,
            tracer: self.tracer.clone(),
            operation: self.operation,
            state: self.state.clone(),
        }
    }

    /// One within it: the decision.
    pub fn decides(&self) -> Self {
        self.child(SpanBuilder::from_name("decide").with_kind(SpanKind::Internal))
    }

    /// One within it: a try of an upstream.
    pub fn tries(&self, upstream: &str, record: &Record) -> Self {
        let number = i64::try_from(record.failed.len()).unwrap_or(i64::MAX).saturating_add(1);
        let attributes = [
            KeyValue::new("gen_ai.operation.name", self.operation),
            KeyValue::new("cr2fast.upstream", upstream.to_string()),
            KeyValue::new("cr2fast.try", number),
        ];
        let name = format!("{} {upstream}", self.operation);
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Client);
        self.child(builder.with_attributes(attributes))
    }

    /// Ends in a failure.
    pub fn failed(mut self, word: &'static str) {
        self.own.set_attribute(KeyValue::new("error.type", word));
        self.own.set_status(Status::error(word));
    }

    /// Ends, with what the log says.
    pub fn ended(mut self, r: &Record) {
        let mut set = |key: &'static str, value: Option<opentelemetry::Value>| {
            if let Some(value) = value {
                self.own.set_attribute(KeyValue::new(key, value));
            }
        };
        let count = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok()).map(Into::into);
        set("gen_ai.response.model", r.model.clone().map(Into::into));
        set("gen_ai.usage.input_tokens", count(r.n_input_tokens));
        set("gen_ai.usage.output_tokens", count(r.n_output_tokens));
        set("gen_ai.response.time_to_first_chunk", r.ttft_s.map(Into::into));
        set("http.response.status_code", Some(i64::from(r.status).into()));
        set("cr2fast.place", r.place.map(Into::into));
        set("cr2fast.why", r.why.map(Into::into));
        set("cr2fast.outcome", Some(r.outcome.into()));
        set("cr2fast.lam", r.lam.map(Into::into));
        set("cr2fast.alpha", r.alpha.map(Into::into));
        set("cr2fast.margin", r.margin.map(|x| f64::from(x).into()));
        set("cr2fast.threshold", r.threshold.map(|x| f64::from(x).into()));
        set("cr2fast.latency_s_estimated", r.latency_s_estimated.map(Into::into));
        set("cr2fast.energy_j_estimated", r.energy_j_estimated.map(Into::into));
        set("cr2fast.usd_estimated", r.usd_estimated.map(Into::into));
        if matches!(r.outcome, "failed" | "broken") {
            self.failed(r.outcome);
        }
    }
}

/// What vendors hand on; none where it is no list of theirs.
fn trace_state(header: &HeaderValue) -> Option<TraceState> {
    header.to_str().ok()?.parse().ok()
}

fn parent(of: SpanContext) -> Parent {
    Parent::new().with_remote_span_context(of)
}

impl Collector {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let sent = async {
                let client = http_client(PATIENCE, &self.0);
                let response = client.request(request.map(Full::new)).await?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
                Ok(Response::from_parts(head, body))
            };
            timeout(PATIENCE, sent).await.unwrap_or_else(|_| Err("no answer in time".into()))
        })
    }
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.send(request) })
    }
}
