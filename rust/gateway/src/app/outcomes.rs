//! `/v1/outcomes`: how good an answer was, by its request's id.
//!
//! In: `{"id": …, "score": 0 to 1, "place": …}`. Out: a line of the decision log, written before the answer
//! says so, which readers join to its request by the id. The last requests are remembered, so that a grade that repeats another is not
//! written twice; one of a request that is not remembered is kept too, for it may be late.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::{App, json};
use crate::log::{Line, OutcomeRecord, SCHEMA, now};
use crate::refusal::Refusal;
use crate::wire::Place;

/// Requests that are remembered.
const REMEMBERED: usize = 1 << 14;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grade {
    id: String,
    score: f64,
    #[serde(default)]
    place: Of,
}

/// Which of a request's answers is graded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    /// The one that the client had.
    #[default]
    Answer,
    /// The device's.
    Device,
    /// The edge's.
    Edge,
}

impl Of {
    const ALL: [&str; 3] = ["answer", "device", "edge"];

    fn word(self) -> &'static str {
        Self::ALL[self as usize]
    }
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Which place answered, where one did.
    answered: Option<Of>,
    /// Whether the other place may have answered too.
    both: bool,
}

/// The last requests.
#[derive(Debug)]
pub(super) struct Recent(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    requests: HashMap<u128, Known>,
    order: VecDeque<u128>,
    /// Of requests that have some: of the answer, of the device's and of the edge's.
    grades: HashMap<u128, [Option<f64>; 3]>,
}

impl Default for Recent {
    fn default() -> Self {
        // A map less than half full is tidied in place where entries come and go: it never grows.
        let requests = HashMap::with_capacity(2 * REMEMBERED + 2);
        let order = VecDeque::with_capacity(REMEMBERED);
        Self(Mutex::new(Kept { requests, order, grades: HashMap::new() }))
    }
}

/// How a grade fits what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    First,
    Repeated,
    Revised,
    Unknown,
}

impl Recent {
    /// Remember a request; the oldest one is forgotten.
    pub(super) fn remember(&self, id: &str) {
        let Ok(id) = u128::from_str_radix(id, 16) else { return };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An id that comes again is another request's: its grades are none of this one's.
        if kept.requests.insert(id, Known::default()).is_some() {
            kept.grades.remove(&id);
            return;
        }
        if kept.order.len() == REMEMBERED
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.requests.remove(&oldest);
            kept.grades.remove(&oldest);
        }
        kept.order.push_back(id);
    }

    /// A request that is remembered was answered; `both` where the other place may have, too.
    pub(super) fn answered(&self, id: &str, place: Option<Place>, both: bool) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = u128::from_str_radix(id, 16).ok().and_then(|id| kept.requests.get_mut(&id));
        if let Some(known) = known {
            known.both = both;
            known.answered = place.map(|place| match place {
                Place::Device => Of::Device,
                Place::Edge => Of::Edge,
            });
        }
    }

    /// What a request has no answer of, in words; none where it may have, or is not remembered.
    fn lacks(&self, id: u128, of: Of) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.requests.get(&id)?;
        if of == Of::Answer || known.both || known.answered == Some(of) {
            return None;
        }
        let (expected, since) = match known.answered {
            Some(place) => (
                format!("\"answer\" or {:?}", place.word()),
                format!("only the {} was asked for an answer", place.word()),
            ),
            None => ("\"answer\"".into(), "it has no answer of a known place".into()),
        };
        Some(format!(
            "body.place: expected {expected} for this request, since {since}, got {:?}",
            of.word()
        ))
    }

    /// Take a grade into account.
    fn fit(&self, id: u128, of: Of, score: f64) -> Fit {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.requests.contains_key(&id) {
            return Fit::Unknown;
        }
        match kept.grades.entry(id).or_default()[of as usize].replace(score) {
            None => Fit::First,
            Some(before) if before.to_bits() == score.to_bits() => Fit::Repeated,
            Some(_) => Fit::Revised,
        }
    }
}

