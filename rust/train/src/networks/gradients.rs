//! Every loss and both networks: the gradient of automatic differentiation (with our fused heads in
//! it) against central differences, in double precision; and the losses against their formulas.

use candle_core::{DType, Result, Tensor, Var};

use crate::config::FitConfig;
use crate::losses::{bce, huber, monotone, rank, softplus};
use crate::networks::gate::GateNet;
use crate::networks::teacher::TeacherNet;
use crate::ops::nn::CPU;

/// Numbers in (-1, 1) from a fixed recurrence.
fn numbers(n: usize, seed: u64) -> Vec<f64> {
    let mut x = seed;
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
        .collect()
}

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &CPU).unwrap()
}

/// A dropout mask of p = 0.1, fixed.
fn mask(n: usize, seed: u64) -> Vec<f32> {
    numbers(n, seed).iter().map(|v| if *v < -0.8 { 0.0 } else { 1.0 / 0.9 }).collect()
}

/// Compare gradients of `f` in every entry of every variable with central differences.
fn check(vars: &[Var], f: impl Fn() -> Result<Tensor>) -> Result<()> {
    let grads = f()?.backward()?;
    let value = || f().and_then(|l| l.to_scalar::<f64>());
    let (h, mut largest) = (1e-5, 0.0_f64);
    for (k, var) in vars.iter().enumerate() {
        let got: Vec<f64> = match grads.get(var) {
            Some(g) => g.flatten_all()?.to_vec1()?,
            None => vec![0.0; var.elem_count()],
        };
        let start: Vec<f64> = var.flatten_all()?.to_vec1()?;
        for i in 0..start.len() {
            let at = |x: f64| -> Result<f64> {
                let mut moved = start.clone();
                moved[i] = x;
                var.set(&Tensor::from_vec(moved, var.shape(), &CPU)?)?;
                value()
            };
            let slope = (at(start[i] + h)? - at(start[i] - h)?) / (2.0 * h);
            let error = (slope - got[i]).abs();
            assert!(
                error < 1e-7 + 1e-5 * slope.abs(),
                "variable {k}, entry {i}: {} not {slope}",
                got[i]
            );
            largest = largest.max(slope.abs());
        }
        var.set(&Tensor::from_vec(start, var.shape(), &CPU)?)?;
    }
    assert!(largest > 1e-3, "a check of zeros checks nothing");
    Ok(())
}

#[test]
fn losses_have_the_right_gradients() -> Result<()> {
    let x = Var::from_tensor(&(tensor(&[6, 4], 1) * 3.0)?)?;
    let y = tensor(&[6, 4], 2).ge(0.0)?.to_dtype(DType::F64)?;
    let vars = [x.clone()];
    check(&vars, || softplus(&x)?.sum_all())?;
    check(&vars, || bce(&x, &y))?;
    check(&vars, || rank(&x, &y))?;
    check(&vars, || huber(&x, 0.5))?;
    check(&vars, || monotone(&x))
}

