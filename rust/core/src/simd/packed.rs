//! Weights as the kernels read them: whole aligned blocks of sixteen words.
//!
//! In: row-major weights. Out: [`Packed`] matrices and [`PaddedVec`]s. A matrix whose numbers are all
//! of bfloat16's precision is kept two numbers a word; the kernels compute the same bits from either,
//! and a single row, which waits for its weights, waits for half the bytes.

// As in the kernels.
#![allow(clippy::inline_always)]

use crate::simd::lanes::{LANES, Lanes};

/// Sixteen words on one cache line, so that every vector load is aligned.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Block<T>([T; LANES]);

/// A vector padded with zeros to whole blocks.
#[derive(Clone, Debug)]
pub struct PaddedVec(Vec<Block<f32>>);

impl PaddedVec {
    /// Copy `xs` and pad.
    pub fn new(xs: &[f32]) -> Self {
        let mut blocks = vec![Block([0.0; LANES]); xs.len().div_ceil(LANES)];
        for (block, chunk) in blocks.iter_mut().zip(xs.chunks(LANES)) {
            block.0[..chunk.len()].copy_from_slice(chunk);
        }
        Self(blocks)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.0.len()
    }

    /// The first float.
    pub(crate) fn ptr(&self) -> *const f32 {
        self.0.as_ptr().cast()
    }
}

/// Output blocks stored side by side; even, so that pairs stay together.
const GROUP: usize = 4;

/// Weights as they lie in memory: floats, or words of two numbers.
pub(crate) trait Stored: Copy {
    /// The weights of `B` blocks at one input.
    unsafe fn load<V: Lanes, const B: usize>(p: *const Self) -> [V; B];
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<V: Lanes, const B: usize>(p: *const Self) -> [V; B] {
        // SAFETY: the caller owns B blocks at p.
        unsafe {
            let mut out = [V::splat(0.0); B];
            for (b, out) in out.iter_mut().enumerate() {
                *out = V::load(p.add(b * LANES));
            }
            out
        }
    }
}

impl Stored for u32 {
    #[inline(always)]
    unsafe fn load<V: Lanes, const B: usize>(p: *const Self) -> [V; B] {
        // SAFETY: the caller owns B blocks at p, which starts with a pair's first.
        unsafe {
            let mut out = [V::splat(0.0); B];
            for (pair, out) in out.chunks_mut(2).enumerate() {
                out.copy_from_slice(&V::load_pair(p.add(pair * LANES))[..out.len()]);
            }
            out
        }
    }
}

/// Where the words are.
#[derive(Clone, Copy)]
pub(crate) enum Data {
    /// One number a word.
    Single(*const f32),
    /// Two: the even block's in the lower half, the odd one's in the upper.
    Paired(*const u32),
}

/// A dense layer's weights, packed `[group of output blocks][input][block or pair][lane]` so that the
/// blocks of a group advance together over the inputs and memory is read once, forwards, in one stream.
#[derive(Clone, Debug)]
pub struct Packed {
    inputs: usize,
    blocks: usize,
    words: Words,
}

#[derive(Clone, Debug)]
enum Words {
    Single(Vec<Block<f32>>),
    Paired(Vec<Block<u32>>),
}

impl Packed {
    /// Pack a row-major (outputs, inputs) matrix; missing outputs of the last block are zero.
    pub fn new(w: &[f32], outputs: usize, inputs: usize) -> Self {
        let halves = w.iter().all(|w| w.to_bits().trailing_zeros() >= 16);
        Self::with_halves(w, outputs, inputs, halves)
    }

