//! Spans that never reach a collector, counted.
//!
//! In: spans that have ended. Out: those that there is room for, in batches; and the number of the others. The SDK
//! drops what finds its queue full, and what a collector does not take, without telling how much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use prometheus_client::metrics::counter::Counter;

/// Before the SDK's queue, which has the same room and is never full then.
#[derive(Debug)]
pub struct Bounded {
    pub inner: BatchSpanProcessor,
    pub room: usize,
    pub waiting: Arc<AtomicUsize>,
    /// What found no room.
    pub lost: Counter,
}

/// Behind it.
#[derive(Debug)]
pub struct Sent<E> {
    pub inner: E,
    pub waiting: Arc<AtomicUsize>,
    /// What the collector did not take.
    pub lost: Counter,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.inner.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        let one_more = |n| (n < self.room).then_some(n + 1);
        match self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => self.inner.on_end(span),
            Err(_) => drop(self.lost.inc()),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: SpanExporter> SpanExporter for Sent<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        let sent = self.inner.export(batch).await;
        if sent.is_err() {
            self.lost.inc_by(spans as u64);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
