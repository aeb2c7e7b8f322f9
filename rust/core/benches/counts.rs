//! Instructions of the hot kernels under callgrind, full size: `make counts`.
//!
//! In: fixed inputs. Out: instructions, which `benches/counts.py` compares with those in `counts.json`.
//! A count does not depend on what else the machine does. The emulated processor has AVX2 and no
//! AVX-512, so AVX2 is what is counted.

#![allow(missing_docs)] // The harness's macros make undocumented modules.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;

use common::{Rng, gate, teacher};

use cr2fast_core::LinkState;
use cr2fast_core::Precision;
use cr2fast_core::Teacher;
use cr2fast_core::{Budget, EdgeSelector, Query, Rule, Selection};
use cr2fast_core::{Decision, DeviceRouter};
use cr2fast_core::{Film, Gate};
use cr2fast_core::{Isa, Simd};
use cr2fast_core::{LengthPredictor, LengthWeights};
use cr2fast_core::{Parts, Router};
use gungraun::{
    Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};

const D: usize = 384;
const H: usize = 256;

/// The golden router with networks of full size.
fn router() -> Router {
    assert_eq!(Simd::best().unwrap().isa(), Isa::Avx2, "counts are of the AVX2 path");
    let golden = include_bytes!("../../../tests/golden/router.safetensors");
    let small = Router::from_bytes(golden).unwrap();
    let models = small.models().len();
    let length = LengthWeights {
        models,
        d: D,
        weight: Rng::new(3).vec(models * D, 0.05),
        scalars: [0.2, 4.0, 0.1, 900.0].repeat(models),
    };
    let full = Router::new(Parts {
        features: None,
        encoder: small.encoder().clone(),
        gate: Gate::new(gate(D, H, 1)).unwrap(),
        teacher: Teacher::new(teacher(models, D, H, 2)).unwrap(),
        length: LengthPredictor::new(length).unwrap(),
        costs: small.costs().clone(),
        training: small.training().into(),
        trained_on: small.trained_on().clone(),
        precision: Precision::default(),
        typicality: None,
    });
    full.unwrap().with_calibration(small.calibration().unwrap().clone()).unwrap()
}

fn rows(n: usize) -> Vec<f32> {
    Rng::new(7).vec(n * D, 0.09)
}

/// The first operating point of the golden calibration.
fn point(r: &Router) -> (f64, f64) {
    let c = r.calibration().unwrap();
    (c.lams[0], c.alphas[0])
}

fn device() -> (DeviceRouter, Vec<f32>) {
    let r = router();
    let (lam, alpha) = point(&r);
    (DeviceRouter::new(&r, lam, alpha).unwrap(), rows(1))
}

/// The same with weights in pairs.
fn small_device() -> (DeviceRouter, Vec<f32>) {
    let r = router();
    let (lam, alpha) = point(&r);
    let small = r.rounded(Precision::Bfloat16).unwrap();
    let small = small.with_calibration(r.calibration().unwrap().clone()).unwrap();
    (DeviceRouter::new(&small, lam, alpha).unwrap(), rows(1))
}

/// A gate, bound λ, rows.
type Sweep = (Arc<Gate>, Vec<Film>, Vec<f32>);

fn films(lams: i32, n: usize) -> Sweep {
    let gate = Arc::clone(router().gate());
    let films = (0..lams).map(|i| gate.film(0.1 * 1.08_f64.powi(i)).unwrap()).collect();
    (gate, films, rows(n))
}

fn calibration(n: usize) -> (Vec<f32>, Vec<bool>) {
    let prefers = Rng::new(6).vec(n, 1.0).iter().map(|u| *u < 0.0).collect();
    (Rng::new(5).vec(n, 1.0), prefers)
}

fn edge() -> (EdgeSelector, Vec<f32>) {
    (EdgeSelector::new(&router(), 1.0, Rule::EdgeOnly).unwrap(), rows(1))
}

// Inputs go out again with the answer: what is returned is freed uncounted.

#[library_benchmark]
#[bench::d384_h256(device())]
#[bench::d384_h256_bfloat16(small_device())]
fn one_decision(input: (DeviceRouter, Vec<f32>)) -> (Decision, (DeviceRouter, Vec<f32>)) {
    (black_box(input.0.route(black_box(&input.1), false).unwrap()), input)
}

#[library_benchmark]
#[bench::one_lambda_480_rows(films(1, 480))]
#[bench::sixty_four_lambdas_48_rows(films(64, 48))]
fn margins(input: Sweep) -> (Vec<f32>, Sweep) {
    (black_box(input.0.margins(black_box(&input.2), &input.1, 1).unwrap()), input)
}

#[library_benchmark]
#[bench::n_10_000(calibration(10_000))]
#[bench::n_100_000(calibration(100_000))]
fn crc_thresholds(input: (Vec<f32>, Vec<bool>)) -> (Vec<f32>, (Vec<f32>, Vec<bool>)) {
    let alphas = [0.002, 0.005, 0.01, 0.02, 0.05];
    let (n, defer) = (input.0.len(), false);
    (
        black_box(cr2fast_core::crc_thresholds(&input.0, &input.1, n, &alphas, defer, 1).unwrap()),
        input,
    )
}

#[library_benchmark]
#[bench::two_of_three_models(edge())]
fn edge_select(input: (EdgeSelector, Vec<f32>)) -> (Selection, (EdgeSelector, Vec<f32>)) {
    let state = LinkState { rate_ul_bps: 2e7, rate_dl_bps: 8e7, rtt_s: 0.018 };
    let query = Query {
        embedding: &input.1,
        n_input_tokens: 120.0,
        n_output_tokens: None,
        state,
        available: None,
        waiting_s: None,
        budget: Budget::default(),
    };
    (black_box(input.0.select(black_box(&query)).unwrap()), input)
}

#[library_benchmark]
#[bench::of_a_grid(router())]
fn threshold_lookup(router: Router) -> ((f64, f64, f32), Router) {
    let (lam, alpha) = point(&router);
    (black_box(router.threshold(black_box(lam), alpha).unwrap()), router)
}

library_benchmark_group!(
    name = hot,
    benchmarks = [one_decision, margins, crc_thresholds, edge_select, threshold_lookup]
);
main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::with_args(["--cache-sim=no", "--branch-sim=no"])),
    library_benchmark_groups = hot
);
