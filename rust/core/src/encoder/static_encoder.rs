//! A static encoder: text in, embedding out, by table look-up alone.
//!
//! In: a text. Out: a unit vector e (d,): e = Σ_t s_t·q_t / ‖Σ_t s_t·q_t‖ over the text's tokens t,
//! `[CLS]` and `[SEP]` included, so that the empty text has a vector too. q_t (d,) is a row of
//! bytes and s_t its scale, with the token's weight in it; the mean's 1/n cancels. A text of more
//! than `max_tokens` keeps both ends, or its head, as the encoder it was distilled from.
//!
//! Sums run over tokens in their order, one fused multiply-add each: the same bits everywhere. The
//! file is a `container` of format `cr2fast.static_encoder/1`; the vocabulary is in it.

use std::path::Path;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use crate::base::checks::{check_finite, check_len, filled};
use crate::base::error::{Error, Result};
use crate::base::limits::MAX_WIDTH;
use crate::base::threads;
use crate::encoder::identity::EncoderInfo;
use crate::encoder::wordpiece::WordPiece;
use crate::file::container::{self, Container, Tensor};
use crate::file::disk;
use crate::simd::isa::Simd;
use crate::simd::lanes::LANES;

/// The format this build writes and reads.
pub const FORMAT: &str = "cr2fast.static_encoder/1";
/// The one tokenizer so far.
const TOKENIZER: &str = "bert-wordpiece-uncased";
/// Largest scale: sums of `max_tokens` rows and their squares stay finite.
const MAX_SCALE: f32 = 1e6;

/// What the file says beside its tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// A name for people.
    pub id: String,
    /// Name of the encoder it was distilled from.
    pub source_id: String,
    /// Its fingerprint.
    pub source_sha256: String,
    /// Tokens kept of a text, special ones included.
    pub max_tokens: usize,
    /// "head-tail" or "head".
    pub truncation: String,
    /// How it was made, JSON.
    pub record: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    format: String,
    tokenizer: String,
    #[serde(flatten)]
    settings: Settings,
}

/// A static encoder, ready to run. Immutable; share it between threads.
#[derive(Clone, Debug)]
pub struct StaticEncoder {
    settings: Settings,
    info: EncoderInfo,
    vocabulary: String,
    tokenizer: WordPiece,
    scales: Vec<f32>,
    /// Rows of `stride` bytes, d of them used.
    table: Vec<i8>,
    d: usize,
    stride: usize,
    simd: Simd,
}

impl StaticEncoder {
    /// From token vectors (V, d), weights in them; each row is rounded to bytes with its own scale.
    /// The overall scale does not matter.
    pub fn new(settings: Settings, vocabulary: String, vectors: &[f32], d: usize) -> Result<Self> {
        check_finite("vectors", vectors)?;
        let largest = |row: &[f32]| row.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let whole = largest(vectors);
        if d == 0 || whole == 0.0 {
            return Err(Error::argument("vectors", "rows with some value in them", "none"));
        }
        let scales: Vec<f32> = vectors.chunks(d).map(|row| largest(row) / whole / 127.0).collect();
        let bytes = vectors.chunks(d).zip(&scales).flat_map(|(row, scale)| {
            let step = if *scale > 0.0 { scale * whole } else { 1.0 };
            row.iter().map(move |x| (x / step).round_ties_even().clamp(-127.0, 127.0) as i8 as u8)
        });
        let bytes = to_bytes(&settings, &vocabulary, bytes.collect(), &scales, d)?;
        Self::from_bytes(&bytes)
    }

