//! The container of our files: safetensors, with one metadata entry `cr2fast` under a hash.
//!
//! In: a JSON body and tensors. Out: bytes, the same for the same content. The metadata entry is
//! `{"sha256": …, "body": "<JSON text>"}`; the hash covers the body and every tensor (name, type,
//! shape, bytes), so a changed bit anywhere is found. Every byte read is hostile: sizes are bounded
//! here, and what tensors mean is checked by their readers.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::error::{Error, Result};
use crate::base::hash::hex;
use crate::file::precision::Precision;

const KEY: &str = "cr2fast";

#[derive(Serialize, Deserialize)]
struct Envelope {
    sha256: String,
    body: String,
}

/// A tensor on its way to a file.
pub(crate) struct Tensor {
    pub name: &'static str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn f32s(name: &'static str, shape: &[usize], xs: &[f32]) -> Self {
        Self::numbers(name, shape, xs, Precision::Float32)
    }

    /// Numbers of a type, which loses nothing where they are that type's.
    pub fn numbers(name: &'static str, shape: &[usize], xs: &[f32], of: Precision) -> Self {
        Self { name, dtype: of.dtype(), shape: shape.to_vec(), bytes: of.to_bytes(xs) }
    }

    pub fn f64s(name: &'static str, shape: &[usize], xs: &[f64]) -> Self {
        let bytes = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { name, dtype: Dtype::F64, shape: shape.to_vec(), bytes }
    }

    pub fn u64s(name: &'static str, xs: &[u64]) -> Self {
        let bytes = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { name, dtype: Dtype::U64, shape: vec![xs.len()], bytes }
    }
}

/// Hash of a body and tensors given in ascending order of name.
fn digest<'a>(
    body: &str,
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>,
) -> String {
    let mut hash = Sha256::new();
    hash.update((body.len() as u64).to_le_bytes());
    hash.update(body);
    for (name, dtype, shape, bytes) in tensors {
        hash.update(format!("{name} {dtype:?} {shape:?} {}\n", bytes.len()));
        hash.update(bytes);
    }
    hex(&hash.finalize())
}

/// Serialise; the order of `tensors` does not matter.
pub(crate) fn to_bytes(body: String, mut tensors: Vec<Tensor>) -> Result<Vec<u8>> {
    tensors.sort_by_key(|t| t.name);
    let sha256 =
        digest(&body, tensors.iter().map(|t| (t.name, t.dtype, &t.shape[..], &t.bytes[..])));
    let envelope = serde_json::to_string(&Envelope { sha256, body })
        .map_err(|e| Error::artifact("metadata that serialises", e))?;
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|t| Ok((t.name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
        .collect::<std::result::Result<_, safetensors::SafeTensorError>>()
        .map_err(|e| Error::artifact("tensors that serialise", e))?;
    safetensors::serialize(views, Some(HashMap::from([(KEY.into(), envelope)])))
        .map_err(|e| Error::artifact("tensors that serialise", e))
}

/// A file read: its tensors, its body and the hash over both, which was checked.
pub(crate) struct Container<'a> {
    tensors: SafeTensors<'a>,
    pub body: serde_json::Value,
    pub sha256: String,
}

impl<'a> Container<'a> {
    /// Parse a file of one format, `kind/version`.
    pub fn read(bytes: &'a [u8], format: &'static str) -> Result<Self> {
        Self::read_either(bytes, format, format)
    }

    /// Parse a file of one format or its predecessor.
    pub fn read_either(
        bytes: &'a [u8],
        format: &'static str,
        before: &'static str,
    ) -> Result<Self> {
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|e| Error::artifact("a whole safetensors file", e))?;
        let (_, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|e| Error::artifact("a safetensors header", e))?;
        let kind = format.split('/').next().unwrap_or(format);
        let envelope = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| {
            let kind = kind.replace(['.', '_'], " ");
            Error::artifact(format!("metadata of a {kind}"), "a safetensors file without it")
        })?;
        let Envelope { sha256, body } =
            serde_json::from_str(envelope).map_err(|e| Error::artifact("metadata in JSON", e))?;
        // The version comes first: a newer format may hash differently.
        let loose: serde_json::Value =
            serde_json::from_str(&body).map_err(|e| Error::artifact("metadata in JSON", e))?;
        match loose.get("format").and_then(|f| f.as_str()) {
            Some(found) if found == format || found == before => {}
            Some(other) if other.split('/').next() == Some(kind) => {
                return Err(Error::Version { expected: format, got: other.into() });
            }
            Some(other) => return Err(Error::artifact(format!("format {format}"), other)),
            None => return Err(Error::artifact("a format version", "none")),
        }
        let mut views = tensors.tensors();
        views.sort_by(|a, b| a.0.cmp(&b.0));
        let found =
            digest(&body, views.iter().map(|(n, v)| (n.as_str(), v.dtype(), v.shape(), v.data())));
        // A fuzzer would never get past a hash.
        if found != sha256 && !cfg!(fuzzing) {
            return Err(Error::artifact(
                format!("content with sha256 {sha256}"),
                format!("{found}: the file is damaged or was edited"),
            ));
        }
        Ok(Self { tensors, body: loose, sha256 })
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.names().contains(&name)
    }

    /// Shape and bytes of a tensor of one type.
    pub fn raw(&self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, &[u8])> {
        let view = self
            .tensors
            .tensor(name)
            .map_err(|_| Error::artifact(format!("a tensor {name}"), "none of that name"))?;
        if view.dtype() != dtype {
            return Err(Error::artifact(
                format!("{name} of type {dtype:?}"),
                format!("{:?}", view.dtype()),
            ));
        }
        Ok((view.shape().to_vec(), view.data()))
    }

    pub fn f32s(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        self.numbers(name, Precision::Float32)
    }

    pub fn numbers(&self, name: &str, of: Precision) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, bytes) = self.raw(name, of.dtype())?;
        Ok((shape, of.read(bytes)))
    }

    pub fn f64s(&self, name: &str) -> Result<(Vec<usize>, Vec<f64>)> {
        let (shape, bytes) = self.raw(name, Dtype::F64)?;
        Ok((shape, bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()))
    }
}
