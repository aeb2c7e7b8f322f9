//! Networks as tensors of a file.
//!
//! In: networks. Out: tensors, and the networks again; shapes are checked against each other there.

use crate::base::error::{Error, Result};
use crate::file::container::{Container, Tensor};
use crate::file::precision::Precision;
use crate::networks::gate::{Gate, GateWeights, PSI};
use crate::networks::length::{LengthPredictor, LengthWeights, SCALARS};
use crate::networks::link::{LINK, LinkScale, LinkWeights};
use crate::networks::smoother::SmootherWeights;
use crate::networks::teacher::{Teacher, TeacherWeights};

/// Tensors of a gate, its matrices of a precision that loses nothing of them.
pub(crate) fn gate_tensors(gate: &Gate, precision: Precision) -> Vec<Tensor> {
    let g = gate.weights();
    let (d, h) = (g.d, g.hidden);
    let mut out = vec![
        Tensor::f32s("gate.ln.weight", &[d], &g.ln_weight),
        Tensor::f32s("gate.ln.bias", &[d], &g.ln_bias),
        Tensor::numbers("gate.w1", &[h, d], &g.w1, precision),
        Tensor::f32s("gate.b1", &[h], &g.b1),
        Tensor::numbers("gate.film.weight", &[2 * h, PSI], &g.film_weight, precision),
        Tensor::f32s("gate.film.bias", &[2 * h], &g.film_bias),
        Tensor::f32s("gate.w2", &[h], &g.w2),
        Tensor::f32s("gate.b2", &[1], &[g.b2]),
        Tensor::f32s("gate.eta_t", &[1], &[g.eta_t]),
    ];
    if let Some(link) = &g.link {
        out.push(Tensor::f32s("gate.link.shift", &[LINK], &link.scale.shift));
        out.push(Tensor::f32s("gate.link.scale", &[LINK], &link.scale.scale));
        out.push(Tensor::f32s("gate.link.w", &[LINK, h], &link.w));
    }
    out
}

/// Tensors of the heads.
pub(crate) fn teacher_tensors(teacher: &Teacher, precision: Precision) -> Vec<Tensor> {
    let t = teacher.weights();
    let (m, d, h) = (t.models, t.d, t.hidden);
    let mut out = vec![
        Tensor::f32s("teacher.ln.weight", &[m, d], &t.ln_weight),
        Tensor::f32s("teacher.ln.bias", &[m, d], &t.ln_bias),
        Tensor::numbers("teacher.w1", &[m, h, d], &t.w1, precision),
        Tensor::f32s("teacher.b1", &[m, h], &t.b1),
        Tensor::f32s("teacher.w2", &[m, h], &t.w2),
        Tensor::f32s("teacher.b2", &[m], &t.b2),
    ];
    if let Some(s) = teacher.smoother() {
        let n = s.count();
        out.push(Tensor::numbers("smoother.centres", &[n, d], &s.centres, Precision::Bfloat16));
        out.push(Tensor::f32s("smoother.coefficients", &[m, n], &s.coefficients));
        out.push(Tensor::f32s("smoother.mean", &[m], &s.mean));
        out.push(Tensor::f32s("smoother.scalars", &[2], &[s.scale, s.share]));
    }
    out
}

/// Tensors of the length heads.
pub(crate) fn length_tensors(length: &LengthPredictor, precision: Precision) -> Vec<Tensor> {
    let l = length.weights();
    vec![
        Tensor::numbers("length.weight", &[l.models, l.d], &l.weight, precision),
        Tensor::f64s("length.scalars", &[l.models, SCALARS], &l.scalars),
    ]
}

/// A file, and the precision of its matrices.
pub(crate) struct Networks<'a> {
    file: &'a Container<'a>,
    precision: Precision,
}

impl<'a> Networks<'a> {
    /// Read from a file.
    pub fn new(file: &'a Container<'a>, precision: Precision) -> Self {
        Self { file, precision }
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

    /// The gate.
    pub fn gate(&self) -> Result<Gate> {
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
            link: self.link()?,
        })
    }

    /// What the gate makes of the link; most gates do not look.
    fn link(&self) -> Result<Option<LinkWeights>> {
        if !self.file.has("gate.link.w") {
            return Ok(None);
        }
        let three = |name: &str| -> Result<[f32; LINK]> {
            let xs = self.file.f32s(name)?.1;
            let got = xs.len();
            let expected = || format!("{name} of {LINK} values");
            xs.try_into().map_err(|_| Error::artifact(expected(), got))
        };
        let scale =
            LinkScale { shift: three("gate.link.shift")?, scale: three("gate.link.scale")? };
        Ok(Some(LinkWeights { scale, w: self.file.f32s("gate.link.w")?.1 }))
    }

    /// The heads.
    pub fn teacher(&self) -> Result<Teacher> {
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
        })?
        .with_smoother(self.smoother()?)
    }

    /// The smoother beside the heads; files of earlier versions have none.
    fn smoother(&self) -> Result<Option<SmootherWeights>> {
        if !self.file.has("smoother.centres") {
            return Ok(None);
        }
        let (shape, centres) = self.file.numbers("smoother.centres", Precision::Bfloat16)?;
        let [_, d] = shape[..] else {
            return Err(Error::artifact(
                "smoother.centres of 2 dimensions",
                format!("shape {shape:?}"),
            ));
        };
        let mean = self.file.f32s("smoother.mean")?.1;
        let [scale, share] = self.file.f32s("smoother.scalars")?.1[..] else {
            return Err(Error::artifact("smoother.scalars of two values", "another number"));
        };
        Ok(Some(SmootherWeights {
            models: mean.len(),
            d,
            centres,
            coefficients: self.file.f32s("smoother.coefficients")?.1,
            mean,
            scale,
            share,
        }))
    }

    /// The length heads.
    pub fn length(&self) -> Result<LengthPredictor> {
        let ([models, d], weight) = self.shape("length.weight")?;
        let scalars = self.file.f64s("length.scalars")?.1;
        LengthPredictor::new(LengthWeights { models, d, weight, scalars })
    }
}
