//! Seeded weights and rows for tests.

use cr2fast_core::Precision;
use cr2fast_core::TeacherWeights;
use cr2fast_core::{GateWeights, PSI};

/// A small seeded generator (xorshift64*), enough for test data.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Uniform in [-1, 1).
    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
        bits as f32 / (1_u32 << 23) as f32 - 1.0
    }

    pub fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * scale).collect()
    }
}

#[allow(dead_code)]
pub fn gate(d: usize, hidden: usize, seed: u64) -> GateWeights {
    let r = &mut Rng::new(seed);
    let ones = |r: &mut Rng, n| r.vec(n, 0.2).into_iter().map(|x| x + 1.0).collect();
    GateWeights {
        d,
        hidden,
        ln_weight: ones(r, d),
        ln_bias: r.vec(d, 0.1),
        w1: r.vec(hidden * d, 0.08),
        b1: r.vec(hidden, 0.1),
        film_weight: r.vec(2 * hidden * PSI, 0.2),
        film_bias: r.vec(2 * hidden, 0.5),
        w2: r.vec(hidden, 0.3),
        b2: 0.1,
        eta_t: -2.25,
        link: None,
    }
}

/// The same gate with W1 of bfloat16's numbers, which is kept in pairs.
#[allow(dead_code)]
pub fn paired(gate: &GateWeights) -> GateWeights {
    let folded = gate.folded();
    let w1 = Precision::Bfloat16.rounded("w1", &folded.w1).unwrap();
    GateWeights { w1, ..folded }
}

#[allow(dead_code)]
pub fn teacher(models: usize, d: usize, hidden: usize, seed: u64) -> TeacherWeights {
    let r = &mut Rng::new(seed);
    TeacherWeights {
        models,
        d,
        hidden,
        ln_weight: r.vec(models * d, 1.0),
        ln_bias: r.vec(models * d, 0.1),
        w1: r.vec(models * hidden * d, 0.08),
        b1: r.vec(models * hidden, 0.1),
        w2: r.vec(models * hidden, 0.3),
        b2: r.vec(models, 0.1),
    }
}
