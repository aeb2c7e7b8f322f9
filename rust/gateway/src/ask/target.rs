//! Who is to answer: the `model` of a request.
//!
//! In: the name. Out: a [`Target`]: routed, at the point that the name gives, or one real model.

use crate::refusal::Refusal;

/// The name that asks for routing.
const ROUTED: &str = "cr2fast";

/// Who is to answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Whoever the router chooses, at this point; what is not given is the configuration's.
    Routed {
        /// λ.
        lam: Option<f64>,
        /// α.
        alpha: Option<f64>,
    },
    /// This model.
    Model(String),
}

impl Target {
    /// Read `cr2fast`, `cr2fast:lam=0.3,alpha=0.02`, or a model's name.
    pub fn of(name: &str) -> Result<Self, Refusal> {
        let (mut lam, mut alpha) = (None, None);
        if name == ROUTED {
            return Ok(Self::Routed { lam, alpha });
        }
        let Some(point) = name.strip_prefix(ROUTED).and_then(|rest| rest.strip_prefix(':')) else {
            return Ok(Self::Model(name.into()));
        };
        for setting in point.split(',') {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            let slot = match key.trim() {
                "lam" => &mut lam,
                "alpha" => &mut alpha,
                _ => {
                    return Err(bad(format!(
                        "expected \"cr2fast:lam=NUMBER,alpha=NUMBER\", got the setting {:?}",
                        short(key)
                    )));
                }
            };
            if slot.is_some() {
                return Err(bad(format!("expected {} once, got it twice", key.trim())));
            }
            *slot = Some(point_value(key.trim(), value)?);
        }
        Ok(Self::Routed { lam, alpha })
    }
}

/// A number of an operating point.
pub fn point_value(key: &str, value: &str) -> Result<f64, Refusal> {
    match value.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(bad(format!("{key}: expected a positive number, got {:?}", short(value)))),
    }
}

fn bad(words: String) -> Refusal {
    Refusal::bad("operating_point", format!("model: {words}"))
}

/// The first characters of a word that may be megabytes long.
fn short(word: &str) -> String {
    word.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_may_stand_in_the_name() {
        let routed = |lam, alpha| Target::Routed { lam, alpha };
        for (name, target) in [
            ("cr2fast", routed(None, None)),
            ("cr2fast:lam=0.3,alpha=0.02", routed(Some(0.3), Some(0.02))),
            ("cr2fast:alpha=5e-2, lam=1", routed(Some(1.0), Some(0.05))),
            ("cr2fast:lam=20", routed(Some(20.0), None)),
            ("cr2faster", Target::Model("cr2faster".into())),
            ("qwen:14b", Target::Model("qwen:14b".into())),
        ] {
            assert_eq!(Target::of(name).unwrap(), target, "{name}");
        }
    }

    #[test]
    fn other_points_are_refused() {
        for (name, words) in [
            ("cr2fast:", "the setting \"\""),
            ("cr2fast:lam", "lam: expected a positive number, got \"\""),
            ("cr2fast:lam=NaN", "got \"NaN\""),
            ("cr2fast:lam=-1", "got \"-1\""),
            ("cr2fast:alpha=inf", "got \"inf\""),
            ("cr2fast:lam=1,lam=2", "expected lam once"),
            ("cr2fast:beta=1", "the setting \"beta\""),
        ] {
            let refusal = Target::of(name).unwrap_err();
            assert!(refusal.message.contains(words), "{name}: {}", refusal.message);
        }
        let long = format!("cr2fast:{}=1", "x".repeat(1 << 20));
        assert!(Target::of(&long).unwrap_err().message.len() < 200);
    }
}
