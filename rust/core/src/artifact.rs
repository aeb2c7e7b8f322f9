//! `router.safetensors`: one file, no code in it.
//!
//! In: a [`Router`]. Out: bytes, the same for the same router. Layout: the safetensors container,
//! its tensors, and one metadata entry `cr2fast` with a JSON document:
//! `{"sha256": …, "body": "<JSON text>"}`. The hash covers the body and every tensor (name, type,
//! shape, bytes), so a changed bit anywhere is found. Every byte read is hostile: sizes are bounded,
//! shapes are checked against each other, weights must be finite.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cost::CostTable;
use crate::error::{Error, Result};
use crate::gate::{Gate, GateWeights, PSI};
use crate::length::{LengthPredictor, LengthWeights, SCALARS};
use crate::router::{Calibration, Encoder, IdSet, Router};
use crate::table::hex;
use crate::teacher::{Teacher, TeacherWeights};

/// The format this build writes and reads.
pub const FORMAT: &str = "cr2fast.router/1";
/// Largest artifact read.
pub const MAX_BYTES: u64 = 1 << 30;
const KEY: &str = "cr2fast";

#[derive(Serialize, Deserialize)]
struct Envelope {
    sha256: String,
    body: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    format: String,
    models: Vec<String>,
    encoder_id: String,
    encoder_sha256: String,
    temperature: f64,
    cost_table: String,
    cost_table_sha256: String,
    training: String,
    calibration: Option<CalibrationHeader>,
}

#[derive(Serialize, Deserialize)]
struct CalibrationHeader {
    n: usize,
    reference: String,
    lengths: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<f64>,
}

struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn f32s(name: &'static str, shape: &[usize], xs: &[f32]) -> Tensor {
    let bytes = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor { name, dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

fn f64s(name: &'static str, shape: &[usize], xs: &[f64]) -> Tensor {
    let bytes = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor { name, dtype: Dtype::F64, shape: shape.to_vec(), bytes }
}

fn u64s(name: &'static str, xs: &[u64]) -> Tensor {
    let bytes = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
    Tensor { name, dtype: Dtype::U64, shape: vec![xs.len()], bytes }
}

fn tensors(r: &Router) -> Vec<Tensor> {
    let (g, t, l) = (r.gate.weights(), r.teacher.weights(), r.length.weights());
    let (d, h) = (g.d, g.hidden);
    let (m, th) = (t.models, t.hidden);
    let mut out = vec![
        f32s("gate.ln.weight", &[d], &g.ln_weight),
        f32s("gate.ln.bias", &[d], &g.ln_bias),
        f32s("gate.w1", &[h, d], &g.w1),
        f32s("gate.b1", &[h], &g.b1),
        f32s("gate.film.weight", &[2 * h, PSI], &g.film_weight),
        f32s("gate.film.bias", &[2 * h], &g.film_bias),
        f32s("gate.w2", &[h], &g.w2),
        f32s("gate.b2", &[1], &[g.b2]),
        f32s("gate.eta_t", &[1], &[g.eta_t]),
        f32s("teacher.ln.weight", &[m, d], &t.ln_weight),
        f32s("teacher.ln.bias", &[m, d], &t.ln_bias),
        f32s("teacher.w1", &[m, th, d], &t.w1),
        f32s("teacher.b1", &[m, th], &t.b1),
        f32s("teacher.w2", &[m, th], &t.w2),
        f32s("teacher.b2", &[m], &t.b2),
        f32s("length.weight", &[m, d], &l.weight),
        f64s("length.scalars", &[m, SCALARS], &l.scalars),
        u64s("ids.train", r.train_ids.hashes()),
    ];
    if let Some(c) = &r.calibration {
        out.push(f64s("calibration.lams", &[c.lams.len()], &c.lams));
        out.push(f64s("calibration.alphas", &[c.alphas.len()], &c.alphas));
        out.push(f32s("calibration.thresholds", &[c.lams.len(), c.alphas.len()], &c.thresholds));
        out.push(u64s("ids.calibration", c.ids.hashes()));
        if !c.quantiles.is_empty() {
            let shape = [c.lams.len(), c.quantiles.len() / c.lams.len()];
            out.push(f32s("calibration.quantiles", &shape, &c.quantiles));
        }
    }
    out.sort_by_key(|t| t.name);
    out
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

/// Serialise; the same router gives the same bytes.
pub fn to_bytes(r: &Router) -> Result<Vec<u8>> {
    r.check()?;
    let tensors = tensors(r);
    let body = serde_json::to_string(&Body {
        format: FORMAT.into(),
        models: r.models.clone(),
        encoder_id: r.encoder.id.clone(),
        encoder_sha256: r.encoder.sha256.clone(),
        temperature: r.gate.weights().temperature(),
        cost_table: r.costs.table().to_json(),
        cost_table_sha256: r.costs.table().hash(),
        training: r.training.clone(),
        calibration: r.calibration.as_ref().map(|c| CalibrationHeader {
            n: c.n,
            reference: c.reference.clone(),
            lengths: c.lengths.clone(),
            delta: c.delta,
        }),
    })
    .map_err(|e| Error::artifact("metadata that serialises", e))?;
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

struct Reader<'a>(SafeTensors<'a>);

impl Reader<'_> {
    fn raw(&self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, &[u8])> {
        let view = self
            .0
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

    fn f32s(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, bytes) = self.raw(name, Dtype::F32)?;
        Ok((shape, bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    fn f64s(&self, name: &str) -> Result<(Vec<usize>, Vec<f64>)> {
        let (shape, bytes) = self.raw(name, Dtype::F64)?;
        Ok((shape, bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()))
    }

    fn ids(&self, name: &str) -> Result<IdSet> {
        let (_, bytes) = self.raw(name, Dtype::U64)?;
        Ok(IdSet::from_hashes(bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect()))
    }

    fn scalar(&self, name: &str) -> Result<f32> {
        let (_, xs) = self.f32s(name)?;
        xs.first().copied().ok_or_else(|| Error::artifact(format!("one value in {name}"), "none"))
    }

    fn shape<const K: usize>(&self, name: &str) -> Result<([usize; K], Vec<f32>)> {
        let (shape, xs) = self.f32s(name)?;
        let got = format!("shape {shape:?}");
        let shape = shape
            .try_into()
            .map_err(|_| Error::artifact(format!("{name} of {K} dimensions"), got))?;
        Ok((shape, xs))
    }

    fn gate(&self) -> Result<Gate> {
        let ([hidden, d], w1) = self.shape("gate.w1")?;
        Gate::new(GateWeights {
            d,
            hidden,
            ln_weight: self.f32s("gate.ln.weight")?.1,
            ln_bias: self.f32s("gate.ln.bias")?.1,
            w1,
            b1: self.f32s("gate.b1")?.1,
            film_weight: self.f32s("gate.film.weight")?.1,
            film_bias: self.f32s("gate.film.bias")?.1,
            w2: self.f32s("gate.w2")?.1,
            b2: self.scalar("gate.b2")?,
            eta_t: self.scalar("gate.eta_t")?,
        })
    }

    fn teacher(&self) -> Result<Teacher> {
        let ([models, hidden, d], w1) = self.shape("teacher.w1")?;
        Teacher::new(TeacherWeights {
            models,
            d,
            hidden,
            ln_weight: self.f32s("teacher.ln.weight")?.1,
            ln_bias: self.f32s("teacher.ln.bias")?.1,
            w1,
            b1: self.f32s("teacher.b1")?.1,
            w2: self.f32s("teacher.w2")?.1,
            b2: self.f32s("teacher.b2")?.1,
        })
    }

    fn length(&self) -> Result<LengthPredictor> {
        let ([models, d], weight) = self.shape("length.weight")?;
        let scalars = self.f64s("length.scalars")?.1;
        LengthPredictor::new(LengthWeights { models, d, weight, scalars })
    }

    fn calibration(&self, header: CalibrationHeader) -> Result<Calibration> {
        // Files of before quantiles were kept have none.
        let kept = self.0.names().contains(&"calibration.quantiles");
        Ok(Calibration {
            lams: self.f64s("calibration.lams")?.1,
            alphas: self.f64s("calibration.alphas")?.1,
            thresholds: self.f32s("calibration.thresholds")?.1,
            n: header.n,
            reference: header.reference,
            lengths: header.lengths,
            delta: header.delta,
            quantiles: if kept { self.f32s("calibration.quantiles")?.1 } else { Vec::new() },
            ids: self.ids("ids.calibration")?,
        })
    }
}

/// The metadata body, after its format and hash were checked.
fn read_body(bytes: &[u8], container: &SafeTensors) -> Result<Body> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::artifact("a safetensors header", e))?;
    let envelope = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| {
        Error::artifact("metadata of a cr2fast router", "a safetensors file without it")
    })?;
    let Envelope { sha256, body } =
        serde_json::from_str(envelope).map_err(|e| Error::artifact("metadata in JSON", e))?;
    // The version comes first: a newer format may hash differently.
    let loose: serde_json::Value =
        serde_json::from_str(&body).map_err(|e| Error::artifact("metadata in JSON", e))?;
    match loose.get("format").and_then(|f| f.as_str()) {
        Some(FORMAT) => {}
        Some(other) => return Err(Error::Version { expected: FORMAT, got: other.into() }),
        None => return Err(Error::artifact("a format version", "none")),
    }
    let mut views = container.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    let found =
        digest(&body, views.iter().map(|(n, v)| (n.as_str(), v.dtype(), v.shape(), v.data())));
    if found != sha256 {
        return Err(Error::artifact(
            format!("content with sha256 {sha256}"),
            format!("{found}: the file is damaged or was edited"),
        ));
    }
    serde_json::from_value(loose).map_err(|e| Error::artifact("the fields of the format", e))
}

/// Parse and check.
pub fn from_bytes(bytes: &[u8]) -> Result<Router> {
    let container = SafeTensors::deserialize(bytes)
        .map_err(|e| Error::artifact("a whole safetensors file", e))?;
    let body = read_body(bytes, &container)?;
    let reader = Reader(container);
    let costs = CostTable::from_json(&body.cost_table)?;
    if costs.table().hash() != body.cost_table_sha256 {
        return Err(Error::artifact(
            format!("a cost table with sha256 {}", body.cost_table_sha256),
            costs.table().hash(),
        ));
    }
    let router = Router {
        models: body.models,
        encoder: Encoder { id: body.encoder_id, sha256: body.encoder_sha256 },
        gate: Arc::new(reader.gate()?),
        teacher: Arc::new(reader.teacher()?),
        length: Arc::new(reader.length()?),
        costs,
        training: body.training,
        train_ids: reader.ids("ids.train")?,
        calibration: body.calibration.map(|h| reader.calibration(h)).transpose()?,
    };
    router.check()?;
    Ok(router)
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io { path: path.clone(), source }
}

/// Refuse pipes, sockets and devices: reading one can wait for ever, replacing one breaks it.
fn check_regular(path: &Path, meta: &fs::Metadata) -> Result<()> {
    if meta.is_file() || meta.is_dir() {
        return Ok(());
    }
    Err(Error::argument("path", "a regular file", format!("{} (a special file)", path.display())))
}

/// Read a file.
pub fn load(path: &Path) -> Result<Router> {
    check_regular(path, &fs::metadata(path).map_err(io(path))?)?;
    let file = fs::File::open(path).map_err(io(path))?;
    let mut bytes = Vec::new();
    // A limit on the reader, not on the size the system reports: the file may grow meanwhile.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::artifact(format!("at most {MAX_BYTES} bytes"), "a larger file"));
    }
    from_bytes(&bytes)
}

/// Saves so far: two threads may save to one path, each through a temporary file of its own.
static SAVES: AtomicU64 = AtomicU64::new(0);

/// Write a file: to a temporary one beside it, synced, then renamed, so that a full disk or a crash
/// leaves the old file whole. A link is followed, and the old file's permissions stay.
pub fn save(r: &Router, path: &Path) -> Result<()> {
    let bytes = to_bytes(r)?;
    let old = fs::metadata(path).ok();
    if let Some(meta) = &old {
        check_regular(path, meta)?;
    }
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let name =
        path.file_name().ok_or_else(|| Error::argument("path", "a file name", path.display()))?;
    let mut temp_name = std::ffi::OsString::from(".");
    temp_name.push(name);
    // Unique in this process too: two threads may save to one path.
    let turn = SAVES.fetch_add(1, Ordering::Relaxed);
    temp_name.push(format!(".{}-{turn}.tmp", std::process::id()));
    let temp = path.with_file_name(temp_name);
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create_new(&temp)?;
        if let Some(meta) = &old {
            file.set_permissions(meta.permissions())?;
        }
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temp);
        io(path)(e)
    })
}
