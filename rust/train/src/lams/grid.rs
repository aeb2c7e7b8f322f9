//! Points of a range of λ, and its ends as numbers that people can type.
//!
//! In: ends, and the λ at which choices change. Out: a grid, ascending.
//!
//! A grid over the range lies where choices change: its steps are even in a blend of the number of
//! choices that have changed, three parts, and of log λ, one part. On one pool the last 3 % of the
//! queries take a third of the range on the log scale; even steps in log λ would spend ten of 32 points
//! there.

/// What part of a step is choices that change; the rest is log λ.
const CHANGES: f64 = 0.75;
/// Halvings that find a point: as many as a double has bits.
const HALVINGS: usize = 53;
/// A narrower range is widened to this ratio, about its geometric mean.
const LEAST_RATIO: f64 = 2.0;

/// Points from `low` to `high`, closer where more of the ascending `steps` lie.
pub fn spread(low: f64, high: f64, points: usize, steps: &[f64]) -> Vec<f64> {
    let changed = |lam: f64| steps.partition_point(|s| *s <= lam) as f64;
    let (start, all) = (changed(low), changed(high) - changed(low));
    let (log_low, width) = (libm::log(low), libm::log(high) - libm::log(low));
    let weight = if all > 0.0 { CHANGES } else { 0.0 };
    let passed = |part: f64| {
        let lam = libm::exp(log_low + part * width);
        weight * (changed(lam) - start) / all.max(1.0) + (1.0 - weight) * part
    };
    let point = |i: usize| {
        let (mut a, mut b) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (a + b);
            if passed(middle) * (points - 1) as f64 >= i as f64 {
                b = middle;
            } else {
                a = middle;
            }
        }
        libm::exp(log_low + b * width)
    };
    let inner = (1..points - 1).map(point);
    std::iter::once(low).chain(inner).chain(std::iter::once(high)).collect()
}

/// The same range, or a wider one where it is too narrow to hold a grid.
pub fn apart(low: f64, high: f64, notes: &mut Vec<String>) -> (f64, f64) {
    if high >= low * LEAST_RATIO {
        return (low, high);
    }
    notes.push(format!("widened to a ratio of {LEAST_RATIO}"));
    let (middle, half) = ((low * high).sqrt(), LEAST_RATIO.sqrt());
    (middle / half, middle * half)
}

/// Cut to the limits, and to three digits inwards where that leaves a range.
pub fn within(low: f64, high: f64, limits: (f64, f64), notes: &mut Vec<String>) -> (f64, f64) {
    let cut = |x: f64| x.clamp(limits.0, limits.1);
    let (mut a, mut b) = (cut(low), cut(high));
    if (a, b) != (low, high) {
        notes.push(format!(
            "cut to {:e} to {:e}, which single precision can learn",
            limits.0, limits.1
        ));
        if b < a * LEAST_RATIO {
            (a, b) = if a > 1.0 {
                (limits.1 / LEAST_RATIO, limits.1)
            } else {
                (limits.0, limits.0 * LEAST_RATIO)
            };
        }
    }
    (rounded(a, true), rounded(b, false))
}

/// Three digits of a positive number, not below it (`up`) or not above it.
pub fn rounded(x: f64, up: bool) -> f64 {
    let parse = |text: String| text.parse::<f64>().unwrap_or(x);
    let text = format!("{x:.2e}");
    let power: i32 = text.rsplit('e').next().and_then(|e| e.parse().ok()).unwrap_or(0);
    let near = parse(text);
    let step = parse(format!("1e{}", power - 2));
    match (up, near < x, near > x) {
        (true, true, _) => parse(format!("{:.2e}", near + step)),
        (false, _, true) => parse(format!("{:.2e}", near - step)),
        _ => near,
    }
}
