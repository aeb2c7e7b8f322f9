//! An embeddings endpoint: asked for one vector per request, and believed only while it is the router's
//! encoder.
//!
//! In: a text. Out: its vector, or the [`Failure`] for which the request goes on without one. The
//! endpoint proves itself by the router's probes: when the gateway starts, when it reloads, when
//! `/readyz` asks, and anew after its connection broke, since another model may have come up in its place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cr2fast_core::{
    PROBE_TOLERANCE, Probes, endpoint_answer, endpoint_question, endpoint_text, normalised,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use tokio::time::{Instant, timeout};

use crate::config::EndpointConfig;
use crate::tls::{Trust, is_refusal};
use crate::upstream::{Breaker, BreakerSettings, Failure, HttpClient, http_client};

/// Bytes of an answer at most: 4096 numbers are a tenth of it.
const MAX_ANSWER: usize = 1 << 20;
/// For all probes together.
const PROOF: Duration = Duration::from_secs(10);
/// `/readyz`, which anybody may ask, has the probes embedded no more often.
const PROOF_AGE: Duration = Duration::from_secs(5);

/// A text's vector.
#[derive(Clone, Debug)]
pub struct Said {
    /// e(x).
    pub vector: Vec<f32>,
    /// Tokens of what was sent, as the endpoint counts.
    pub prompt_tokens: Option<u64>,
    /// Bytes of what was sent.
    pub sent: usize,
}

/// Whether the endpoint is the router's encoder.
#[derive(Clone, Debug)]
pub enum Proof {
    /// Nobody has asked since the connection broke.
    None,
    /// The largest distance of a probe's vector, and when that was.
    Good(f64, Instant),
    /// Why not, in words, and when.
    Bad(Failure, String, Instant),
}

/// The endpoint.
#[derive(Debug)]
pub struct Endpoint {
    config: EndpointConfig,
    client: HttpClient,
    breaker: Arc<Breaker>,
    probes: Arc<Probes>,
    /// Between two proofs that fail.
    pause: Duration,
    proof: Mutex<Proof>,
    /// One proof at a time.
    proving: tokio::sync::Mutex<()>,
}

impl Endpoint {
    /// From its configuration, and the probes that it has to match; asks nobody yet.
    pub fn new(
        config: &EndpointConfig,
        probes: &Arc<Probes>,
        breaker: BreakerSettings,
        trust: &Trust,
    ) -> Self {
        Self {
            config: config.clone(),
            client: http_client(config.timeout, trust),
            breaker: Breaker::new(breaker),
            probes: Arc::clone(probes),
            pause: breaker.open,
            proof: Mutex::new(Proof::None),
            proving: tokio::sync::Mutex::default(),
        }
    }

