//! What gate and teacher share: centre a row, normalise it, multiply it by packed weights.
//!
//! In: rows of embeddings. Out: hidden rows, before the bias, LayerNorm's affine being in the weights.

use crate::simd::isa::Simd;
use crate::simd::packed::Packed;

/// LayerNorm's gain into the weights (each product rounded once) and its bias into the bias (f64).
pub(crate) fn fold_layer_norm(
    gain: &[f32],
    bias: &[f32],
    w: &[f32],
    b: &[f32],
) -> (Vec<f32>, Vec<f64>) {
    let d = gain.len();
    let folded = w.iter().zip(gain.iter().cycle()).map(|(w, g)| w * g).collect();
    let dot = |row: &[f32]| -> f64 {
        row.iter().zip(bias).map(|(w, b)| f64::from(*w) * f64::from(*b)).sum()
    };
    let shift = w.chunks_exact(d).zip(b).map(|(row, b)| f64::from(*b) + dot(row)).collect();
    (folded, shift)
}

/// Centre, normalise and multiply a few rows, in buffers that are reused.
pub(crate) struct Trunk {
    simd: Simd,
    centered: Vec<f32>,
    scale: Vec<f32>,
    hidden: Vec<f32>,
}

impl Trunk {
    pub(crate) fn new(simd: Simd) -> Self {
        Self { simd, centered: Vec::new(), scale: Vec::new(), hidden: Vec::new() }
    }

    /// Take in rows of width `d`.
    pub(crate) fn center(&mut self, x: &[f32], d: usize) {
        self.centered.resize(x.len(), 0.0);
        self.scale.clear();
        for (x, c) in x.chunks_exact(d).zip(self.centered.chunks_exact_mut(d)) {
            self.scale.push(self.simd.center(x, c));
        }
    }

    /// Squared norms of the standardised rows taken in.
    pub(crate) fn squares(&self, d: usize) -> impl Iterator<Item = f32> + '_ {
        self.centered.chunks_exact(d).zip(&self.scale).map(|(c, scale)| {
            let sum: f64 = c.iter().map(|c| f64::from(*c) * f64::from(*c)).sum();
            (sum * f64::from(*scale) * f64::from(*scale)) as f32
        })
    }

    /// Hidden rows (before bias) of the rows taken in.
    pub(crate) fn product(&mut self, w: &Packed) -> std::slice::ChunksExact<'_, f32> {
        let h = w.padded_outputs();
        self.hidden.resize(self.scale.len() * h, 0.0);
        self.simd.dense(w, &self.centered, &self.scale, &mut self.hidden);
        self.hidden.chunks_exact(h)
    }
}
