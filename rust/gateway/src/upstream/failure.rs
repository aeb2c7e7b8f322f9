//! Why an upstream gave no answer, in a word for log and metrics and in words for people.
//!
//! In: what was seen of the upstream. Out: whether the upstream lives all the same, and when it may be asked
//! again. An edge that refuses says why itself: what it says is read, bounded and handed on.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::http::response::Parts;
use serde_json::Value;

use crate::refusal::REFUSAL;

/// Bytes of a refusal that are read at most.
const MAX_REFUSAL: usize = 1 << 16;
/// Longest words of an edge that are repeated, characters.
const MAX_WORDS: usize = 400;
/// Longest wait that is handed on, s: a day.
const MAX_WAIT: u64 = 86_400;

/// Why an upstream gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its breaker is open, for this long.
    Open(Duration),
    /// No connection.
    Unreachable,
    /// No TLS that both sides take, or a certificate that is not trusted.
    Untrusted,
    /// The connection broke, or the length was a lie.
    Broken,
    /// Nothing within the deadline.
    Deadline,
    /// This status, and after how many seconds to ask again, where the server says so.
    Status(StatusCode, Option<u64>),
    /// This status, 401 or 403: the token of the file is not the server's.
    Token(StatusCode),
    /// An edge that lives and gives no answer, in its own words.
    Refused(Box<Refused>),
    /// Status 200 with an error in it.
    ErrorInside,
    /// No answer of this API.
    Garbage,
    /// More than the configured bytes.
    TooLarge,
    /// The vectors of another encoder than the router's.
    OtherEncoder,
    /// An edge that runs another router, encoder or release than its device.
    Misfit(&'static str),
}

/// An edge's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its status.
    pub status: StatusCode,
    /// Its code.
    pub code: &'static str,
    /// Its message.
    pub message: String,
    /// When to ask again, s.
    pub retry_after_s: Option<u64>,
}

/// Codes of refusals that are no word on the request: an edge's models failed, or the edge is full or ends.
const CODES: [&str; 8] = [
    "upstreams_failed",
    "upstreams_full",
    "upstreams_down",
    "deadline",
    "too_many_requests",
    "no_embedding",
    "gateway_stopped",
    "body_slow",
];

impl Failure {
    /// Of a status that is no answer, without its body.
    pub fn of_status(status: StatusCode, headers: &HeaderMap) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Token(status),
            _ => Self::Status(status, wait_of(headers)),
        }
    }

    /// The same of an edge: its own refusal with its words, or one of something that stands before it.
    pub async fn of_edge(self, head: &Parts, body: Incoming) -> Self {
        let code = head.headers.get(REFUSAL).and_then(|v| v.to_str().ok());
        let (Some(code), Self::Status(status, retry_after_s)) = (code, &self) else { return self };
        let Ok(read) = Limited::new(body, MAX_REFUSAL).collect().await else { return Self::Broken };
        let said = serde_json::from_slice::<Value>(&read.to_bytes()).unwrap_or_default();
        let said = said["error"]["message"].as_str().unwrap_or("no reason");
        Self::Refused(Box::new(Refused {
            status: *status,
            code: CODES.into_iter().find(|known| *known == code).unwrap_or("upstreams_failed"),
            message: said.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect(),
            retry_after_s: *retry_after_s,
        }))
    }

    /// Whether whoever was asked lives, though there is no answer: the server is full or does not know us, or
    /// the edge's models failed and not the edge.
    pub fn is_of_the_living(&self) -> bool {
        match self {
            Self::TooLarge | Self::Token(_) | Self::Refused(_) => true,
            Self::Status(status, _) => status.is_client_error(),
            _ => false,
        }
    }

    /// When to ask again, s, where that is known.
    pub fn wait_s(&self) -> Option<f64> {
        match self {
            Self::Open(wait) => Some(wait.as_secs_f64()),
            Self::Status(_, seconds) => seconds.map(|s| s as f64),
            Self::Refused(refused) => refused.retry_after_s.map(|s| s as f64),
            _ => None,
        }
    }

    /// The word in log and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Open(_) => "breaker-open",
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted",
            Self::Broken => "broken",
            Self::Deadline => "deadline",
            Self::Status(..) => "status",
            Self::Token(_) => "token",
            Self::Refused(_) => "refused",
            Self::ErrorInside => "error-inside",
            Self::Garbage => "garbage",
            Self::TooLarge => "too-large",
            Self::OtherEncoder => "other-encoder",
            Self::Misfit(what) => what,
        }
    }

    /// What came in place of an answer.
    pub fn words(&self) -> String {
        match self {
            Self::Open(wait) => {
                format!("left alone for {:.1} s more after failures", wait.as_secs_f64())
            }
            Self::Unreachable => "no connection".into(),
            Self::Untrusted => {
                "no TLS connection: its certificate is not trusted (tls.ca), or it speaks no TLS"
                    .into()
            }
            Self::Broken => "a connection that broke before the end".into(),
            Self::Deadline => "no content within the deadline".into(),
            Self::Status(status, _) => format!("status {}", status.as_u16()),
            Self::Token(status) => token_words(*status),
            Self::Refused(refused) => {
                format!(
                    "status {} ({}): {}",
                    refused.status.as_u16(),
                    refused.code,
                    refused.message
                )
            }
            Self::ErrorInside => "an error under status 200".into(),
            Self::Garbage => "bytes that are no completion".into(),
            Self::OtherEncoder => "the vectors of another encoder".into(),
            Self::Misfit(what) => format!("refuses this device: {what}"),
            Self::TooLarge => "an answer larger than limits.answer_bytes".into(),
        }
    }
}

/// What a 401 or 403 of a server says to whoever runs the gateway.
pub fn token_words(status: StatusCode) -> String {
    let status = status.as_u16();
    format!("status {status}: it does not take this gateway's token (token_env of its section)")
}

/// Seconds, or the time at a date (RFC 9110, section 10.2.3).
fn wait_of(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = text.parse::<u64>().ok().or_else(|| {
        let at = httpdate::parse_http_date(text).ok()?;
        let left = at.duration_since(std::time::SystemTime::now()).unwrap_or_default();
        Some(left.as_secs())
    });
    seconds.map(|s| s.min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date_and_bounded() {
        let of = |text: &str| {
            let value = hyper::header::HeaderValue::from_str(text).unwrap();
            wait_of(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!((of("7"), of(" 0 "), of("99999999999")), (Some(7), Some(0), Some(MAX_WAIT)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0), "a time that is over");
        assert_eq!(of("Fri, 31 Dec 2399 23:59:59 GMT"), Some(MAX_WAIT));
        for none in ["", "soon", "-1", "1.5", "99999999999999999999999"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(wait_of(&HeaderMap::new()), None);
    }
}
