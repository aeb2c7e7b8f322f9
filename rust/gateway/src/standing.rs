//! How a device stands with its edge: whether the edge takes what it sends.
//!
//! In: answers of the edge. Out: the reason where it refuses this device, and not the client's request: it
//! runs another router, encoder or release, or knows another token. The device then answers by itself,
//! as if the edge were down, and says so once, in the log, the metrics and `/readyz` until it is mended.
//! Where that goes on, the edge is asked again at the breaker's pace only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::refusal::REFUSAL;
use crate::upstream::{
    Answer, Breaker, BreakerSettings, Content, Failure, Question, Ticket, Upstream,
};
use crate::wire::{self, Why};

/// Longest words of an edge that are repeated, characters.
const MAX_WORDS: usize = 400;

/// Why the edge refuses this device, while it does.
#[derive(Debug)]
pub struct Standing {
    reason: Mutex<Option<Reason>>,
    /// Opens where the edge keeps refusing what the device can answer itself.
    breaker: Arc<Breaker>,
}

#[derive(Debug)]
struct Reason {
    words: String,
    /// Whether what only the edge can answer is refused too.
    all: bool,
}

impl Standing {
    /// Of a device that has sent nothing yet.
    pub fn new(breaker: BreakerSettings) -> Self {
        Self { reason: Mutex::default(), breaker: Breaker::new(breaker) }
    }

    /// Ask the edge. One that has kept refusing this device is left alone for a while, for requests that
    /// the device can answer: they need no round trip to be refused once more.
    pub async fn ask(
        &self,
        edge: &Upstream,
        question: &Question,
        why: Why,
    ) -> Result<Answer, Failure> {
        let own = why == Why::Deferred;
        let ticket = own.then(|| self.breaker.ticket()).transpose().map_err(Failure::Open)?;
        let answer = edge.ask(question).await;
        let refused = match &answer {
            Ok(answer) => misfit(answer),
            Err(failure) => token(failure),
        };
        let Some((failure, words)) = refused else {
            if answer.is_ok() {
                self.good(own);
                ticket.into_iter().for_each(Ticket::success);
            }
            return answer;
        };
        let all = !matches!(failure, Failure::Misfit("other-router" | "other-encoder"));
        self.bad(Reason { words, all });
        ticket.into_iter().for_each(Ticket::failure);
        Err(failure)
    }

    fn reason(&self) -> MutexGuard<'_, Option<Reason>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The edge has answered a request, one of the device's `own` or one that only an edge can answer.
    fn good(&self, own: bool) {
        let mut reason = self.reason();
        if own || reason.as_ref().is_some_and(|r| r.all) {
            *reason = None;
        }
    }

    /// The edge refuses this device: said once until it is mended.
    fn bad(&self, new: Reason) {
        let mut reason = self.reason();
        if reason.is_none() {
            crate::say(&format!("the edge refuses this device: {}", new.words));
        }
        *reason = Some(new);
    }

    /// The reason, while there is one.
    pub fn words(&self) -> Option<String> {
        self.reason().as_ref().map(|reason| reason.words.clone())
    }
}

/// Whether a failure is a refusal of this device's token.
fn token(failure: &Failure) -> Option<(Failure, String)> {
    let Failure::Token(status) = failure else { return None };
    let words = format!(
        "status {}: check that edge.token_env here and access.device_token_env there hold one token",
        status.as_u16()
    );
    Some((failure.clone(), words))
}

/// Whether an edge's answer says that the two do not fit, and in which words.
fn misfit(answer: &Answer) -> Option<(Failure, String)> {
    let word = wire::misfit(&answer.head.headers)?;
    let said = match &answer.content {
        Content::Whole(bytes, _) => serde_json::from_slice::<Value>(bytes).ok(),
        Content::Stream(..) => None,
    };
    let said = said.and_then(|v| v["error"]["message"].as_str().map(String::from));
    let code = answer.head.headers.get(REFUSAL).and_then(|v| v.to_str().ok());
    let said: String = said.unwrap_or_default().chars().take(MAX_WORDS).collect();
    let said: String = said.chars().filter(|c| !c.is_control()).collect();
    let words = format!("{word} ({}): {said}", code.unwrap_or("it speaks another version"));
    Some((Failure::Misfit(word), words))
}
