//! A layer of our own as an operation of the tensor library, once for all layers.
//!
//! In: three tensors of single or double precision, made contiguous, and a [`Fused`] layer over their
//! values. Out: a tensor that [`Tensor::backward`] goes through.

use candle_core::bail;
use candle_core::{
    CpuStorage, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, WithDType,
};

use crate::ops::real::Real;

/// Values and gradients of a layer with three arguments that learn.
pub trait Fused: Send + Sync + 'static {
    /// For messages.
    const NAME: &'static str;

    /// The layer's values, and their shape.
    fn forward<T: Real>(&self, args: [&[T]; 3]) -> Result<(Vec<T>, Shape)>;

    /// The arguments' gradients for an upstream gradient of the values.
    fn backward<T: Real>(&self, args: [&[T]; 3], upstream: &[T]) -> Result<[Vec<T>; 3]>;
}

/// Apply a layer.
pub fn apply(layer: impl Fused, [a, b, c]: [&Tensor; 3]) -> Result<Tensor> {
    a.contiguous()?.apply_op3(&b.contiguous()?, &c.contiguous()?, Operation(layer))
}

/// The values of contiguous storage.
fn slice<'a, T: WithDType>(s: &'a CpuStorage, l: &Layout) -> Result<&'a [T]> {
    match l.contiguous_offsets() {
        Some((a, b)) => Ok(&s.as_slice::<T>()?[a..b]),
        None => bail!("expected contiguous tensors"),
    }
}

/// The values of a contiguous tensor on the CPU, in `f`.
pub fn with_values<T: WithDType, R>(t: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => f(slice(s, layout)?),
        _ => bail!("expected tensors on the CPU"),
    }
}

struct Operation<F>(F);

impl<F: Fused> Operation<F> {
    fn forward<T: Real>(&self, args: [(&CpuStorage, &Layout); 3]) -> Result<(CpuStorage, Shape)> {
        let [a, b, c] = args.map(|(s, l)| slice(s, l));
        let (values, shape) = self.0.forward::<T>([a?, b?, c?])?;
        Ok((T::to_cpu_storage_owned(values), shape))
    }

    fn gradients<T: Real>(&self, args: [&Tensor; 3], upstream: &Tensor) -> Result<[Tensor; 3]> {
        let [a, b, c] = args;
        let [ga, gb, gc] = with_values(a, |av: &[T]| {
            with_values(b, |bv| {
                with_values(c, |cv| with_values(upstream, |u| self.0.backward([av, bv, cv], u)))
            })
        })?;
        let tensor = |v: Vec<T>, like: &Tensor| Tensor::from_vec(v, like.shape(), like.device());
        Ok([tensor(ga, a)?, tensor(gb, b)?, tensor(gc, c)?])
    }
}

impl<F: Fused> CustomOp3 for Operation<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let args = [(s1, l1), (s2, l2), (s3, l3)];
        match s1 {
            CpuStorage::F32(_) => self.forward::<f32>(args),
            CpuStorage::F64(_) => self.forward::<f64>(args),
            _ => bail!("{}: expected f32 or f64", F::NAME),
        }
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let [a, b, c] = match a.dtype() {
            DType::F32 => self.gradients::<f32>([a, b, c], &grad)?,
            _ => self.gradients::<f64>([a, b, c], &grad)?,
        };
        Ok((Some(a), Some(b), Some(c)))
    }
}
