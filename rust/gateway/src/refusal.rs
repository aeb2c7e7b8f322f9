//! A request that is not answered: its status and words, in the OpenAI error format.
//!
//! In: what was wrong. Out: a response. Words are bounded and never hold a prompt or a secret.

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

/// The code of a refusal of this gateway.
pub const REFUSAL: HeaderName = HeaderName::from_static("x-cr2fast-refusal");
/// Longest message, characters.
const MAX_WORDS: usize = 600;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// A word for programs.
    pub code: &'static str,
    /// What was wrong, what is right, what to do next.
    pub message: String,
    /// When to try again, s.
    pub retry_after_s: Option<u64>,
}

impl Refusal {
    /// A refusal with these words, cut to a bounded length.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        // No text has more characters than bytes.
        let cut = (message.len() > MAX_WORDS).then(|| message.char_indices().nth(MAX_WORDS));
        let message = match cut.flatten() {
            Some((at, _)) => format!("{} …", &message[..at]),
            None => message,
        };
        Self { status, code, message, retry_after_s: None }
    }

    /// 400: the caller can mend the request.
    pub fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 500: nobody's fault but ours.
    pub fn internal(words: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", words)
    }

    /// 413: of a body that may have so many bytes at most.
    pub fn body_too_large(most: usize) -> Self {
        let words = format!("body: expected at most {most} bytes (limits.body_bytes), got more");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", words)
    }

    /// The same with a time to wait, whole seconds, at least one.
    #[must_use]
    pub fn retry_after(self, seconds: f64) -> Self {
        Self { retry_after_s: Some(seconds.ceil().max(1.0) as u64), ..self }
    }
}

/// The 422 of limits on a request whose cost nobody can tell.
pub fn no_bound(no_embedding: bool) -> Refusal {
    if no_embedding {
        let words = "budget: expected an embedding of the text, by which costs are known, got none of the encoder's endpoint; retry later, or leave the limits out";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Refusal::new(status, "no_embedding", words).retry_after(1.0);
    }
    let words = "budget: expected text in the last user turn and no other media, which a cost is known for, got another request; leave the limits out";
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "budget", words)
}

/// The 404 that names the models.
pub fn unknown_model<S: AsRef<str>>(name: &str, known: &[S]) -> Refusal {
    let name: String = name.chars().take(80).collect();
    let known: Vec<&str> = known.iter().take(20).map(AsRef::as_ref).collect();
    let words = format!("model: expected \"cr2fast\" or one of {known:?}, got {name:?}");
    Refusal::new(StatusCode::NOT_FOUND, "model_not_found", words)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind =
            if self.status.is_client_error() { "invalid_request_error" } else { "api_error" };
        let body = error_json(&self.message, kind, self.code);
        let media = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, media, body).into_response();
        let headers = response.headers_mut();
        headers.insert(REFUSAL, HeaderValue::from_static(self.code));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self); // for whoever counts
        response
    }
}

/// An error in the OpenAI format.
pub fn error_json(message: &str, kind: &str, code: &str) -> Bytes {
    #[derive(Serialize)]
    struct Said<'a> {
        error: Error<'a>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        code: &'a str,
        message: &'a str,
        param: (),
        #[serde(rename = "type")]
        kind: &'a str,
    }
    let error = Error { code, message, param: (), kind };
    Bytes::from(serde_json::to_vec(&Said { error }).expect("words"))
}
