//! `router.safetensors`: one file, no code in it.
//!
//! In: a [`Router`]. Out: bytes, the same for the same router: tensors and one JSON document in a
//! `container`. Every byte read is hostile: shapes are checked against each other, weights
//! must be finite.

use std::path::Path;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result};
use crate::base::ids::IdSet;
use crate::calibration::grid::Calibration;
use crate::calibration::typicality::Typicality;
use crate::encoder::identity::EncoderInfo;
use crate::file::container::{self, Container, Tensor};
use crate::file::disk;
use crate::file::precision::Precision;
use crate::networks::gate::{Gate, GateWeights, PSI};
use crate::networks::length::{LengthPredictor, LengthWeights, SCALARS};
use crate::networks::teacher::{Teacher, TeacherWeights};
use crate::pricing::cost::CostTable;
use crate::router::{Parts, Router};

/// The format this build writes and reads.
const FORMAT: &str = "cr2fast.router/1";

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
    /// Precision of the matrices.
    #[serde(rename = "weights", default, skip_serializing_if = "Precision::is_default")]
    precision: Precision,
}

#[derive(Serialize, Deserialize)]
struct CalibrationHeader {
    n: usize,
    #[serde(rename = "reference")]
    judge: String,
    lengths: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    defer_atypical: Option<f64>,
}

fn tensors(r: &Router) -> Vec<Tensor> {
    let (g, t, l) = (r.gate.weights(), r.teacher.weights(), r.length.weights());
    let (d, h) = (g.d, g.hidden);
    let (m, th) = (t.models, t.hidden);
    let matrix = |name, shape: &[usize], xs: &[f32]| Tensor::numbers(name, shape, xs, r.precision);
    let mut out = vec![
        Tensor::f32s("gate.ln.weight", &[d], &g.ln_weight),
        Tensor::f32s("gate.ln.bias", &[d], &g.ln_bias),
        matrix("gate.w1", &[h, d], &g.w1),
        Tensor::f32s("gate.b1", &[h], &g.b1),
        matrix("gate.film.weight", &[2 * h, PSI], &g.film_weight),
        Tensor::f32s("gate.film.bias", &[2 * h], &g.film_bias),
        Tensor::f32s("gate.w2", &[h], &g.w2),
        Tensor::f32s("gate.b2", &[1], &[g.b2]),
        Tensor::f32s("gate.eta_t", &[1], &[g.eta_t]),
        Tensor::f32s("teacher.ln.weight", &[m, d], &t.ln_weight),
        Tensor::f32s("teacher.ln.bias", &[m, d], &t.ln_bias),
        matrix("teacher.w1", &[m, th, d], &t.w1),
        Tensor::f32s("teacher.b1", &[m, th], &t.b1),
        Tensor::f32s("teacher.w2", &[m, th], &t.w2),
        Tensor::f32s("teacher.b2", &[m], &t.b2),
        matrix("length.weight", &[m, d], &l.weight),
        Tensor::f64s("length.scalars", &[m, SCALARS], &l.scalars),
        Tensor::u64s("ids.train", r.train_ids.hashes()),
    ];
    if let Some(typicality) = &r.typicality {
        let (a, b) = (typicality.directions(), typicality.offsets());
        out.push(Tensor::f32s("typicality.directions", &[b.len(), d], a));
        out.push(Tensor::f32s("typicality.offsets", &[b.len()], b));
    }
    if let Some(c) = &r.calibration {
        if !c.typicality.is_empty() {
            out.push(Tensor::f32s("calibration.typicality", &[c.typicality.len()], &c.typicality));
        }
        out.push(Tensor::f64s("calibration.lams", &[c.lams.len()], &c.lams));
        out.push(Tensor::f64s("calibration.alphas", &[c.alphas.len()], &c.alphas));
        out.push(Tensor::f32s(
            "calibration.thresholds",
            &[c.lams.len(), c.alphas.len()],
            &c.thresholds,
        ));
        out.push(Tensor::u64s("ids.calibration", c.ids.hashes()));
        if !c.length_factors.is_empty() {
            let shape = [c.length_factors.len()];
            out.push(Tensor::f64s("calibration.length_factors", &shape, &c.length_factors));
        }
        if !c.quantiles.is_empty() {
            let shape = [c.lams.len(), c.quantiles.len() / c.lams.len()];
            out.push(Tensor::f32s("calibration.quantiles", &shape, &c.quantiles));
        }
    }
    out
}

/// Serialise; the same router gives the same bytes.
fn to_bytes(r: &Router) -> Result<Vec<u8>> {
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
            judge: c.judge.clone(),
            lengths: c.lengths.clone(),
            delta: c.delta,
            defer_atypical: c.defer_atypical,
        }),
        precision: r.precision,
    })
    .map_err(|e| Error::artifact("metadata that serialises", e))?;
    container::to_bytes(body, tensors(r))
}

