//! Matrix products, through the tensor library's own `gemm`.
//!
//! In: slices with their strides. Out: dst += α · lhs · rhs. The library chooses its instructions for
//! itself.

use candle_core::WithDType;

/// A matrix in a slice: entry (i, j) is `values[i·row + j·column]`.
#[derive(Clone, Copy)]
pub struct Strided<'a, T> {
    values: &'a [T],
    row: usize,
    column: usize,
}

impl<'a, T> Strided<'a, T> {
    /// Row-major, rows `stride` apart.
    pub fn new(values: &'a [T], stride: usize) -> Self {
        Self { values, row: stride, column: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// dst (m, n) += α · lhs (m, k) · rhs (k, n); `dst` is row-major, its rows `stride` apart.
pub fn accumulate<T: WithDType>(
    (m, k, n): (usize, usize, usize),
    alpha: T,
    lhs: Strided<T>,
    rhs: Strided<T>,
    dst: &mut [T],
    stride: usize,
) {
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    assert!(lhs.holds(m, k) && rhs.holds(k, n) && n <= stride && (m - 1) * stride + n <= dst.len());
    let s = |stride: usize| stride.cast_signed();
    // SAFETY: the asserts keep every entry that the strides address inside its slice, and dst is
    // ours alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            s(stride),
            true,
            lhs.values.as_ptr(),
            s(lhs.column),
            s(lhs.row),
            rhs.values.as_ptr(),
            s(rhs.column),
            s(rhs.row),
            T::one(),
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}
