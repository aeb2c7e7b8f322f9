//! From an embedding and its features to the row that the networks read.
//!
//! In: an embedding e (d,) and features f (F,). Out: [e/|e|, z], with z_j = (f_j − shift_j)·scale_j,
//! kept within three standard deviations. shift is the mean over the training split, and
//! scale_j = w/(√A·sd_j) with the weight w and the number A of features that vary there; one that does
//! not vary is 0 for every query. So w is about the length of z beside the embedding's 1.

use crate::base::checks::{check_finite, check_len, filled};
use crate::base::error::{Error, Result, listed};
use crate::base::limits::MAX_WIDTH;
use crate::features::text::{TEXT_FEATURES, TEXT_SET, text_features};
use crate::file::container::{Container, Tensor};

/// Standard deviations within which a feature is kept.
const BOUND: f32 = 3.0;
/// A standard deviation below this part of the mean's size is rounding: the feature does not vary.
const LEAST_SD: f64 = 1e-6;

/// Which features a router looks at, and how they are scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    d: usize,
    text: bool,
    columns: Vec<String>,
    weight: f32,
    shift: Vec<f32>,
    scale: Vec<f32>,
    bound: f32,
}

impl Features {
    /// Scale the features (N, F) of a training split: those of the text first, where `text` says that
    /// they are among them, then the caller's `columns`.
    pub fn fit(
        d: usize,
        text: bool,
        columns: Vec<String>,
        weight: f32,
        values: &[f32],
    ) -> Result<Self> {
        let count = columns.len() + if text { TEXT_FEATURES.len() } else { 0 };
        if count == 0 || !values.len().is_multiple_of(count) || values.is_empty() {
            let expected = format!("(N, {count}) values, N and the number of features positive");
            return Err(Error::argument("features", expected, values.len()));
        }
        check_finite("features", values)?;
        let n = (values.len() / count) as f64;
        let column = |j: usize| values.iter().skip(j).step_by(count).map(|v| f64::from(*v));
        let moments: Vec<(f64, f64)> = (0..count)
            .map(|j| {
                let mean = column(j).sum::<f64>() / n;
                (mean, (column(j).map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt())
            })
            .collect();
        let varies = |(mean, sd): &(f64, f64)| *sd > LEAST_SD * (1.0 + mean.abs());
        let active = moments.iter().filter(|m| varies(m)).count().max(1) as f64;
        let unit = f64::from(weight) / active.sqrt();
        let scale = moments.iter().map(|m| if varies(m) { (unit / m.1) as f32 } else { 0.0 });
        let (shift, scale) = (moments.iter().map(|m| m.0 as f32).collect(), scale.collect());
        Self::new((d, text, columns), weight, (shift, scale), BOUND * unit as f32)
    }

    fn new(
        (d, text, columns): (usize, bool, Vec<String>),
        weight: f32,
        (shift, scale): (Vec<f32>, Vec<f32>),
        bound: f32,
    ) -> Result<Self> {
        let made = Self { d, text, columns, weight, shift, scale, bound };
        let expected = made.columns.len() + if text { TEXT_FEATURES.len() } else { 0 };
        check_len("features.shift", expected, made.shift.len())?;
        check_len("features.scale", expected, made.scale.len())?;
        check_finite("features.shift", &made.shift)?;
        check_finite("features.scale", &made.scale)?;
        if d == 0 || expected == 0 || made.dim() > MAX_WIDTH {
            let expected = format!("1 to {MAX_WIDTH} with the features");
            return Err(Error::argument("embedding width", expected, made.dim()));
        }
        for (name, value) in [("features.weight", weight), ("features.bound", bound)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::argument(name, "a positive number", value));
            }
        }
        Ok(made)
    }

    /// Width of the embedding, d.
    pub fn embedding_dim(&self) -> usize {
        self.d
    }

    /// Number of features, F.
    pub fn count(&self) -> usize {
        self.shift.len()
    }

    /// Width of a row that the networks read, d + F.
    pub fn dim(&self) -> usize {
        self.d + self.count()
    }

    /// Whether features of the text are among them.
    pub fn of_text(&self) -> bool {
        self.text
    }

    /// The caller's own columns, after those of the text.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// w.
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// Names of all features, in their order.
    pub fn names(&self) -> Vec<&str> {
        let text = TEXT_FEATURES.iter().copied().filter(|_| self.text);
        text.chain(self.columns.iter().map(String::as_str)).collect()
    }

    /// What is looked at beside the embedding, in words.
    pub fn looks_at(&self) -> String {
        let own = listed(&self.columns);
        let n = TEXT_FEATURES.len();
        match (self.text, self.columns.is_empty()) {
            (true, true) => format!("{n} features of the text"),
            (true, false) => format!("{n} features of the text and its caller's columns {own}"),
            (false, _) => format!("its caller's columns {own}"),
        }
    }

    /// The call that makes rows of embeddings.
    fn rows_call(&self) -> &'static str {
        match (self.text, self.columns.is_empty()) {
            (true, true) => "inputs(embeddings, texts)",
            (true, false) => "inputs(embeddings, texts, features)",
            (false, _) => "inputs(embeddings, features=...)",
        }
    }

    /// One row from an embedding and its features.
    pub fn row(&self, embedding: &[f32], features: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.dim()];
        check_len("embedding", self.d, embedding.len())?;
        check_len("features", self.count(), features.len())?;
        check_finite("features", features)?;
        self.row_into(embedding, features, &mut out);
        check_finite("embedding", &out)?;
        Ok(out)
    }

    fn row_into(&self, embedding: &[f32], features: &[f32], out: &mut [f32]) {
        let square: f64 = embedding.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let inverse = if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 };
        let (e, z) = out.split_at_mut(self.d);
        for (out, x) in e.iter_mut().zip(embedding) {
            *out = (f64::from(*x) * inverse) as f32;
        }
        let moved = features.iter().zip(&self.shift).zip(&self.scale);
        for (out, ((f, shift), scale)) in z.iter_mut().zip(moved) {
            *out = ((f - shift) * scale).clamp(-self.bound, self.bound);
        }
    }

    /// N rows from embeddings (N, d) and features (N, F).
    pub fn rows(&self, embeddings: &[f32], features: &[f32]) -> Result<Vec<f32>> {
        let n = embeddings.len() / self.d;
        check_len("embeddings (N·d values)", n * self.d, embeddings.len())?;
        check_len("features (N·F values)", n * self.count(), features.len())?;
        check_finite("embeddings", embeddings)?;
        check_finite("features", features)?;
        let mut out = filled("inputs", n, self.dim(), 0.0)?;
        let each = embeddings.chunks_exact(self.d).zip(features.chunks_exact(self.count()));
        for (out, (e, f)) in out.chunks_exact_mut(self.dim()).zip(each) {
            self.row_into(e, f, out);
        }
        Ok(out)
    }

    /// One row from an embedding and the text behind it.
    pub fn row_of_text(&self, embedding: &[f32], text: &str) -> Result<Vec<f32>> {
        if !self.columns.is_empty() {
            return Err(Error::argument(
                "text",
                "features too: this router also looks at columns of its caller's, which a text does \
                 not tell; route rows of `inputs`",
                format!("columns {:?}", &self.columns[..self.columns.len().min(8)]),
            ));
        }
        self.row(embedding, &text_features(text))
    }

    /// For an artifact's metadata.
    pub(crate) fn header(&self) -> Header {
        Header {
            text: self.text.then(|| TEXT_SET.into()),
            columns: self.columns.clone(),
            weight: self.weight,
            bound: self.bound,
        }
    }

    /// As tensors of a file.
    pub(crate) fn tensors(&self) -> [Tensor; 2] {
        [
            Tensor::f32s("features.shift", &[self.count()], &self.shift),
            Tensor::f32s("features.scale", &[self.count()], &self.scale),
        ]
    }

    /// From a file, for networks that read rows of width `dim`.
    pub(crate) fn read(file: &Container, header: Header, dim: usize) -> Result<Self> {
        if let Some(set) = header.text.as_ref().filter(|set| *set != TEXT_SET) {
            return Err(Error::artifact(format!("features of the set {TEXT_SET}"), set));
        }
        let (shift, scale) = (file.f32s("features.shift")?.1, file.f32s("features.scale")?.1);
        let Some(d) = dim.checked_sub(shift.len()) else {
            return Err(Error::artifact("fewer features than a row has values", shift.len()));
        };
        let of = (d, header.text.is_some(), header.columns);
        Self::new(of, header.weight, (shift, scale), header.bound)
    }
}

