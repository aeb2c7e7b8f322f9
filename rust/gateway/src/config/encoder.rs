//! What embeds texts: a static encoder's file, or an OpenAI-compatible endpoint.
//!
//! In: `router.encoder` or the section `[encoder]`. Out: an [`EncoderConfig`], or the line that is wrong.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::check::Checker;
use super::file::RouterFile;
use super::tokens::Token;
use super::{ConfigError, Lined};
use crate::upstream::Address;

/// An embeddings endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderFile {
    /// `http://127.0.0.1:8082`, say.
    pub url: Spanned<String>,
    /// What the endpoint calls the model.
    pub model: Spanned<String>,
    /// Environment variable with the endpoint's token.
    pub token_env: Option<Spanned<String>>,
    /// For one embedding, ms.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: Spanned<i64>,
}

fn timeout_ms() -> Spanned<i64> {
    Spanned::new(0..0, 1_000)
}

/// What embeds texts.
#[derive(Clone, Debug)]
pub enum EncoderConfig {
    /// A static encoder.
    File(Lined<PathBuf>),
    /// An endpoint.
    Endpoint(Box<EndpointConfig>),
}

/// An embeddings endpoint.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Its server.
    pub address: Address,
    /// What it calls the model.
    pub model: String,
    /// For one embedding.
    pub timeout: Duration,
    /// The line of its URL.
    pub line: usize,
}

impl EncoderConfig {
    /// The endpoint, where that is what embeds.
    pub fn endpoint(&self) -> Option<&EndpointConfig> {
        match self {
            Self::File(_) => None,
            Self::Endpoint(endpoint) => Some(endpoint),
        }
    }
}

impl Checker<'_> {
    /// What the endpoint is shown.
    pub(super) fn encoder_token(
        &self,
        file: Option<&EncoderFile>,
    ) -> Result<Option<Token>, ConfigError> {
        self.shown("encoder.token_env", file.and_then(|f| f.token_env.as_ref()))
    }

    /// One of the two.
    pub(super) fn encoder(
        &self,
        router: &RouterFile,
        file: Option<&EncoderFile>,
    ) -> Result<EncoderConfig, ConfigError> {
        let file = match (&router.encoder, file) {
            (Some(path), None) => return Ok(EncoderConfig::File(self.near(path))),
            (None, Some(file)) => file,
            (Some(path), Some(_)) => {
                let expected = "none beside [encoder], whose endpoint embeds";
                return Err(self.wrong(path, "router.encoder", expected, &"one"));
            }
            (None, None) => {
                let expected = "router.encoder beside it, the file of a static encoder, or a section [encoder] with an endpoint's url";
                return Err(self.wrong(&router.path, "router.path", expected, &"neither"));
            }
        };
        if file.model.get_ref().is_empty() {
            let expected = "what the endpoint calls the model";
            return Err(self.wrong(&file.model, "encoder.model", expected, &"an empty name"));
        }
        Ok(EncoderConfig::Endpoint(Box::new(EndpointConfig {
            address: Address {
                name: "encoder".into(),
                base: self.base("encoder.url", &file.url)?,
                token: self.bearer("encoder.token_env", file.token_env.as_ref())?,
            },
            model: file.model.get_ref().clone(),
            timeout: self.ms("encoder.timeout_ms", &file.timeout_ms)?,
            line: self.line(&file.url),
        })))
    }
}
