//! `router.safetensors`: one file, no code in it.
//!
//! In: a [`Router`]. Out: bytes, the same for the same router: tensors and one JSON document in a
//! `container`. Every byte read is hostile: shapes are checked against each other, weights
//! must be finite.

use std::path::Path;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result};
use crate::base::ids::Seen;
use crate::calibration::grid::Calibration;
use crate::calibration::groups::Groups;
use crate::calibration::typicality::Typicality;
use crate::encoder::identity::EncoderInfo;
use crate::encoder::probes::Probes;
use crate::features::inputs::{Features, Header};
use crate::file::container::{self, Container, Tensor};
use crate::file::disk;
use crate::file::precision::Precision;
use crate::networks::file::{self as networks, Networks};
use crate::networks::gate::Gate;
use crate::networks::teacher::Teacher;
use crate::pricing::cost::CostTable;
use crate::router::{Parts, Router};

/// The format of routers that look at embeddings only, as all did once.
const FORMAT: &str = "cr2fast.router/1";
/// That of routers with features, a smoother or a gate that sees the link: what reads only the first would
/// leave them out.
const FORMAT_MORE: &str = "cr2fast.router/2";

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
    /// What networks read beside the embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    features: Option<Header>,
    /// How the encoder is known where no hash names it; what reads only earlier files ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probes: Option<ProbesHeader>,
}

#[derive(Serialize, Deserialize)]
struct ProbesHeader {
    texts: Vec<String>,
    max_chars: usize,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    groups: Option<GroupsHeader>,
}

#[derive(Serialize, Deserialize)]
struct GroupsHeader {
    names: Vec<String>,
    n: Vec<usize>,
    /// Whether unknown groups take the threshold of all rather than defer.
    pooled: bool,
}

fn tensors(r: &Router) -> Vec<Tensor> {
    let mut out = networks::gate_tensors(&r.gate, r.precision);
    out.extend(networks::teacher_tensors(&r.teacher, r.precision));
    out.extend(networks::length_tensors(&r.length, r.precision));
    out.push(Tensor::u64s("ids.train", r.trained_on.ids()));
    if !r.trained_on.content().is_empty() {
        out.push(Tensor::u64s("content.train", r.trained_on.content()));
    }
    if let Some(typicality) = &r.typicality {
        out.extend(typicality.tensors());
    }
    if let Some(features) = &r.features {
        out.extend(features.tensors());
    }
    if let Some(probes) = &r.probes {
        let shape = [probes.texts().len(), probes.dim()];
        out.push(Tensor::f32s("probes", &shape, probes.vectors()));
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
        if let Some(g) = &c.groups {
            let shape = [g.names.len(), c.lams.len(), c.alphas.len()];
            out.push(Tensor::f32s("calibration.groups", &shape, &g.thresholds));
        }
        out.push(Tensor::u64s("ids.calibration", c.queries.ids()));
        if !c.queries.content().is_empty() {
            out.push(Tensor::u64s("content.calibration", c.queries.content()));
        }
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

/// Whether a router is more than its first format holds.
fn is_more(features: bool, teacher: &Teacher, gate: &Gate) -> bool {
    features || teacher.smoother().is_some() || gate.weights().link.is_some()
}

/// Serialise; the same router gives the same bytes.
fn to_bytes(r: &Router) -> Result<Vec<u8>> {
    let more = is_more(r.features.is_some(), &r.teacher, &r.gate);
    let body = serde_json::to_string(&Body {
        format: if more { FORMAT_MORE } else { FORMAT }.into(),
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
            groups: c.groups.as_ref().map(|g| GroupsHeader {
                names: g.names.clone(),
                n: g.counts.clone(),
                pooled: g.pooled,
            }),
        }),
        precision: r.precision,
        features: r.features.as_ref().map(|f| f.header()),
        probes: r
            .probes
            .as_ref()
            .map(|p| ProbesHeader { texts: p.texts().to_vec(), max_chars: p.max_chars() }),
    })
    .map_err(|e| Error::artifact("metadata that serialises", e))?;
    container::to_bytes(body, tensors(r))
}

