//! The kernels against plain double-precision formulas.

mod common;

use std::slice::from_ref;

use common::{Rng, gate, teacher};
use cr2fast_core::Simd;
use cr2fast_core::Teacher;
use cr2fast_core::internals::PaddedVec;
use cr2fast_core::internals::sigmoid;
use cr2fast_core::{Gate, GateWeights, PSI, psi};

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
}

fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let var = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (var + 1e-5).sqrt();
    x.iter()
        .zip(gain)
        .zip(bias)
        .map(|((v, g), b)| (f64::from(*v) - mean) * scale * f64::from(*g) + f64::from(*b))
        .collect()
}

fn dot(w: &[f32], x: &[f64]) -> f64 {
    w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
}

fn plain_margin(w: &GateWeights, x: &[f32], lam: f64) -> f64 {
    let z = layer_norm(x, &w.ln_weight, &w.ln_bias);
    let psi = psi(lam);
    let film =
        |r: usize| dot(&w.film_weight[r * PSI..(r + 1) * PSI], &psi) + f64::from(w.film_bias[r]);
    (0..w.hidden)
        .map(|o| {
            let h = dot(&w.w1[o * w.d..(o + 1) * w.d], &z) + f64::from(w.b1[o]);
            f64::from(w.w2[o]) * gelu(film(o) * h + film(w.hidden + o))
        })
        .sum::<f64>()
        + f64::from(w.b2)
}

#[test]
fn gelu_is_within_4e_7_of_the_erf_form() {
    // One block: u through γ = 1, δ = 0, and a one-hot w2 reads GELU(u[j]) back.
    let ones = PaddedVec::new(&[1.0; 16]);
    let zeros = PaddedVec::new(&[0.0; 16]);
    let mut w2 = [0.0; 16];
    w2[3] = 1.0;
    let w2 = PaddedVec::new(&w2);
    let mut worst = 0.0_f64;
    for i in -200_000..=200_000 {
        let x = i as f32 * 1e-4;
        let mut u = [0.0; 16];
        u[3] = x;
        let got = f64::from(Simd::best().unwrap().film_gelu_dot(&u, &ones, &zeros, &w2));
        let error = (got - gelu(f64::from(x))).abs() / f64::from(x).abs().max(1.0);
        worst = worst.max(error);
    }
    println!("worst |error| / max(1, |x|): {worst:e}");
    assert!(worst < 4e-7);
}

#[test]
fn sigmoid_is_within_two_ulp_and_saturates() {
    let mut worst = 0.0_f64;
    for i in -86_000..=86_000 {
        let x = i as f32 * 1e-3;
        let exact = 1.0 / (1.0 + libm::exp(-f64::from(x)));
        worst = worst.max((f64::from(sigmoid(x)) - exact).abs() / exact);
    }
    println!("worst relative error: {worst:e}");
    assert!(worst < 2.4e-7);
    assert!(sigmoid(1e30) == 1.0 && sigmoid(-1e30) < 1e-37 && sigmoid(0.0) == 0.5);
}

#[test]
fn margins_match_double_precision() {
    for (d, h) in [(384, 256), (17, 5), (385, 257)] {
        let w = gate(d, h, 4);
        let g = Gate::new(w.clone()).unwrap();
        for lam in [0.1, 0.7, 20.0] {
            let film = g.film(lam).unwrap();
            for x in Rng::new(5).vec(20 * d, 0.1).chunks(d) {
                let (got, plain) = (g.margin(x, &film).unwrap(), plain_margin(&w, x, lam));
                assert!((f64::from(got) - plain).abs() < 2e-5, "{got} {plain}");
            }
            let shifted: Vec<f32> = Rng::new(6).vec(d, 0.1).iter().map(|x| x + 30.0).collect();
            let got = g.margins(&shifted, from_ref(&film), 1).unwrap()[0];
            assert!((f64::from(got) - plain_margin(&w, &shifted, lam)).abs() < 1e-3);
        }
    }
}

#[test]
fn accuracies_match_double_precision() {
    let (m, d, h) = (3, 65, 33);
    let w = teacher(m, d, h, 5);
    let xs = Rng::new(6).vec(10 * d, 0.5);
    let got = Teacher::new(w.clone()).unwrap().accuracies(&xs, 1).unwrap();
    for (i, x) in xs.chunks(d).enumerate() {
        for k in 0..m {
            let z = layer_norm(x, &w.ln_weight[k * d..][..d], &w.ln_bias[k * d..][..d]);
            let logit: f64 = (0..h)
                .map(|o| {
                    let row = k * h + o;
                    let hidden = dot(&w.w1[row * d..(row + 1) * d], &z) + f64::from(w.b1[row]);
                    f64::from(w.w2[row]) * gelu(hidden)
                })
                .sum::<f64>()
                + f64::from(w.b2[k]);
            let p = 1.0 / (1.0 + libm::exp(-logit));
            assert!((f64::from(got[i * m + k]) - p).abs() < 1e-5);
        }
    }
}

#[test]
fn parameter_counts_are_the_papers() {
    assert_eq!(gate(384, 256, 1).parameter_count(), 104_706);
    assert_eq!(teacher(4, 384, 256, 1).parameter_count(), 398_340);
    assert_eq!(teacher(1, 384, 256, 1).parameter_count(), 99_585);
}
