//! The two deciders as bytes, to go from one process to another: what each runs, and no more.
//!
//! In: a [`DeviceRouter`] or an [`EdgeSelector`]. Out: bytes in a [`container`], and from them the
//! same decider, bit for bit. Every byte read is hostile, as a router file's is.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::checks::{check_alpha, check_finite_f64, check_lam, check_len};
use crate::base::error::{Error, Result};
use crate::calibration::groups::check_names;
use crate::calibration::typicality::{Typicality, check_kept};
use crate::decide::device::{DeviceRouter, GroupThresholds, Typical};
use crate::decide::edge::EdgeSelector;
use crate::decide::rule::Rule;
use crate::decide::two_stage::TwoStage;
use crate::encoder::identity::EncoderInfo;
use crate::features::inputs::{Features, Header};
use crate::file::container::{self, Container, Tensor};
use crate::file::precision::Precision;
use crate::networks::file::{Networks, gate_tensors, length_tensors, teacher_tensors};
use crate::pricing::cost::CostTable;

const DEVICE: &str = "cr2fast.device/1";
const EDGE: &str = "cr2fast.edge/1";
/// Loses nothing, whatever the router's precision.
const PRECISION: Precision = Precision::Float32;

#[derive(Serialize, Deserialize)]
struct DeviceBody {
    format: String,
    encoder_id: String,
    encoder_sha256: String,
    lam: f64,
    alpha: f64,
    /// Calibration samples behind the scores kept.
    n: Option<usize>,
    defer_atypical: Option<f64>,
    /// Names of the groups, and whether unknown ones take the threshold of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    groups: Option<(Vec<String>, bool)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    features: Option<Header>,
}

#[derive(Serialize, Deserialize)]
struct EdgeBody {
    format: String,
    encoder_id: String,
    encoder_sha256: String,
    cost_table: String,
    lam: f64,
    rule: String,
    fallback: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    features: Option<Header>,
}

fn bytes(body: &impl Serialize, tensors: Vec<Tensor>) -> Result<Vec<u8>> {
    let body =
        serde_json::to_string(body).map_err(|e| Error::artifact("metadata that serialises", e))?;
    container::to_bytes(body, tensors)
}

fn body<T: for<'a> Deserialize<'a>>(file: &Container) -> Result<T> {
    T::deserialize(&file.body).map_err(|e| Error::artifact("the fields of the format", e))
}

/// Features of a decider's bytes, for rows of a width.
fn read_features(
    file: &Container,
    header: Option<Header>,
    dim: usize,
) -> Result<Option<Arc<Features>>> {
    Ok(header.map(|h| Features::read(file, h, dim)).transpose()?.map(Arc::new))
}

impl DeviceRouter {
    /// Serialise; the same decider gives the same bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors = gate_tensors(&self.gate, PRECISION);
        tensors.extend(self.features.iter().flat_map(|f| f.tensors()));
        tensors.push(Tensor::f32s("threshold", &[1], &[self.threshold]));
        if let Some(t) = &self.typical {
            tensors.extend(t.score.tensors());
            tensors.push(Tensor::f32s("calibration.typicality", &[t.kept.len()], &t.kept));
        }
        if let Some(g) = &self.groups {
            tensors.push(Tensor::f32s("groups", &[g.thresholds.len()], &g.thresholds));
        }
        let body = DeviceBody {
            format: DEVICE.into(),
            encoder_id: self.encoder.id.clone(),
            encoder_sha256: self.encoder.sha256.clone(),
            lam: self.lam,
            alpha: self.alpha,
            n: self.typical.as_ref().map(|t| t.n),
            defer_atypical: self.defer_atypical,
            groups: self.groups.as_ref().map(|g| (g.names.to_vec(), g.pooled)),
            features: self.features.as_ref().map(|f| f.header()),
        };
        bytes(&body, tensors)
    }

    /// Parse and check the bytes of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let file = Container::read(bytes, DEVICE)?;
        let b: DeviceBody = body(&file)?;
        check_lam(b.lam)?;
        check_alpha(b.alpha)?;
        let gate = Arc::new(Networks::new(&file, PRECISION).gate()?);
        let features = read_features(&file, b.features, gate.weights().d)?;
        let threshold = match file.f32s("threshold")?.1[..] {
            [t] if !t.is_nan() => t,
            _ => return Err(Error::artifact("one threshold, a margin or infinite", "another")),
        };
        if let Some(level) = b.defer_atypical {
            check_alpha(level)?;
        }
        let typical = match (Typicality::read(&file)?, b.n) {
            (Some(score), Some(n)) => {
                check_len("typicality embedding width", gate.weights().d, score.dim())?;
                let kept = file.f32s("calibration.typicality")?.1;
                check_kept(&kept, n)?;
                Some(Typical { score: Arc::new(score), kept: kept.into(), n })
            }
            (None, None) if b.defer_atypical.is_none() => None,
            _ => return Err(Error::artifact("typicality whole or not at all", "a part of it")),
        };
        let groups = b.groups.map(|(names, pooled)| {
            check_names(&names)?;
            let thresholds = file.f32s("groups")?.1;
            check_len("thresholds per group", names.len(), thresholds.len())?;
            if thresholds.iter().any(|t| t.is_nan()) {
                return Err(Error::artifact("thresholds, margins or infinite", "NaN"));
            }
            Ok(GroupThresholds { names: names.into(), thresholds: thresholds.into(), pooled })
        });
        Ok(Self {
            groups: groups.transpose()?,
            typical,
            defer_atypical: b.defer_atypical,
            film: gate.film(b.lam)?,
            temperature: gate.weights().temperature(),
            encoder: EncoderInfo { id: b.encoder_id, sha256: b.encoder_sha256 },
            features,
            gate,
            threshold,
            lam: b.lam,
            alpha: b.alpha,
        })
    }
}

