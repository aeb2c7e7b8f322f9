//! From an upstream's answer to the client's response, and from all failures to one error.
//!
//! In: an [`Answer`], what was decided, the request's trace. Out: a response: status, headers and bytes
//! of the upstream, with the answer headers of this gateway.

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::brain::Estimate;
use crate::job::Job;
use crate::refusal::Refusal;
use crate::relay::Out;
use crate::trace::{Label, Trace};
use crate::upstream::{Answer, Content, Failure, Upstream};
use crate::wire;

/// Headers that belong to one connection, those that are written anew, and what offers the upstream's own
/// addresses.
const DROPPED: [HeaderName; 10] = [
    header::ALT_SVC,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];

/// Headers that an answer is given at most.
const MOST_WRITTEN: usize = 13;

/// The response of an answer.
pub fn respond(
    job: &Job,
    upstream: &Arc<Upstream>,
    answer: Answer,
    label: &Label,
    mut trace: Box<Trace>,
) -> Response<Out> {
    let status = answer.head.status;
    trace.answering(&job.brain, label, status);
    let mut headers = answer.head.headers;
    clean(&mut headers);
    write(job, label, &mut headers);
    let body = match answer.content {
        Content::Whole(bytes, usage) => {
            trace.usage(usage);
            Out::whole(bytes, trace)
        }
        Content::Stream(held, events, body) => Out::stream(held, events, body, upstream, trace),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn clean(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let named: Vec<String> = named.flat_map(|v| v.split(',')).map(|v| v.trim().into()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in DROPPED {
        headers.remove(name);
    }
    let ours = headers.keys().filter(|key| key.as_str().starts_with(wire::PREFIX)).cloned();
    for name in ours.collect::<Vec<_>>() {
        headers.remove(name);
    }
}

fn write(job: &Job, label: &Label, headers: &mut HeaderMap) {
    headers.reserve(MOST_WRITTEN);
    headers.insert(wire::REQUEST_ID, wire::text(&job.id));
    headers.insert(wire::PLACE, HeaderValue::from_static(label.place.word()));
    headers.insert(wire::MODEL, wire::text(&label.model));
    headers.insert(wire::WHY, HeaderValue::from_static(label.why.word()));
    let mut number = |key: HeaderName, x: Option<String>| {
        if let Some(x) = x {
            headers.insert(key, wire::text(&x));
        }
    };
    number(wire::MARGIN, label.margin.map(|(margin, _)| margin.to_string()));
    let threshold = label.margin.map(|(_, threshold)| threshold);
    number(wire::THRESHOLD, threshold.map(|threshold| threshold.to_string()));
    number(wire::LAM, job.point.map(|p| p.lam.to_string()));
    number(wire::ALPHA, job.point.map(|p| p.alpha.to_string()));
    let estimated = |of: fn(Estimate) -> Option<f64>| Some(of(label.estimate?)?.to_string());
    number(wire::LATENCY_S, estimated(|e| e.latency_s));
    number(wire::ENERGY_J, estimated(|e| e.energy_j));
    number(wire::USD, estimated(|e| e.usd));
    if job.deferral.is_some() {
        headers.insert(wire::SPEAKS, HeaderValue::from_static(wire::VERSION));
        let seconds = job.read.elapsed().as_secs_f64();
        headers.insert(wire::EDGE_S, wire::text(&seconds.to_string()));
    }
}

/// The error where nobody answered; `tried` names the upstreams and how each failed.
pub fn nobody(tried: &[(String, Failure)], mut trace: Box<Trace>) -> Refusal {
    let (status, code) = status_of(tried);
    let wait = tried.iter().filter_map(|(_, f)| f.wait_s()).min_by(f64::total_cmp);
    let wait = wait.or((status == StatusCode::SERVICE_UNAVAILABLE).then_some(1.0));
    trace.ended("failed");
    trace.record.status = status.as_u16();
    let refusal = Refusal::new(status, code, message(tried));
    wait.into_iter().fold(refusal, Refusal::retry_after)
}

/// One that asked an edge alone hands on what the edge says.
fn status_of(tried: &[(String, Failure)]) -> (StatusCode, &'static str) {
    if let [(_, Failure::Refused(refused))] = tried {
        return (refused.status, refused.code);
    }
    let any = |of: fn(&Failure) -> bool| tried.iter().any(|(_, failure)| of(failure));
    let full = |f: &Failure| match f {
        Failure::Status(status, _) => *status == StatusCode::TOO_MANY_REQUESTS,
        Failure::Refused(refused) => refused.status == StatusCode::TOO_MANY_REQUESTS,
        _ => false,
    };
    if tried.is_empty() || any(|f| matches!(f, Failure::Open(_))) {
        (StatusCode::SERVICE_UNAVAILABLE, "upstreams_down")
    } else if tried.iter().all(|(_, f)| full(f)) {
        (StatusCode::TOO_MANY_REQUESTS, "upstreams_full")
    } else if any(|f| *f == Failure::Deadline) {
        (StatusCode::GATEWAY_TIMEOUT, "deadline")
    } else {
        (StatusCode::BAD_GATEWAY, "upstreams_failed")
    }
}

/// What waiting does not mend is not to be tried later.
fn message(tried: &[(String, Failure)]) -> String {
    if let [(name, Failure::Refused(refused))] = tried {
        return format!("{name}: {}", refused.message);
    }
    let words: Vec<String> =
        tried.iter().map(|(name, f)| format!("{name}: {}", f.words())).collect();
    let got = if words.is_empty() { "none that is up".into() } else { words.join("; ") };
    let advice = match tried {
        [_, ..] if tried.iter().all(|(_, f)| matches!(f, Failure::Token(_))) => {
            "; whoever runs this gateway has to set the right token"
        }
        _ => "; retry later",
    };
    format!("expected an answer from a model's server, got {got}{advice}")
}