#[test]
fn losses_equal_their_formulas() -> Result<()> {
    let x: Vec<f64> = numbers(12, 3).iter().map(|v| v * 4.0).collect();
    // The last row has no wrong model, so no pair.
    let y = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
    let (tx, ty) = (Tensor::from_slice(&x, (4, 3), &CPU)?, Tensor::from_slice(&y, (4, 3), &CPU)?);
    let sp = |v: f64| v.exp().ln_1p();
    let close = |t: Tensor, v: f64| {
        let got = t.to_scalar::<f64>().unwrap();
        assert!((got - v).abs() < 1e-12, "{got} not {v}");
    };
    let n = 12.0;
    close(bce(&tx, &ty)?, x.iter().zip(&y).map(|(x, y)| sp(*x) - x * y).sum::<f64>() / n);
    let hub = |v: f64| if v.abs() <= 0.5 { 0.5 * v * v } else { 0.5 * (v.abs() - 0.25) };
    close(huber(&tx, 0.5)?, x.iter().map(|v| hub(*v)).sum::<f64>() / n);
    let mut total = 0.0;
    for row in 0..3 {
        let (mut sum, mut pairs) = (0.0, 0.0);
        for i in 0..3 {
            for j in 0..3 {
                if y[row * 3 + i] == 0.0 && y[row * 3 + j] == 1.0 {
                    sum += sp(x[row * 3 + i] - x[row * 3 + j]);
                    pairs += 1.0;
                }
            }
        }
        total += sum / pairs;
    }
    close(rank(&tx, &ty)?, total / 3.0);
    close(rank(&tx, &Tensor::ones((4, 3), DType::F64, &CPU)?)?, 0.0);
    let fall: f64 = (0..9).map(|i| (x[i] - x[i + 3]).max(0.0)).sum();
    close(monotone(&tx)?, fall / 9.0);
    close(monotone(&tx.narrow(0, 0, 1)?)?, 0.0);
    let far = Tensor::new(&[800.0_f64, -800.0], &CPU)?;
    assert_eq!(softplus(&far)?.to_vec1::<f64>()?, [800.0, 0.0]);
    Ok(())
}

#[test]
fn the_teacher_has_the_right_gradients() -> Result<()> {
    let net = TeacherNet::new(3, 5, 4, 7, DType::F64)?;
    let x = tensor(&[6, 5], 1);
    let y = tensor(&[6, 3], 2).ge(0.0)?.to_dtype(DType::F64)?;
    let mask = mask(6 * 3 * 4, 3);
    let config = FitConfig::paper();
    check(&net.vars(), || net.loss(&x, &y, mask.clone(), &config))
}

#[test]
fn the_gate_has_the_right_gradients() -> Result<()> {
    let net = GateNet::new((5, 4), (true, true), 8, DType::F64)?;
    let (x, z) = (tensor(&[6, 5], 4), tensor(&[6, 3], 7));
    let lams = [0.2, 0.9, 7.0];
    let targets = tensor(&[3, 6], 5);
    let mask = mask(3 * 6 * 4, 6);
    let config = FitConfig::paper();
    check(&net.vars(), || {
        let margins = net.margins(&x, Some(&z), &lams, mask.clone())?;
        net.loss(&margins, &targets, 1.0, &config)
    })
}

#[test]
fn networks_count_the_papers_parameters() -> Result<()> {
    let count = |vars: Vec<Var>| vars.iter().map(|v| v.elem_count()).sum::<usize>();
    assert_eq!(count(TeacherNet::new(4, 384, 256, 0, DType::F32)?.vars()), 398_340);
    assert_eq!(count(GateNet::new((384, 256), (true, false), 0, DType::F32)?.vars()), 104_706);
    Ok(())
}

#[test]
fn single_and_double_precision_agree() -> Result<()> {
    let (shape, sees) = ((5, 4), (true, false));
    let net = GateNet::new(shape, sees, 8, DType::F32)?;
    let twin = GateNet::new(shape, sees, 8, DType::F64)?;
    let x = tensor(&[40, 5], 9);
    let lams = [0.2, 9.0];
    let a = net.margins(&x.to_dtype(DType::F32)?, None, &lams, vec![1.0; 2 * 40 * 4])?;
    let b = twin.margins(&x, None, &lams, vec![1.0; 2 * 40 * 4])?;
    let (ga, gb) = (a.sum_all()?.backward()?, b.sum_all()?.backward()?);
    let worst = |a: &Tensor, b: &Tensor| -> Result<f64> {
        (a.to_dtype(DType::F64)? - b)?.abs()?.max_all()?.to_scalar()
    };
    assert!(worst(&a, &b)? < 1e-5);
    for (v, w) in net.vars().iter().zip(twin.vars()) {
        if let (Some(g), Some(h)) = (ga.get(v), gb.get(&w)) {
            assert!(worst(g, h)? < 1e-4);
        }
    }
    Ok(())
}