impl App {
    /// Take a grade.
    pub(super) async fn outcome(&self, request: Request) -> Result<Response, Refusal> {
        let (head, body) = request.into_parts();
        let body = self.read(body, &head.extensions).await?.joined();
        let Grade { id, score, place } = read(&body)?;
        let known = u128::from_str_radix(&id, 16).ok().filter(|_| {
            id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        let Some(number) = known else {
            let words = "body.id: expected 32 hexadecimal digits, the answer's x-cr2fast-request-id, got another text";
            return Err(Refusal::bad("outcome", words));
        };
        if !(0.0..=1.0).contains(&score) {
            let words = format!("body.score: expected a number from 0 to 1, got {score}");
            return Err(Refusal::bad("outcome", words));
        }
        if !self.log.is_on() {
            let words = "expected a gateway that keeps a decision log, got one without; add [log] to its file";
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "no_log", words));
        }
        if let Some(words) = self.recent.lacks(number, place) {
            return Err(Refusal::new(StatusCode::CONFLICT, "not_shadowed", words));
        }
        // Repeated ones are written, too: the disk may have lost the first one since.
        let (ts, of) = (now(), place.word());
        let line = OutcomeRecord { schema: SCHEMA, kind: "outcome", id, ts, score, place: of };
        if let Err(got) = self.log.write(Line::Outcome(Box::new(line))).await {
            let words = format!(
                "expected a decision log that takes the grade, got one that does not: {got}; send it again later"
            );
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "log_full", words);
            return Err(refusal.retry_after(1.0));
        }
        let fit = self.recent.fit(number, place, score);
        let (status, word, words) = match fit {
            Fit::First => (StatusCode::OK, "kept", "the request's first grade".to_string()),
            Fit::Repeated => (StatusCode::OK, "repeated", "the grade that it has".into()),
            Fit::Revised => {
                (StatusCode::OK, "revised", "another grade than before; the last counts".into())
            }
            Fit::Unknown => (
                StatusCode::ACCEPTED,
                "unknown",
                format!(
                    "not one of this gateway's last {REMEMBERED} requests; kept, since it may be late: readers of the log join it by the id"
                ),
            ),
        };
        let told = json!({"object": "cr2fast.outcome", "status": word, "words": words});
        Ok((status, json(&told)).into_response())
    }
}

fn read(body: &[u8]) -> Result<Grade, Refusal> {
    let object = body.trim_ascii_start().starts_with(b"{");
    serde_json::from_slice(body).ok().filter(|_| object).ok_or_else(|| {
        let words = "body: expected {\"id\": TEXT, \"score\": NUMBER} and perhaps \"place\": \"answer\", \"device\" or \"edge\", got something else";
        Refusal::bad("outcome", words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_requests_are_remembered() {
        let recent = Recent::default();
        for i in 0..=REMEMBERED {
            recent.remember(&format!("{i:032x}"));
        }
        assert_eq!(recent.fit(0, Of::Answer, 1.0), Fit::Unknown, "the oldest is forgotten");
        assert_eq!(recent.fit(1, Of::Answer, 1.0), Fit::First);
        assert_eq!(recent.fit(1, Of::Answer, 1.0), Fit::Repeated);
        assert_eq!(recent.fit(1, Of::Edge, 1.0), Fit::First, "another answer of the request");
        assert_eq!(recent.fit(1, Of::Answer, 0.5), Fit::Revised);
        let kept = recent.0.lock().unwrap();
        assert_eq!((kept.order.len(), kept.requests.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(kept.grades.len(), 1, "only those that have some");
    }

    #[test]
    fn nothing_grows_however_many_requests_come() {
        let recent = Recent::default();
        let room = |kept: &Kept| (kept.requests.capacity(), kept.order.capacity());
        let before = room(&recent.0.lock().unwrap());
        for i in 0..10 * REMEMBERED as u128 {
            // Spread, as random ids are.
            recent.remember(&format!("{:032x}", (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c)));
        }
        let after = room(&recent.0.lock().unwrap());
        // Entries that have gone may take up some of the room until it is tidied.
        assert!(after.0 <= before.0 && after.1 == before.1, "{before:?}, {after:?}");
    }
}
