//! What both networks share: random streams, initialisation, dropout, standardisation, snapshots, row
//! order.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The device everything runs on.
pub const CPU: Device = Device::Cpu;

/// What randomness is for: each has a stream of its own, so that none disturbs another.
#[derive(Clone, Copy)]
pub enum Stream {
    /// Which rows are held out, and the others' order.
    Split,
    /// The teacher's first weights.
    TeacherWeights,
    /// The teacher's batches.
    TeacherOrder,
    /// The teacher's dropout.
    TeacherDropout,
    /// The gate's first weights.
    GateWeights,
    /// The gate's batches.
    GateOrder,
    /// The gate's dropout.
    GateDropout,
    /// The cost weights that the gate sees.
    GateLams,
    /// The pairs behind the smoother's median distance.
    Distances,
    /// The rows that choose the features' weight.
    Features,
    /// The jitter of a copy of the queries.
    Copy(usize),
}

/// An independent random stream of a seed. A stream's number is part of what a seed means.
pub fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(match stream {
        Stream::Split => 0,
        Stream::TeacherWeights => 1,
        Stream::TeacherOrder => 2,
        Stream::TeacherDropout => 3,
        Stream::GateWeights => 4,
        Stream::GateOrder => 5,
        Stream::GateDropout => 6,
        Stream::GateLams => 7,
        Stream::Distances => 8,
        Stream::Features => 9,
        Stream::Copy(copy) => 16 + copy as u64,
    });
    rng
}

/// Uniform on ±1/√fan_in, as linear layers start.
pub fn uniform(rng: &mut ChaCha8Rng, shape: &[usize], fan_in: usize, dtype: DType) -> Result<Var> {
    let bound = 1.0 / (fan_in as f32).sqrt();
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| rng.random_range(-bound..bound)).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &CPU)?.to_dtype(dtype)?)
}

/// All entries the same.
pub fn constant(value: f64, shape: &[usize], dtype: DType) -> Result<Var> {
    Var::from_tensor(&Tensor::full(value, shape, &CPU)?.to_dtype(dtype)?)
}

/// `n` entries 0 or 1/(1−p), to multiply activations with; none when p = 0.
pub fn dropout_mask(rng: &mut ChaCha8Rng, p: f64, n: usize) -> Vec<f32> {
    if p == 0.0 {
        return Vec::new();
    }
    let (keep, scale) = (1.0 - p, (1.0 / (1.0 - p)) as f32);
    // Sixteen random bits per element: p is honoured to 1/65536.
    let limit = (keep * 65536.0).round() as u32;
    let mut values = vec![0.0; n];
    for chunk in values.chunks_mut(4) {
        let bits = rng.random::<u64>();
        for (k, v) in chunk.iter_mut().enumerate() {
            let draw = (bits >> (16 * k)) as u32 & 0xffff;
            *v = if draw < limit { scale } else { 0.0 };
        }
    }
    values
}

/// Rows scaled to mean 0 and variance 1: LayerNorm before its affine, which is what a head learns.
pub fn standardize(x: &Tensor) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let var = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let eps = f64::from(cr2fast_core::LAYER_NORM_EPS);
    centered.broadcast_div(&(var + eps)?.sqrt()?)
}

/// A network's weights, detached, to return to.
pub fn snapshot(vars: &[Var]) -> Result<Vec<Tensor>> {
    vars.iter().map(|v| v.as_tensor().copy()).collect()
}

/// Set a network's weights.
pub fn restore(vars: &[Var], saved: &[Tensor]) -> Result<()> {
    vars.iter().zip(saved).try_for_each(|(v, t)| v.set(t))
}

/// A variable's values.
pub fn values(v: &Tensor) -> Result<Vec<f32>> {
    v.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
}

/// Shuffle and cut into batches.
pub fn batches(rng: &mut ChaCha8Rng, rows: &[u32], size: usize) -> Vec<Vec<u32>> {
    let mut order = rows.to_vec();
    order.shuffle(rng);
    order.chunks(size).map(<[u32]>::to_vec).collect()
}