impl EdgeSelector {
    /// Serialise; the same decider gives the same bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors = teacher_tensors(&self.teacher, PRECISION);
        tensors.extend(length_tensors(&self.length, PRECISION));
        tensors.extend(self.features.iter().flat_map(|f| f.tensors()));
        let factors = &self.length_factors;
        tensors.push(Tensor::f64s("length_factors", &[factors.len()], factors));
        let body = EdgeBody {
            format: EDGE.into(),
            encoder_id: self.encoder.id.clone(),
            encoder_sha256: self.encoder.sha256.clone(),
            cost_table: self.costs.table().to_json(),
            lam: self.lam,
            rule: self.rule.name().into(),
            fallback: self.rule.model().map(|k| self.models()[k].clone()),
            features: self.features.as_ref().map(|f| f.header()),
        };
        bytes(&body, tensors)
    }

    /// Parse and check the bytes of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let file = Container::read(bytes, EDGE)?;
        let b: EdgeBody = body(&file)?;
        check_lam(b.lam)?;
        let nets = Networks::new(&file, PRECISION);
        let (teacher, length) = (nets.teacher()?, nets.length()?);
        let costs = CostTable::stored(&b.cost_table)?;
        let length_factors = file.f64s("length_factors")?.1;
        let (m, models) = (teacher.weights().models, costs.models());
        check_len("cost table models", m, models.len())?;
        check_len("length predictor models", m, length.weights().models)?;
        check_len("length predictor width", teacher.weights().d, length.weights().d)?;
        check_finite_f64("length factors", &length_factors)?;
        if !length_factors.is_empty() {
            check_len("length factors", m, length_factors.len())?;
        }
        if costs.normalizers().is_none() {
            return Err(Error::argument("cost table", "normalizers set", "null"));
        }
        Ok(Self {
            encoder: EncoderInfo { id: b.encoder_id, sha256: b.encoder_sha256 },
            features: read_features(&file, b.features, teacher.weights().d)?,
            typical: costs.link().typical()?,
            length_factors,
            rule: Rule::named(&models, &b.rule, b.fallback.as_deref())?,
            teacher: Arc::new(teacher),
            length: Arc::new(length),
            costs: Arc::new(costs),
            lam: b.lam,
        })
    }
}

impl TwoStage {
    /// Both stages, where they are of one operating point.
    pub fn of(device: DeviceRouter, edge: EdgeSelector) -> Result<Self> {
        device.encoder.check(&edge.encoder)?;
        check_len("edge embedding width", device.dim(), edge.dim())?;
        if device.features != edge.features {
            return Err(Error::artifact("both stages with the same features", "others"));
        }
        if device.lam.to_bits() != edge.lam.to_bits() {
            return Err(Error::argument(
                "edge lam",
                format!("the device's, {}", device.lam),
                edge.lam,
            ));
        }
        Ok(Self { device, edge })
    }
}