    /// The same, its proof made before this returns; on a thread of its own, for this one may serve.
    pub fn proven(
        config: &EndpointConfig,
        probes: &Arc<Probes>,
        breaker: BreakerSettings,
        trust: &Trust,
    ) -> Result<Self, std::io::Error> {
        let made = Self::new(config, probes, breaker, trust);
        // Its connections end with the runtime, so the one that stays has others.
        let once = Self::new(config, probes, breaker, trust);
        let proof = std::thread::scope(|scope| {
            let run = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(once.prove());
                Ok(once.proof())
            };
            scope.spawn(run).join().unwrap_or_else(|_| Err(std::io::Error::other("a panic")))
        })?;
        made.set(proof);
        Ok(made)
    }

    /// Where it is.
    pub fn place(&self) -> String {
        format!("{} at {}", self.config.model, self.config.address.base)
    }

    /// How many probes know it.
    pub fn n_probes(&self) -> usize {
        self.probes.texts().len()
    }

    /// What is known of it.
    pub fn proof(&self) -> Proof {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, proof: Proof) {
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = proof;
    }

    /// A text's vector, in bounded time.
    pub async fn embed(self: &Arc<Self>, text: &str) -> Result<Said, Failure> {
        let ticket = self.breaker.ticket().map_err(Failure::Open)?;
        let asked = async {
            self.believed().await?;
            self.ask(text).await
        };
        let result = timeout(self.config.timeout, asked).await.unwrap_or(Err(Failure::Deadline));
        match &result {
            Ok(_) => ticket.success(),
            // It is this text that it does not take.
            Err(Failure::Status(status, _)) if matches!(status.as_u16(), 400 | 413 | 422) => {
                ticket.success();
            }
            Err(failure) => {
                ticket.failure();
                let restarted = matches!(failure, Failure::Unreachable | Failure::Broken);
                if restarted && matches!(self.proof(), Proof::Good(..)) {
                    self.set(Proof::None);
                }
            }
        }
        result
    }

    /// Whether its vectors may be used; has the proof made where there is none.
    async fn believed(self: &Arc<Self>) -> Result<(), Failure> {
        match self.proof() {
            Proof::Good(..) => return Ok(()),
            Proof::Bad(failure, _, at) if at.elapsed() < self.pause => return Err(failure),
            _ => {}
        }
        match self.prove_again(self.pause).await {
            Proof::Good(..) => Ok(()),
            Proof::Bad(failure, ..) => Err(failure),
            Proof::None => Err(Failure::Broken),
        }
    }

    /// The proof, made anew where it is older than that. The work goes on where the caller goes away.
    pub async fn prove_again(self: &Arc<Self>, age: Duration) -> Proof {
        let own = Arc::clone(self);
        let made = tokio::spawn(async move {
            let _turn = own.proving.lock().await;
            let made = match own.proof() {
                Proof::Good(_, at) | Proof::Bad(_, _, at) => Some(at),
                Proof::None => None,
            };
            if made.is_none_or(|at| at.elapsed() >= age) {
                own.prove().await;
            }
            own.proof()
        });
        made.await.unwrap_or(Proof::None)
    }

    /// Whether it is the router's encoder, as `/readyz` asks.
    pub async fn ready(self: &Arc<Self>) -> Proof {
        self.prove_again(PROOF_AGE).await
    }

    /// Have the probes embedded, and compare.
    async fn prove(&self) {
        let all = async {
            let mut worst: f64 = 0.0;
            for (i, text) in self.probes.texts().iter().enumerate() {
                let said = self.ask(text).await.map_err(|failure| {
                    let words = format!("got no vector of probe {}: {}", i + 1, failure.words());
                    (failure, words)
                })?;
                let far = self.probes.distance(i, &said.vector).unwrap_or(f64::INFINITY);
                if far > PROBE_TOLERANCE {
                    let n = self.probes.texts().len();
                    let words = format!(
                        "got a vector of probe {} of {n} that is {far:.2e} away from the router's (at most {PROBE_TOLERANCE:e}, relative): another encoder, another quantisation, or another cut of long texts; serve the encoder that the router was fitted with, or fit and calibrate with this one (cr2fast.EndpointEncoder)",
                        i + 1
                    );
                    return Err((Failure::OtherEncoder, words));
                }
                worst = worst.max(far);
            }
            Ok(worst)
        };
        let late = || (Failure::Deadline, format!("got no vectors of the probes in {PROOF:?}"));
        let found = timeout(PROOF, all).await.unwrap_or_else(|_| Err(late()));
        let before = matches!(self.proof(), Proof::Bad(..));
        let now = Instant::now();
        self.set(match found {
            Ok(worst) => Proof::Good(worst, now),
            Err((failure, words)) => {
                if !before {
                    crate::say(&format!("the encoder {} is not used: {words}", self.place()));
                }
                Proof::Bad(failure, words, now)
            }
        });
    }

    async fn ask(&self, text: &str) -> Result<Said, Failure> {
        let text = endpoint_text(text, self.probes.max_chars());
        let mut request =
            Request::new(Full::new(Bytes::from(endpoint_question(&self.config.model, &text))));
        *request.method_mut() = Method::POST;
        let uri = format!("{}/v1/embeddings", self.config.address.base);
        *request.uri_mut() = uri.parse().expect("the base was checked with the configuration");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(token) = &self.config.address.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let response = self.client.request(request).await.map_err(|e| match e {
            e if is_refusal(&e) => Failure::Untrusted,
            e if e.is_connect() => Failure::Unreachable,
            _ => Failure::Broken,
        })?;
        if !response.status().is_success() {
            return Err(Failure::of_status(response.status(), response.headers()));
        }
        let read = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let bytes = read.map_err(|e| {
            if e.is::<LengthLimitError>() { Failure::TooLarge } else { Failure::Broken }
        })?;
        let said = endpoint_answer(&bytes.to_bytes(), Some(self.probes.dim()));
        let said = said.map_err(|_| Failure::Garbage)?;
        let vector = if self.probes.are_units() { normalised(said.vector) } else { said.vector };
        Ok(Said { vector, prompt_tokens: said.prompt_tokens, sent: text.len() })
    }
}
