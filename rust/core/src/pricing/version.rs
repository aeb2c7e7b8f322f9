//! The versions of `cost_table.json`, and how its faults are named.

use serde_json::Value;

use crate::base::error::{Error, Result};

/// The schemas this build reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Seconds and joules.
    One,
    /// Seconds, joules and dollars.
    Two,
}

impl Version {
    /// Its name in the file.
    pub fn schema(self) -> &'static str {
        match self {
            Self::One => "cr2fast.cost_table/1",
            Self::Two => "cr2fast.cost_table/2",
        }
    }

    /// What it calls the shares ω.
    pub fn shares(self) -> &'static str {
        match self {
            Self::One => "weights",
            Self::Two => "shares",
        }
    }

    /// The version that a file names.
    pub fn of(raw: &Value) -> Result<Self> {
        let schema = raw.get("schema");
        [Self::One, Self::Two]
            .into_iter()
            .find(|v| schema.and_then(Value::as_str) == Some(v.schema()))
            .ok_or_else(|| {
                let got = match schema {
                    None => "no such field".into(),
                    Some(Value::String(s)) => {
                        format!("{:?}", s.chars().take(60).collect::<String>())
                    }
                    Some(_) => "no string".into(),
                };
                let [one, two] = [Self::One.schema(), Self::Two.schema()];
                bad("schema", format!("\"{one}\" or \"{two}\""), got)
            })
    }
}

/// Longest part of an error's message: a hostile table's names may be megabytes long.
const SHOWN: usize = 400;

/// An [`Error::CostTable`] from anything printable, cut to a bounded length.
pub fn bad(field: impl Into<String>, expected: impl Into<String>, got: impl ToString) -> Error {
    let cut = |mut s: String| {
        if let Some((at, _)) = s.char_indices().nth(SHOWN) {
            s.truncate(at);
            s.push('…');
        }
        s
    };
    Error::CostTable {
        field: cut(field.into()),
        expected: cut(expected.into()),
        got: cut(got.to_string()),
    }
}
