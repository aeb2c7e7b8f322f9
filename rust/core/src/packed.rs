//! Weights as the kernels read them: whole aligned blocks of sixteen floats.
//!
//! In: row-major weights. Out: [`Packed`] matrices and [`PaddedVec`]s.

use crate::lanes::LANES;

/// Sixteen floats on one cache line, so that every vector load is aligned.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Block(pub [f32; LANES]);

/// A vector padded with zeros to whole blocks.
#[derive(Clone, Debug)]
pub struct PaddedVec(Vec<Block>);

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

/// Output blocks stored side by side.
pub(crate) const GROUP: usize = 4;

/// A dense layer's weights, packed `[group of output blocks][input][block][lane]` so that the blocks
/// of a group advance together over the inputs and memory is read once, forwards, in one stream.
#[derive(Clone, Debug)]
pub struct Packed {
    inputs: usize,
    data: Vec<Block>,
}

impl Packed {
    /// Pack a row-major (outputs, inputs) matrix; missing outputs of the last block are zero.
    pub fn new(w: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(w.len(), outputs * inputs);
        let zeros = vec![Block([0.0; LANES]); outputs.div_ceil(LANES) * inputs];
        let mut packed = Self { inputs, data: zeros };
        for o in 0..outputs {
            let (first, step) = packed.place(o / LANES);
            for i in 0..inputs {
                packed.data[first + i * step].0[o % LANES] = w[o * inputs + i];
            }
        }
        packed
    }

    /// Where output block `b` starts, and the step from one input to the next, in blocks. The last
    /// group may be narrower.
    pub(crate) fn place(&self, b: usize) -> (usize, usize) {
        let group = b - b % GROUP;
        (group * self.inputs + b % GROUP, GROUP.min(self.blocks() - group))
    }

    /// Inputs of the layer.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs rounded up to whole blocks: the stride of an output row.
    pub fn padded_outputs(&self) -> usize {
        self.blocks() * LANES
    }

    /// Number of output blocks.
    pub fn blocks(&self) -> usize {
        self.data.len().checked_div(self.inputs).unwrap_or(0)
    }

    /// The first float.
    pub(crate) fn ptr(&self) -> *const f32 {
        self.data.as_ptr().cast()
    }
}
