//! Shadows: with probability π a routed request is also sent to the place that does not answer it.
//!
//! In: a request that one place has answered, and what to ask the other. Out: a line of the decision log
//! once that has answered too, or failed. A shadow is sent when the client's answer has ended, so that
//! it never delays that one; its failures open no breaker; at most `at_once` are under way, and one that
//! finds no room is logged as failed, so that nothing biases who was seen in silence. Requests with a
//! budget have none: a shadow would spend more.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::config::ShadowConfig;
use crate::energy::Meter;
use crate::log::{Line, Log, SCHEMA, ShadowRecord, now};
use crate::upstream::{Failure, Question, Upstream, Usage};
use crate::wire::{self, Place};

/// Who is shadowed, and how many at once.
#[derive(Debug)]
pub struct Shadows {
    probability: f64,
    slots: Arc<Semaphore>,
}

/// On a response: the other place is asked too.
#[derive(Clone, Copy, Debug)]
pub struct Shadowed;

/// One request to the other place.
#[derive(Debug)]
pub struct Shadow {
    /// The request's id.
    pub id: String,
    /// Who is asked.
    pub place: Place,
    /// The model, where it is known before.
    pub model: Option<String>,
    /// SHA-256 of the router's file.
    pub router: String,
    /// Whom to ask.
    pub upstream: Arc<Upstream>,
    /// What to ask.
    pub question: Question,
}

impl Shadows {
    /// From the configuration.
    pub fn new(config: ShadowConfig) -> Self {
        Self { probability: config.probability, slots: Arc::new(Semaphore::new(config.at_once)) }
    }

    /// π, where this request is one of those; its id's random bits decide.
    pub fn draw(&self, id: &str) -> Option<f64> {
        let bits = u64::from_str_radix(id.get(..12)?, 16).ok()?;
        let drawn = bits as f64 / (1_u64 << 48) as f64;
        (drawn < self.probability).then_some(self.probability)
    }

    /// Send a shadow when `ended` says that the client's answer has.
    pub fn send(
        &self,
        shadow: Shadow,
        (ended, log, meter): (oneshot::Receiver<()>, Arc<Log>, Option<Arc<Meter>>),
    ) {
        let (slots, propensity) = (Arc::clone(&self.slots), self.probability);
        tokio::spawn(async move {
            let _ = ended.await;
            // The joules of a request beside it are not its own.
            let local = shadow.place == Place::Device;
            let _presence = meter.filter(|_| local).map(|meter| meter.enter(Instant::now()));
            let line = shadow.line(&slots, propensity).await;
            log.put(Line::Shadow(Box::new(line)));
        });
    }
}

impl Shadow {
    async fn line(self, slots: &Semaphore, propensity: f64) -> ShadowRecord {
        let start = Instant::now();
        let mut line = ShadowRecord {
            schema: SCHEMA,
            kind: "shadow",
            id: self.id,
            ts: now(),
            place: self.place.word(),
            model: self.model,
            outcome: "failed",
            failure: Some("busy"),
            n_input_tokens: None,
            n_output_tokens: None,
            first_content_s: None,
            total_s: None,
            router: self.router,
            propensity,
        };
        let Ok(_slot) = slots.try_acquire() else { return line };
        let asked = self.upstream.ask_aside(&self.question).await;
        line.total_s = Some(start.elapsed().as_secs_f64());
        match asked {
            Ok((head, first_content_s, usage)) if head.status.is_success() => {
                (line.outcome, line.failure) = ("answered", None);
                line.first_content_s = Some(first_content_s);
                line.n_input_tokens = usage.and_then(Usage::input);
                line.n_output_tokens = usage.and_then(Usage::output);
                let said = head.headers.get(wire::MODEL).and_then(|v| v.to_str().ok());
                line.model = line.model.or(said.map(String::from));
            }
            Ok((head, ..)) => {
                let status = Failure::of_status(head.status, &head.headers).word();
                line.failure = Some(wire::misfit(&head.headers).unwrap_or(status));
            }
            Err(failure) => line.failure = Some(failure.word()),
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_drawn_as_the_probability_says() {
        let shadows = |probability| Shadows::new(ShadowConfig { probability, at_once: 1 });
        let n = 100_000;
        for probability in [0.0, 0.05, 0.5, 1.0] {
            let s = shadows(probability);
            let ids = (0..n).map(|_| uuid::Uuid::new_v4().simple().to_string());
            let drawn = ids.filter(|id| s.draw(id).is_some()).count() as f64 / f64::from(n);
            let five_sigma = 5.0 * (probability * (1.0 - probability) / f64::from(n)).sqrt();
            assert!((drawn - probability).abs() <= five_sigma, "{drawn} for {probability}");
        }
        let half = shadows(0.5);
        assert_eq!(half.draw("7fffffffffff00000000000000000000"), Some(0.5));
        assert_eq!(half.draw("80000000000000000000000000000000"), None);
        assert_eq!(half.draw("no"), None);
    }
}