/// A file, and the precision of its matrices.
struct Reader<'a> {
    file: Container<'a>,
    precision: Precision,
}

impl Reader<'_> {
    fn ids(&self, name: &str) -> Result<IdSet> {
        let (_, bytes) = self.file.raw(name, Dtype::U64)?;
        Ok(IdSet::from_hashes(bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect()))
    }

    fn scalar(&self, name: &str) -> Result<f32> {
        let (_, xs) = self.file.f32s(name)?;
        xs.first().copied().ok_or_else(|| Error::artifact(format!("one value in {name}"), "none"))
    }

    fn matrix(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        self.file.numbers(name, self.precision)
    }

    fn shape<const K: usize>(&self, name: &str) -> Result<([usize; K], Vec<f32>)> {
        let (shape, xs) = self.matrix(name)?;
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
            ln_weight: self.file.f32s("gate.ln.weight")?.1,
            ln_bias: self.file.f32s("gate.ln.bias")?.1,
            w1,
            b1: self.file.f32s("gate.b1")?.1,
            film_weight: self.matrix("gate.film.weight")?.1,
            film_bias: self.file.f32s("gate.film.bias")?.1,
            w2: self.file.f32s("gate.w2")?.1,
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
            ln_weight: self.file.f32s("teacher.ln.weight")?.1,
            ln_bias: self.file.f32s("teacher.ln.bias")?.1,
            w1,
            b1: self.file.f32s("teacher.b1")?.1,
            w2: self.file.f32s("teacher.w2")?.1,
            b2: self.file.f32s("teacher.b2")?.1,
        })
    }

    fn length(&self) -> Result<LengthPredictor> {
        let ([models, d], weight) = self.shape("length.weight")?;
        let scalars = self.file.f64s("length.scalars")?.1;
        LengthPredictor::new(LengthWeights { models, d, weight, scalars })
    }

    fn typicality(&self) -> Result<Option<Typicality>> {
        // Files of earlier versions have none.
        if !self.file.has("typicality.directions") && !self.file.has("typicality.offsets") {
            return Ok(None);
        }
        let (shape, directions) = self.file.f32s("typicality.directions")?;
        let offsets = self.file.f32s("typicality.offsets")?.1;
        let d = *shape.last().unwrap_or(&0);
        Typicality::new(d, directions, offsets).map(Some)
    }

    fn calibration(&self, header: CalibrationHeader) -> Result<Calibration> {
        // Files of before quantiles, or length factors, were kept have none.
        let kept = self.file.has("calibration.quantiles");
        let factors = self.file.has("calibration.length_factors");
        let typical = self.file.has("calibration.typicality");
        Ok(Calibration {
            lams: self.file.f64s("calibration.lams")?.1,
            alphas: self.file.f64s("calibration.alphas")?.1,
            thresholds: self.file.f32s("calibration.thresholds")?.1,
            n: header.n,
            judge: header.judge,
            lengths: header.lengths,
            delta: header.delta,
            quantiles: if kept { self.file.f32s("calibration.quantiles")?.1 } else { Vec::new() },
            length_factors: if factors {
                self.file.f64s("calibration.length_factors")?.1
            } else {
                Vec::new()
            },
            typicality: if typical { self.file.f32s("calibration.typicality")?.1 } else { vec![] },
            defer_atypical: header.defer_atypical,
            ids: self.ids("ids.calibration")?,
        })
    }
}

fn from_bytes(bytes: &[u8]) -> Result<Router> {
    let container = Container::read(bytes, FORMAT)?;
    let body: Body = Body::deserialize(&container.body)
        .map_err(|e| Error::artifact("the fields of the format", e))?;
    let reader = Reader { file: container, precision: body.precision };
    let costs = CostTable::stored(&body.cost_table)?;
    if costs.table().hash() != body.cost_table_sha256 {
        return Err(Error::artifact(
            format!("a cost table with sha256 {}", body.cost_table_sha256),
            costs.table().hash(),
        ));
    }
    let router = Router::new(Parts {
        encoder: EncoderInfo { id: body.encoder_id, sha256: body.encoder_sha256 },
        gate: reader.gate()?,
        teacher: reader.teacher()?,
        length: reader.length()?,
        costs,
        training: body.training,
        train_ids: reader.ids("ids.train")?,
        precision: reader.precision,
        typicality: reader.typicality()?,
    })?;
    router.check_models("artifact", &body.models)?;
    match body.calibration {
        None => Ok(router),
        Some(header) => router.with_calibration(reader.calibration(header)?),
    }
}

impl Router {
    /// Serialise; the same router gives the same bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        to_bytes(self)
    }

    /// Parse and check an artifact's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        from_bytes(bytes)
    }

    /// Read a file.
    pub fn load(path: &Path) -> Result<Self> {
        from_bytes(&disk::load(path)?)
    }

    /// Write a file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        disk::write(&to_bytes(self)?, path)
    }
}
