//! From a request's texts to what the router reads.
//!
//! In: texts, and whatever embeds: a table in memory, or a server. Out: [`Encoded`]: the row that the
//! networks read, and how many tokens there are.

use std::sync::Arc;

use cr2fast_core::{Error, Features, Router, StaticEncoder, endpoint_tokens, row_of_text};
use sha2::{Digest, Sha256};

use crate::ask::Texts;
use crate::config::{Config, ConfigError, EndpointConfig};
use crate::endpoint::{Endpoint, Proof};
use crate::heavy::{LONG, away};
use crate::refusal::Refusal;
use crate::tls::Trust;
use crate::upstream::Failure;

/// What a text comes to.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// What networks read: e(x), and the router's features; none where there is no text to decide by.
    pub embedding: Option<Vec<f32>>,
    /// L_in: an estimate of what models count, by [`cr2fast_core::Reading`] or by the endpoint.
    pub input_tokens: u64,
    /// Why the endpoint gave no embedding of a text that there is.
    pub failure: Option<Failure>,
}

/// What embeds.
#[derive(Debug)]
pub enum Encoder {
    /// A table in memory.
    Table(Arc<StaticEncoder>),
    /// A server.
    Endpoint(Arc<Endpoint>),
}

/// Count, and embed where that is asked for.
pub fn encode(
    encoder: &StaticEncoder,
    features: Option<&Features>,
    texts: &Texts,
    embed: bool,
) -> Result<Encoded, Refusal> {
    let count = |text: &String| encoder.count_tokens(text) as u64;
    let Some(text) = texts.routable().filter(|_| embed) else {
        let input_tokens = texts.all.iter().map(count).sum();
        return Ok(Encoded { embedding: None, input_tokens, failure: None });
    };
    let bad = |e: Error| Refusal::bad("text", bounded(&e));
    let (row, tokens) = encoder.encode_counted(text).map_err(bad)?;
    let embedding = Some(row_of_text(features, row, text).map_err(bad)?);
    // The embedded text is one of all: its tokens are counted already.
    let at = texts.all.iter().rposition(|one| one == text);
    let others = texts.all.iter().enumerate().filter(|(i, _)| Some(*i) != at);
    let others: u64 = others.map(|(_, text)| count(text)).sum();
    let input_tokens = others + at.map_or(0, |_| tokens as u64);
    Ok(Encoded { embedding, input_tokens, failure: None })
}

/// The same of an endpoint: it counts the tokens of what it embeds, and the rest has as many per byte.
pub async fn ask(
    endpoint: &Arc<Endpoint>,
    features: Option<&Arc<Features>>,
    texts: &Arc<Texts>,
    embed: bool,
) -> Result<Encoded, Refusal> {
    let without = |failure| Encoded {
        embedding: None,
        input_tokens: endpoint_tokens(None, 0, texts.len()),
        failure,
    };
    let Some(text) = texts.routable().filter(|_| embed) else { return Ok(without(None)) };
    match endpoint.embed(text).await {
        Err(failure) => Ok(without(Some(failure))),
        Ok(said) => Ok(Encoded {
            embedding: Some(row(features, said.vector, texts).await?),
            input_tokens: endpoint_tokens(said.prompt_tokens, said.sent, texts.len()),
            failure: None,
        }),
    }
}

/// What the networks read of a vector and its text.
async fn row(
    features: Option<&Arc<Features>>,
    vector: Vec<f32>,
    texts: &Arc<Texts>,
) -> Result<Vec<f32>, Refusal> {
    let Some(features) = features else { return Ok(vector) };
    let (features, all) = (Arc::clone(features), Arc::clone(texts));
    let make = move || {
        let row = row_of_text(Some(&features), vector, all.routable().unwrap_or_default());
        row.map_err(|e| Refusal::bad("text", bounded(&e)))
    };
    if texts.len() <= LONG {
        return make();
    }
    away(make).await.unwrap_or_else(|| Err(Refusal::internal("the reader of texts stopped")))
}

/// The endpoint that a file names, its proof made. One that does not answer is no error: it may start
/// after the gateway, and until then requests go on without embeddings.
pub fn endpoint(
    config: &Config,
    file: &EndpointConfig,
    router: &Router,
    trust: &Trust,
) -> Result<Endpoint, ConfigError> {
    let wrong =
        |line, message| ConfigError { path: config.path.clone(), line: Some(line), message };
    let Some(probes) = router.probes() else {
        let words = "router.path: expected a router with probes of its encoder, by which the endpoint of [encoder] is known, got one without; add them in Python: router.with_probes(encoder).save(path)";
        return Err(wrong(config.router.path.line, words.into()));
    };
    let made = Endpoint::proven(file, probes, config.breaker, trust)
        .map_err(|e| wrong(file.line, format!("encoder.url: expected to ask it, got: {e}")))?;
    match made.proof() {
        Proof::Bad(Failure::OtherEncoder, words, _) => {
            let expected = &router.encoder().id;
            let words = format!("encoder.url: expected {expected} behind it, {words}");
            Err(wrong(file.line, words))
        }
        _ => Ok(made),
    }
}

/// What device and edge compare: the hash of the encoder's files, or of its name where that is not known.
pub fn encoder_hash(router: &Router, encoder: &Encoder) -> String {
    match encoder {
        Encoder::Table(table) => table.info().sha256.clone(),
        Encoder::Endpoint(_) if router.encoder().sha256.is_empty() => {
            let hash = Sha256::digest(&router.encoder().id);
            hash.iter().fold(String::new(), |s, b| format!("{s}{b:02x}"))
        }
        Encoder::Endpoint(_) => router.encoder().sha256.clone(),
    }
}

/// A core error's words, cut.
pub fn bounded(e: &Error) -> String {
    e.to_string().chars().take(400).collect()
}