/// What of the features stands in an artifact's metadata.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    text: Option<String>,
    columns: Vec<String>,
    weight: f32,
    bound: f32,
}

/// The row that networks read of an embedding and its text; the embedding itself without features.
pub fn row_of_text(
    features: Option<&Features>,
    embedding: Vec<f32>,
    text: &str,
) -> Result<Vec<f32>> {
    match features {
        None => Ok(embedding),
        Some(features) => features.row_of_text(&embedding, text),
    }
}

/// Refuse embeddings without the features that go with them.
pub fn check_width(features: Option<&Features>, width: usize) -> Result<()> {
    let Some(f) = features.filter(|f| width == f.embedding_dim()) else { return Ok(()) };
    let rows = f.rows_call();
    let text = if f.text && f.columns.is_empty() {
        "give the text itself (route_text, select_text; --text), "
    } else {
        ""
    };
    let advice = format!(
        "{text}pass rows of {rows}, or fit with features=False (--features none) for a router that \
         looks at embeddings only"
    );
    Err(Error::EmbeddingOnly { rows, dim: f.dim(), width, features: f.looks_at(), advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_unit_embedding_and_the_scaled_features() -> Result<()> {
        let values = [1.0, 5.0, 7.0, 3.0, 5.0, 9.0];
        let columns = ["a", "b", "c"].map(String::from).to_vec();
        let f = Features::fit(2, false, columns, 2.0, &values)?;
        let row = f.row(&[3.0, 4.0], &[3.0, 100.0, 8.0])?;
        let unit = 2.0_f32 / 2.0_f32.sqrt();
        assert_eq!(row, [0.6, 0.8, unit, 0.0, 0.0]);
        // Far outside, it stays within three standard deviations; one that never varied is 0.
        assert_eq!(f.row(&[3.0, 4.0], &[1e9, -1e9, 8.0])?[2..], [3.0 * unit, 0.0, 0.0]);
        assert_eq!(f.rows(&[3.0, 4.0, 0.0, 0.0], &values)?.len(), 10);
        assert!(f.row(&[3.0, f32::NAN], &values[..3]).is_err());
        assert!(f.row(&[3.0, 4.0], &[f32::INFINITY, 0.0, 0.0]).is_err());
        assert!(f.row_of_text(&[3.0, 4.0], "x").is_err(), "columns are not of the text");
        let words = check_width(Some(&f), 2).unwrap_err().to_string();
        assert!(words.contains("columns [\"a\", \"b\", \"c\"]"), "{words}");
        assert!(words.contains("features=False"), "{words}");
        assert!(check_width(Some(&f), 5).is_ok() && check_width(None, 2).is_ok());
        Ok(())
    }
}