/// What of a router is not of its networks.
struct Reader<'a>(&'a Container<'a>);

impl Reader<'_> {
    /// The queries of a split.
    fn seen(&self, split: &str) -> Result<Seen> {
        let keys = |name: &str| -> Result<Vec<u64>> {
            let (_, bytes) = self.0.raw(name, Dtype::U64)?;
            Ok(bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect())
        };
        let content = format!("content.{split}");
        // Files of before content was kept have none.
        let content = if self.0.has(&content) { keys(&content)? } else { Vec::new() };
        Ok(Seen::from_keys(keys(&format!("ids.{split}"))?, content))
    }

    fn calibration(&self, header: CalibrationHeader) -> Result<Calibration> {
        // Files of before quantiles, or length factors, were kept have none.
        let kept = self.0.has("calibration.quantiles");
        let factors = self.0.has("calibration.length_factors");
        let typical = self.0.has("calibration.typicality");
        let groups = header.groups.map(|g| {
            let thresholds = self.0.f32s("calibration.groups")?.1;
            Ok(Groups { names: g.names, counts: g.n, thresholds, pooled: g.pooled })
        });
        Ok(Calibration {
            lams: self.0.f64s("calibration.lams")?.1,
            alphas: self.0.f64s("calibration.alphas")?.1,
            thresholds: self.0.f32s("calibration.thresholds")?.1,
            n: header.n,
            judge: header.judge,
            lengths: header.lengths,
            delta: header.delta,
            quantiles: if kept { self.0.f32s("calibration.quantiles")?.1 } else { Vec::new() },
            length_factors: if factors {
                self.0.f64s("calibration.length_factors")?.1
            } else {
                Vec::new()
            },
            typicality: if typical { self.0.f32s("calibration.typicality")?.1 } else { vec![] },
            defer_atypical: header.defer_atypical,
            groups: groups.transpose()?,
            queries: self.seen("calibration")?,
        })
    }
}

fn from_bytes(bytes: &[u8]) -> Result<Router> {
    let container = Container::read_either(bytes, FORMAT_MORE, FORMAT)?;
    let body: Body = Body::deserialize(&container.body)
        .map_err(|e| Error::artifact("the fields of the format", e))?;
    let (reader, nets) = (Reader(&container), Networks::new(&container, body.precision));
    let costs = CostTable::stored(&body.cost_table)?;
    if costs.table().hash() != body.cost_table_sha256 {
        return Err(Error::artifact(
            format!("a cost table with sha256 {}", body.cost_table_sha256),
            costs.table().hash(),
        ));
    }
    let (gate, teacher) = (nets.gate()?, nets.teacher()?);
    if is_more(body.features.is_some(), &teacher, &gate) != (body.format == FORMAT_MORE) {
        return Err(Error::artifact(
            "features, smoother and link in a file of their format",
            body.format,
        ));
    }
    if body.features.is_none() && container.has("features.shift") {
        return Err(Error::artifact("the features' description beside their scale", "none"));
    }
    let dim = gate.weights().d;
    let features = body.features.map(|h| Features::read(&container, h, dim)).transpose()?;
    let router = Router::new(Parts {
        encoder: EncoderInfo { id: body.encoder_id, sha256: body.encoder_sha256 },
        features,
        gate,
        teacher,
        length: nets.length()?,
        costs,
        training: body.training,
        trained_on: reader.seen("train")?,
        precision: body.precision,
        typicality: Typicality::read(&container)?,
    })?;
    router.check_models("artifact", &body.models)?;
    let router = match body.probes {
        None => router,
        Some(header) => {
            let vectors = container.f32s("probes")?.1;
            router.with_probes(Probes::new(header.texts, vectors, header.max_chars)?)?
        }
    };
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
