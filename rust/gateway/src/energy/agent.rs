//! The profiler's meter agent (`cr2fast-profile agent`) on the machine that the models run on.
//!
//! In: its address and token. Out: [`Domain`]s and their joules, of `GET /energy`, schema
//! `cr2fast.agent/1`: those that add up to the machine's total. What the agent estimates, such as a
//! constant power, is refused, for it is no measurement. A sample's time is the middle of the exchange,
//! less the reading's age.

use std::error::Error;
use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::Error as Wrong;

use super::tally::{Domain, Sample};
use crate::tls::{Trust, beneath};
use crate::upstream::{Address, HttpClient, http_client};

const SCHEMA: &str = "cr2fast.agent/1";
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two questions to an agent that is silent.
const RETRY: Duration = Duration::from_millis(500);
/// Bytes of an answer at most.
const MAX_ANSWER: usize = 1 << 20;

/// The agent.
#[derive(Debug)]
pub struct Agent {
    address: Address,
    client: HttpClient,
    names: Vec<String>,
    domains: Vec<Domain>,
    lost: Option<Instant>,
}

/// What `/energy` answers.
#[derive(Deserialize)]
struct Answer {
    schema: String,
    #[serde(default)]
    session: String,
    #[serde(default)]
    poll_s: f64,
    #[serde(default)]
    domains: Vec<Told>,
    #[serde(default)]
    joules: Vec<Option<f64>>,
    #[serde(default)]
    age_s: f64,
    #[serde(default)]
    fault_count: u64,
    unavailable: Option<Unavailable>,
}

#[derive(Deserialize)]
struct Told {
    name: String,
    in_total: bool,
    estimated: bool,
}

#[derive(Deserialize)]
struct Unavailable {
    detail: String,
    remedy: String,
}

impl Agent {
    /// Ask it, and see that it measures.
    pub async fn open(address: &Address, trust: &Trust) -> Result<Self, String> {
        let client = http_client(PATIENCE, trust);
        let address = address.clone();
        let mut agent = Self { address, client, names: vec![], domains: vec![], lost: None };
        let answer = agent.ask().await?;
        if let Some(Unavailable { detail, remedy }) = &answer.unavailable {
            return Err(format!("its host has no meter: {}; {}", short(detail), short(remedy)));
        }
        let total = || answer.domains.iter().filter(|d| d.in_total);
        if total().count() == 0 {
            return Err("it measures nothing that belongs to a total".into());
        }
        if let Some(d) = total().find(|d| d.estimated) {
            return Err(format!(
                "its {} is an estimate, and no estimate is logged as measured; start the agent with a meter",
                short(&d.name)
            ));
        }
        // The agent has followed its counters: they neither wrap nor fall.
        let domain =
            |d: &Told| Domain { name: short(&d.name), range_j: None, max_w: f64::INFINITY };
        agent.domains = total().map(domain).collect();
        agent.names = total().map(|d| d.name.clone()).collect();
        agent.joules(&answer)?;
        Ok(agent)
    }

    /// What is counted.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }

    /// Ask for all of them. One that was silent is left alone for a while.
    pub async fn sample(&mut self) -> Result<Sample, String> {
        if self.lost.is_some_and(|at| at.elapsed() < RETRY) {
            return Err("it was silent a moment ago".into());
        }
        let start = Instant::now();
        let answer = self.ask().await;
        let took = start.elapsed();
        self.lost = (took >= PATIENCE).then(Instant::now);
        let answer = answer?;
        let joules = self.joules(&answer)?;
        let age = Duration::try_from_secs_f64(answer.age_s).unwrap_or_default();
        let middle = start + took / 2;
        Ok(Sample {
            at: middle.checked_sub(age).unwrap_or(middle),
            give_s: took.as_secs_f64() / 2.0 + answer.poll_s.max(0.0),
            joules,
            // A fault of any of its counters may be one between two readings.
            mark: format!("{} {}", answer.session, answer.fault_count),
        })
    }

    /// The joules of the domains that were there at the start, all of them.
    fn joules(&self, answer: &Answer) -> Result<Vec<f64>, String> {
        let told = answer.domains.iter().zip(&answer.joules).filter(|(d, _)| d.in_total);
        let told: Vec<_> = told.collect();
        let same = told.iter().map(|(d, _)| &d.name).eq(&self.names);
        if !same || told.iter().any(|(d, _)| d.estimated) {
            return Err("another meter answers: its counters are not those of the start".into());
        }
        let known = |(d, j): &(&Told, &Option<f64>)| {
            j.filter(|j| j.is_finite())
                .ok_or_else(|| format!("it does not trust {}", short(&d.name)))
        };
        told.iter().map(known).collect()
    }

    async fn ask(&self) -> Result<Answer, String> {
        let uri = format!("{}/energy", self.address.base);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri.parse().expect("the base was checked with the configuration");
        if let Some(token) = &self.address.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let answered = async {
            let response = self.client.request(request).await;
            let response = response.map_err(|e| unreached(&self.address.base, &e))?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::UNAUTHORIZED => {
                    return Err("status 401: energy.token_env must name the agent's token".into());
                }
                status => return Err(format!("status {}", status.as_u16())),
            }
            let read = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            read.map(Collected::to_bytes).map_err(|_| "an answer that broke off".to_string())
        };
        let bytes = timeout(PATIENCE, answered).await;
        let bytes = bytes.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|_| format!("no answer of a meter agent (schema {SCHEMA})"))?;
        let expected = answer.unavailable.is_some() || answer.domains.len() == answer.joules.len();
        if answer.schema != SCHEMA || !expected || !answer.poll_s.is_finite() {
            return Err(format!("no answer of a meter agent of this release (schema {SCHEMA})"));
        }
        Ok(answer)
    }
}

/// Why an agent cannot be asked, and what to do. An agent speaks plain HTTP: https is that of something
/// that stands before it.
fn unreached(base: &str, e: &(dyn Error + 'static)) -> String {
    let mut root = e;
    while let Some(source) = root.source() {
        root = source;
    }
    let kind = root.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    if !base.starts_with("https:") || kind == Some(ErrorKind::ConnectionRefused) {
        return "no connection; start `cr2fast-profile agent` there".into();
    }
    if let Some(Wrong::InvalidCertificate(_)) = beneath(e) {
        return "a certificate that is not trusted for this name; name its authority in tls.ca"
            .into();
    }
    let plain = base.replacen("https:", "http:", 1);
    format!(
        "no TLS: an agent speaks plain HTTP; write {plain} where the network between is trusted, or a tunnel, or put a proxy that speaks TLS before the agent"
    )
}

/// Words from outside, cut, on one line.
fn short(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(200).collect()
}
