//! Architecture rule 1: a row's margin is the same 32 bits from a single call, from a batch of any
//! size, on any number of threads, on every instruction set this machine has.

mod common;

use std::slice::from_ref;

use common::{Rng, gate, paired, teacher};
use cr2fast_core::Gate;
use cr2fast_core::Teacher;
use cr2fast_core::{Isa, Simd};
use cr2fast_core::{StaticEncoder, StaticSettings};

fn levels() -> Vec<Simd> {
    let here: Vec<Simd> = Isa::ALL.into_iter().filter_map(Simd::new).collect();
    println!("paths forced on this machine: {here:?}");
    here
}

fn bits(xs: &[f32]) -> Vec<u32> {
    xs.iter().map(|x| x.to_bits()).collect()
}

/// Widths that are and are not multiples of the block, of the tile, and of one lane.
const SHAPES: [(usize, usize); 6] =
    [(384, 256), (1, 1), (17, 5), (96, 100), (385, 257), (1500, 40)];

#[test]
fn every_isa_batch_and_thread_count_gives_the_same_margins() {
    for ((d, h), pairs) in SHAPES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let xs = Rng::new(7).vec(203 * d, 1.0);
        let weights = if pairs { paired(&gate(d, h, 1)) } else { gate(d, h, 1) };
        let scalar = Gate::with_simd(weights.clone(), Simd::new(Isa::Scalar).unwrap()).unwrap();
        let lams = [0.1, 1.0, 20.0];
        let films: Vec<_> = lams.iter().map(|l| scalar.film(*l).unwrap()).collect();
        let expected = bits(&scalar.margins(&xs, &films, 1).unwrap());
        for simd in levels() {
            let g = Gate::with_simd(weights.clone(), simd).unwrap();
            for threads in [1, 2, 3, 0] {
                assert_eq!(
                    bits(&g.margins(&xs, &films, threads).unwrap()),
                    expected,
                    "{simd:?} {d}x{h}"
                );
            }
            for rows in [1, 2, 5, 6, 7, 47, 49] {
                let some = bits(&g.margins(&xs[..rows * d], &films, 1).unwrap());
                for (l, part) in some.chunks(rows).enumerate() {
                    assert_eq!(part, &expected[l * 203..l * 203 + rows], "{simd:?} {rows} rows");
                }
            }
            for (l, film) in films.iter().enumerate() {
                for (i, x) in xs.chunks(d).enumerate().step_by(11) {
                    assert_eq!(g.margin(x, film).unwrap().to_bits(), expected[l * 203 + i]);
                }
            }
        }
    }
}

#[test]
fn every_isa_batch_and_thread_count_gives_the_same_accuracies() {
    for (d, h) in SHAPES {
        let xs = Rng::new(8).vec(150 * d, 1.0);
        let at = |simd| Teacher::with_simd(teacher(4, d, h, 2), simd).unwrap();
        let expected = bits(&at(Simd::new(Isa::Scalar).unwrap()).accuracies(&xs, 1).unwrap());
        for simd in levels() {
            let t = at(simd);
            for threads in [1, 2, 3] {
                assert_eq!(bits(&t.accuracies(&xs, threads).unwrap()), expected, "{simd:?}");
            }
            for (i, x) in xs.chunks(d).enumerate().step_by(7) {
                assert_eq!(bits(&t.accuracies(x, 1).unwrap()), expected[i * 4..(i + 1) * 4]);
            }
        }
    }
}

#[test]
fn every_isa_gives_the_same_static_embeddings() {
    for d in [1, 15, 16, 17, 384, 1000] {
        let mut rng = Rng::new(9);
        let words: Vec<String> = (0..500).map(|i| format!("w{i}")).collect();
        let vocabulary = format!("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n{}", words.join("\n"));
        let settings = StaticSettings {
            id: "test".into(),
            source_id: String::new(),
            source_sha256: String::new(),
            max_tokens: 256,
            truncation: "head-tail".into(),
            record: "{}".into(),
        };
        let made = StaticEncoder::new(settings, vocabulary, &rng.vec(505 * d, 1.0), d).unwrap();
        let texts: Vec<String> = (0..90).map(|i| words[i..i + 4 * i].join(" ")).collect();
        let at = |simd| made.clone().with_simd(simd);
        let expected = at(Simd::new(Isa::Scalar).unwrap()).encode_batch(&texts, 1).unwrap();
        for simd in levels() {
            let encoder = at(simd);
            for threads in [1, 2, 3] {
                let got = encoder.encode_batch(&texts, threads).unwrap();
                assert_eq!(bits(&got), bits(&expected), "{simd:?} {d}");
            }
            for (text, row) in texts.iter().zip(expected.chunks(d)) {
                assert_eq!(bits(&encoder.encode(text).unwrap()), bits(row));
            }
        }
    }
}

/// FNV-1a over the bits of margins and accuracies.
fn fingerprint(xs: &[f32]) -> u64 {
    xs.iter()
        .flat_map(|x| x.to_bits().to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The same constants on every processor that this test ever ran on: x86-64, and AArch64 emulated.
#[test]
fn bits_are_those_of_other_processors() {
    let (d, h) = (384, 256);
    let xs = Rng::new(11).vec(100 * d, 1.0);
    let margins = |weights| {
        let g = Gate::new(weights).unwrap();
        let films: Vec<_> = [0.1, 1.0, 7.3].iter().map(|l| g.film(*l).unwrap()).collect();
        fingerprint(&g.margins(&xs, &films, 1).unwrap())
    };
    let accuracies = Teacher::new(teacher(3, d, h, 2)).unwrap().accuracies(&xs, 1).unwrap();
    let found = [margins(gate(d, h, 1)), margins(paired(&gate(d, h, 1))), fingerprint(&accuracies)];
    assert_eq!(
        found,
        [0xe713_ea4d_c2e8_9d68, 0x6f26_5168_6b86_f25e, 0xdc04_a8be_96aa_ddec],
        "{found:#x?}"
    );
}

/// The full size: a million rows through the paper's gate, scalar against every vector path.
#[test]
fn a_million_rows_scalar_against_vector() {
    const ROWS: usize = 1_000_000;
    const CHUNK: usize = 20_000;
    let (d, h) = (384, 256);
    let gates: Vec<Gate> =
        levels().into_iter().map(|s| Gate::with_simd(gate(d, h, 3), s).unwrap()).collect();
    let film = gates[0].film(1.0).unwrap();
    let mut rng = Rng::new(9);
    let mut distinct = std::collections::HashSet::new();
    for _ in 0..ROWS / CHUNK {
        let xs = rng.vec(CHUNK * d, 0.09);
        let expected = bits(&gates[0].margins(&xs, from_ref(&film), 0).unwrap());
        for g in &gates[1..] {
            assert_eq!(bits(&g.margins(&xs, from_ref(&film), 0).unwrap()), expected);
        }
        distinct.extend(expected);
    }
    assert!(distinct.len() > ROWS / 2, "margins vary with the row: {} distinct", distinct.len());
}