    /// The same, in pairs or not: pairs keep the upper half of each number alone.
    fn with_halves(w: &[f32], outputs: usize, inputs: usize, halves: bool) -> Self {
        assert_eq!(w.len(), outputs * inputs);
        let blocks = outputs.div_ceil(LANES);
        let words = if halves {
            Words::Paired(vec![Block([0; LANES]); blocks.div_ceil(2) * inputs])
        } else {
            Words::Single(vec![Block([0.0; LANES]); blocks * inputs])
        };
        let mut packed = Self { inputs, blocks, words };
        for o in 0..outputs {
            let (b, lane) = (o / LANES, o % LANES);
            let place = if halves { packed.place::<2>(b) } else { packed.place::<1>(b) };
            for (i, w) in w[o * inputs..(o + 1) * inputs].iter().enumerate() {
                let at = (place.0 + i * place.1) / LANES;
                match &mut packed.words {
                    Words::Single(words) => words[at].0[lane] = *w,
                    Words::Paired(words) => {
                        let half = w.to_bits() >> 16;
                        words[at].0[lane] |= if b % 2 == 0 { half } else { half << 16 };
                    }
                }
            }
        }
        packed
    }

    /// Where output block `b` starts, and the step from one input to the next, in words, when `P`
    /// blocks share a word. The last group may be narrower.
    pub(crate) fn place<const P: usize>(&self, b: usize) -> (usize, usize) {
        let within = b % GROUP;
        let group = b - within;
        let width = (within + self.left(b)).div_ceil(P);
        ((group / P * self.inputs + within / P) * LANES, width * LANES)
    }

    /// Blocks of its group from `b` on: those that may advance with it.
    pub(crate) fn left(&self, b: usize) -> usize {
        (GROUP - b % GROUP).min(self.blocks - b)
    }

    /// Inputs of the layer.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs rounded up to whole blocks: the stride of an output row.
    pub fn padded_outputs(&self) -> usize {
        self.blocks * LANES
    }

    /// Number of output blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The first word.
    pub(crate) fn data(&self) -> Data {
        match &self.words {
            Words::Single(words) => Data::Single(words.as_ptr().cast()),
            Words::Paired(words) => Data::Paired(words.as_ptr().cast()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::isa::{Isa, Simd};

    /// Numbers in [−1, 1) from a fixed recurrence, with the upper half of their bits.
    fn halves(n: usize) -> Vec<f32> {
        let mut x = 1_u32;
        (0..n)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let number = (x >> 8) as f32 / (1 << 23) as f32 - 1.0;
                f32::from_bits(number.to_bits() & 0xffff_0000)
            })
            .collect()
    }

    fn paired_words(w: &[f32], outputs: usize, inputs: usize) -> bool {
        matches!(Packed::new(w, outputs, inputs).words, Words::Paired(_))
    }

    #[test]
    fn pairs_give_the_bits_of_single_words() {
        // Miri is a thousand times slower.
        let sizes = [(256, 384), (1, 1), (16, 3), (17, 5), (33, 7), (100, 96), (257, 9)];
        for (outputs, inputs) in sizes.into_iter().filter(|(o, i)| !cfg!(miri) || o * i < 300) {
            let w = halves(outputs * inputs);
            let [single, paired] =
                [false, true].map(|pairs| Packed::with_halves(&w, outputs, inputs, pairs));
            assert!(paired_words(&w, outputs, inputs));
            for rows in [1, 2, 5, 6, 13] {
                let x: Vec<f32> = halves(rows * inputs).iter().map(|x| x * 1.234_567).collect();
                let scale: Vec<f32> = (1..=rows).map(|r| 1.0 / r as f32).collect();
                let padded = single.padded_outputs();
                let by = |simd: Simd, w: &Packed| {
                    let mut out = vec![f32::NAN; rows * padded];
                    simd.dense(w, &x, &scale, &mut out);
                    out.iter().map(|y| y.to_bits()).collect::<Vec<u32>>()
                };
                let expected = by(Simd::new(Isa::Scalar).unwrap(), &single);
                for simd in Isa::ALL.into_iter().filter_map(Simd::new) {
                    assert_eq!(by(simd, &single), expected, "{simd:?} {outputs} × {inputs}");
                    assert_eq!(by(simd, &paired), expected, "{simd:?} {outputs} × {inputs}");
                }
            }
        }
    }

    #[test]
    fn one_number_of_more_precision_keeps_single_words() {
        let mut w = halves(40);
        assert!(paired_words(&w, 8, 5));
        w[39] = 1.000_1;
        assert!(!paired_words(&w, 8, 5));
    }
}
