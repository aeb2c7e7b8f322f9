//! Criterion benchmarks of the core, full size. Each checks its answer before it is timed.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::slice::from_ref;

use common::{Rng, gate, paired, teacher};
use cr2fast_core::Gate;
use cr2fast_core::Precision;
use cr2fast_core::Teacher;
use cr2fast_core::internals::Packed;
use cr2fast_core::{Isa, RiskAlarm, Simd};
use cr2fast_core::{allowed_false_acceptances, crc_thresholds};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const D: usize = 384;
const H: usize = 256;

fn margins(c: &mut Criterion) {
    let xs = Rng::new(1).vec(10_000 * D, 0.09);
    for simd in Isa::ALL.into_iter().filter_map(Simd::new) {
        let small = Gate::with_simd(paired(&gate(D, H, 3)), simd).unwrap();
        let g = Gate::with_simd(gate(D, H, 3), simd).unwrap();
        let film = g.film(1.0).unwrap();
        let batch = g.margins(&xs, from_ref(&film), 1).unwrap();
        assert_eq!(g.margin(&xs[7 * D..8 * D], &film).unwrap().to_bits(), batch[7].to_bits());
        let mut group = c.benchmark_group(format!("margin/{}", simd.isa().name()));
        group.bench_function("one", |b| {
            b.iter(|| g.margin(black_box(&xs[7 * D..8 * D]), &film).unwrap());
        });
        let film_of_small = small.film(1.0).unwrap();
        let (a, b) = (batch[7], small.margin(&xs[7 * D..8 * D], &film_of_small).unwrap());
        assert!(a != b && (a - b).abs() < 1e-2);
        group.bench_function("one, bfloat16 weights", |b| {
            b.iter(|| small.margin(black_box(&xs[7 * D..8 * D]), &film_of_small).unwrap());
        });
        if simd.isa() == Isa::Scalar {
            continue;
        }
        group.throughput(Throughput::Elements(10_000)).sample_size(20);
        group.bench_function("batch of 10,000", |b| {
            b.iter(|| g.margins(black_box(&xs), from_ref(&film), 1).unwrap());
        });
    }
}

/// The matrix product alone, the batch's and the decision's limit.
fn product(c: &mut Criterion) {
    const ROWS: usize = 48;
    let (w, x) = (Rng::new(1).vec(H * D, 0.08), Rng::new(2).vec(ROWS * D, 0.09));
    let halves = Precision::Bfloat16.rounded("w", &w).unwrap();
    let scale = [1.0; ROWS];
    let mut out = vec![0.0; ROWS * H];
    for (name, w) in [("float32", w), ("bfloat16", halves)] {
        let packed = Packed::new(&w, H, D);
        for simd in Isa::ALL.into_iter().filter_map(Simd::new).skip(1) {
            simd.dense(&packed, &x, &scale, &mut out);
            let dot: f64 = (0..D).map(|i| f64::from(w[5 * D + i]) * f64::from(x[D + i])).sum();
            assert!((f64::from(out[H + 5]) - dot).abs() < 1e-5);
            let mut group = c.benchmark_group(format!("product/{}/{name}", simd.isa().name()));
            for rows in [1, ROWS] {
                group.throughput(Throughput::Elements(rows as u64));
                group.bench_function(format!("{rows} rows"), |b| {
                    let (x, out) = (&x[..rows * D], &mut out[..rows * H]);
                    b.iter(|| simd.dense(&packed, black_box(x), &scale[..rows], out));
                });
            }
        }
    }
}

fn sweep(c: &mut Criterion) {
    let xs = Rng::new(1).vec(1_000 * D, 0.09);
    let g = Gate::new(gate(D, H, 3)).unwrap();
    let films: Vec<_> = (0..64).map(|i| g.film(0.1 * 1.08_f64.powi(i)).unwrap()).collect();
    let all = g.margins(&xs, &films, 1).unwrap();
    assert_eq!(
        all[64 * 1_000 - 1].to_bits(),
        g.margin(&xs[999 * D..], &films[63]).unwrap().to_bits()
    );
    let mut group = c.benchmark_group("sweep");
    group.throughput(Throughput::Elements(64_000)).sample_size(10);
    group.bench_function("64 lambda x 1,000 rows", |b| {
        b.iter(|| g.margins(black_box(&xs), &films, 1).unwrap());
    });
}

fn accuracies(c: &mut Criterion) {
    let xs = Rng::new(1).vec(1_000 * D, 0.09);
    for models in [4, 64] {
        let t = Teacher::new(teacher(models, D, H, 2)).unwrap();
        let one = t.accuracies(&xs[..D], 1).unwrap();
        assert_eq!(one, t.accuracies(&xs, 1).unwrap()[..models]);
        c.bench_function(&format!("accuracies/{models} models, one row"), |b| {
            b.iter(|| t.accuracies(black_box(&xs[..D]), 1).unwrap());
        });
    }
}

fn watch(c: &mut Criterion) {
    let losses: Vec<f64> = (0..10_000).map(|i| f64::from(u8::from(i % 20 == 0))).collect();
    let mut alarm = RiskAlarm::new(0.06, 0.01).unwrap();
    assert!(!alarm.update_many(&losses, None).unwrap());
    let mut group = c.benchmark_group("risk alarm");
    group.throughput(Throughput::Elements(losses.len() as u64));
    group.bench_function("update", |b| {
        b.iter(|| losses.iter().for_each(|l| drop(alarm.update(black_box(*l), 1.0))));
    });
}

fn thresholds(c: &mut Criterion) {
    let alphas = [0.002, 0.005, 0.01, 0.02, 0.05];
    let mut group = c.benchmark_group("crc");
    group.sample_size(10);
    for n in [10_000, 100_000, 1_000_000, 10_000_000] {
        let scores = Rng::new(5).vec(n, 1.0);
        let prefers: Vec<bool> = Rng::new(6).vec(n, 1.0).iter().map(|u| *u < 0.0).collect();
        let run = || crc_thresholds(&scores, &prefers, n, &alphas, false, 1).unwrap();
        let mut top: Vec<f32> =
            scores.iter().zip(&prefers).filter(|(_, r)| **r).map(|(s, _)| *s).collect();
        top.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(run()[2], top[allowed_false_acceptances(0.01, n).unwrap()].next_up());
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(format!("{n} samples, 5 alphas"), |b| b.iter(run));
    }
}

criterion_group!(benches, margins, product, sweep, accuracies, watch, thresholds);
criterion_main!(benches);