    /// Parse and check.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let file = Container::read(bytes, FORMAT)?;
        let Body { tokenizer: kind, settings, .. } = Body::deserialize(&file.body)
            .map_err(|e| Error::artifact("the fields of the format", e))?;
        if kind != TOKENIZER {
            return Err(Error::artifact(format!("the tokenizer {TOKENIZER}"), kind));
        }
        check_settings(&settings)?;
        let (_, vocabulary) = file.raw("vocabulary", Dtype::U8)?;
        let vocabulary = String::from_utf8(vocabulary.to_vec())
            .map_err(|e| Error::artifact("a vocabulary in UTF-8", e))?;
        let tokenizer = WordPiece::new(&vocabulary)?;
        let (shape, rows) = file.raw("vectors", Dtype::I8)?;
        let [tokens, d] = shape[..] else {
            return Err(Error::artifact("vectors of 2 dimensions", format!("shape {shape:?}")));
        };
        if !(1..=MAX_WIDTH).contains(&d) {
            return Err(Error::artifact(format!("a width of 1 to {MAX_WIDTH}"), d));
        }
        check_len("vectors (a row a token)", tokenizer.len(), tokens)?;
        let scales = file.f32s("scales")?.1;
        check_len("scales", tokens, scales.len())?;
        if let Some(bad) = scales.iter().find(|s| !(0.0..=MAX_SCALE).contains(*s)) {
            return Err(Error::artifact(format!("scales of 0 to {MAX_SCALE}"), bad));
        }
        let stride = d.next_multiple_of(LANES);
        let mut table = filled("vectors", tokens, stride, 0_i8)?;
        for (to, from) in table.chunks_exact_mut(stride).zip(rows.chunks_exact(d)) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from.cast_signed();
            }
        }
        let info = EncoderInfo { id: settings.id.clone(), sha256: file.sha256.clone() };
        let simd = Simd::best()?;
        Ok(Self { settings, info, vocabulary, tokenizer, scales, table, d, stride, simd })
    }

    /// Serialise; the same encoder gives the same bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let rows = self.table.chunks_exact(self.stride);
        let bytes = rows.flat_map(|row| row[..self.d].iter().map(|q| q.cast_unsigned())).collect();
        to_bytes(&self.settings, &self.vocabulary, bytes, &self.scales, self.d)
    }

    /// Read a file.
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_bytes(&disk::load(path)?)
    }

    /// Write a file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        disk::write(&self.to_bytes()?, path)
    }

    /// The same on a chosen instruction set.
    #[must_use]
    pub fn with_simd(self, simd: Simd) -> Self {
        Self { simd, ..self }
    }

    /// Name and fingerprint: the hash over everything in the file.
    pub fn info(&self) -> &EncoderInfo {
        &self.info
    }

    /// What the file says of itself.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Embedding width d.
    pub fn dim(&self) -> usize {
        self.d
    }

    /// Tokens that a whole text counts for, special ones left out: more than are summed where it is long, or
    /// where the vocabulary cannot read it ([`Reading`](crate::Reading)).
    pub fn count_tokens(&self, text: &str) -> usize {
        self.tokenizer.encode_counted(text).1
    }

    /// Ids of the tokens that are summed.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.kept(&self.tokenizer.encode_ends(text))
    }

    /// Of a text's ids, those that are summed, special ones included.
    fn kept(&self, ids: &[u32]) -> Vec<u32> {
        let inner = self.settings.max_tokens - 2;
        let (head, tail) = if ids.len() <= inner {
            (ids.len(), 0)
        } else if self.settings.truncation == "head" {
            (inner, 0)
        } else {
            (inner / 2, inner - inner / 2)
        };
        let mut kept = Vec::with_capacity(head + tail + 2);
        kept.push(self.tokenizer.cls());
        kept.extend_from_slice(&ids[..head]);
        kept.extend_from_slice(&ids[ids.len() - tail..]);
        kept.push(self.tokenizer.sep());
        kept
    }

    fn embed(&self, text: &str, padded: &mut [f32]) -> Result<()> {
        self.pool(&self.tokens(text), padded)
    }

    fn pool(&self, tokens: &[u32], padded: &mut [f32]) -> Result<()> {
        padded.fill(0.0);
        let norm2 = self.simd.pool(&self.table, &self.scales, tokens, padded);
        if norm2 > 0.0 && norm2.is_finite() {
            return Ok(());
        }
        Err(Error::argument("static encoder", "a vector of finite length", format!("{norm2:e}²")))
    }

    /// Embedding (d,) of a text.
    pub fn encode(&self, text: &str) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.stride];
        self.embed(text, &mut out)?;
        out.truncate(self.d);
        Ok(out)
    }

    /// Embedding (d,) of a text, and its tokens as [`Self::count_tokens`] has them: the text is
    /// tokenized once where the embedding reads all of it.
    pub fn encode_counted(&self, text: &str) -> Result<(Vec<f32>, usize)> {
        if WordPiece::reads_ends(text) {
            return Ok((self.encode(text)?, self.count_tokens(text)));
        }
        let (ids, tokens) = self.tokenizer.encode_counted(text);
        let mut out = vec![0.0; self.stride];
        self.pool(&self.kept(&ids), &mut out)?;
        out.truncate(self.d);
        Ok((out, tokens))
    }

    /// Embeddings (N, d) of texts, each the same bits as alone.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        threads: usize,
    ) -> Result<Vec<f32>> {
        let mut out = filled("embeddings", texts.len(), self.d, 0.0)?;
        let failed = std::sync::Mutex::new(None);
        threads::rows(threads, &mut out, self.d, |first, part| {
            let mut padded = vec![0.0; self.stride];
            for (row, text) in part.chunks_exact_mut(self.d).zip(&texts[first..]) {
                if let Err(e) = self.embed(text.as_ref(), &mut padded) {
                    *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(e);
                    return;
                }
                row.copy_from_slice(&padded[..self.d]);
            }
        });
        match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(out),
        }
    }
}

fn check_settings(settings: &Settings) -> Result<()> {
    if !(4..=512).contains(&settings.max_tokens) {
        return Err(Error::artifact("max_tokens of 4 to 512", settings.max_tokens));
    }
    if !["head-tail", "head"].contains(&settings.truncation.as_str()) {
        return Err(Error::artifact("truncation 'head-tail' or 'head'", &settings.truncation));
    }
    Ok(())
}

fn to_bytes(
    settings: &Settings,
    vocabulary: &str,
    rows: Vec<u8>,
    scales: &[f32],
    d: usize,
) -> Result<Vec<u8>> {
    let body =
        Body { format: FORMAT.into(), tokenizer: TOKENIZER.into(), settings: settings.clone() };
    let body =
        serde_json::to_string(&body).map_err(|e| Error::artifact("metadata that serialises", e))?;
    let (v, text) = (scales.len(), vocabulary.as_bytes());
    let tensors = vec![
        Tensor { name: "vectors", dtype: Dtype::I8, shape: vec![v, d], bytes: rows },
        Tensor::f32s("scales", &[v], scales),
        Tensor {
            name: "vocabulary",
            dtype: Dtype::U8,
            shape: vec![text.len()],
            bytes: text.to_vec(),
        },
    ];
    container::to_bytes(body, tensors)
}
