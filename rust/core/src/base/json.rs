//! JSON in which no key stands twice: readers differ on which of two values counts.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Parse; a key that stands twice in one object is an error that names it.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str::<Unique>(text).map(|unique| unique.0)
}

/// What is wrong with a text; where another writer's NaN or Infinity stands, that it is no number.
pub fn explained(text: &str, error: &serde_json::Error) -> String {
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default().as_bytes();
    // The column is that of the character, or of the one behind it.
    let from = error.column().saturating_sub(2).min(line.len());
    let near = String::from_utf8_lossy(&line[from..line.len().min(from + 10)]);
    match ["NaN", "Infinity"].iter().find(|word| near.contains(*word)) {
        Some(word) => format!("{word} at line {}, which is no JSON number", error.line()),
        None => error.to_string(),
    }
}

struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, x: bool) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_i64<E>(self, x: i64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_u64<E>(self, x: u64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_str<E>(self, x: &str) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some((key, Unique(value))) = entries.next_entry::<String, Unique>()? {
            if out.contains_key(&key) {
                let key: String = key.chars().take(60).collect();
                return Err(A::Error::custom(format!("the key {key:?} stands twice")));
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_once_reads_as_ever_and_what_is_said_twice_is_named() {
        for good in [
            "null",
            "[1, -2, 3.5e-7, true, \"é\"]",
            "{\"a\": {\"b\": []}, \"b\": 18446744073709551615}",
        ] {
            let plain: Value = serde_json::from_str(good).unwrap();
            assert_eq!(parse(good).unwrap(), plain);
        }
        for twice in ["{\"a\": 1, \"a\": 1}", "[{\"x\": {\"a\": 1, \"b\": 2, \"a\": 3}}]"] {
            assert!(parse(twice).unwrap_err().to_string().contains("\"a\" stands twice"));
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn what_is_no_number_is_named() {
        for (text, word) in [
            ("{\"a\": NaN}", "NaN at line 1, which is no JSON number"),
            ("[1,\n NaN]", "NaN at line 2, which"),
            ("{\"a\": -Infinity, \"b\": 1}", "Infinity at line 1, which"),
            ("[Infinity]", "Infinity at line 1, which"),
            ("NaN", "NaN at line 1, which"),
            ("{\"NaN\": 1, \"b\": oh}", "expected value at line 1 column"),
            ("", "EOF while parsing"),
            ("{\"é\": \"Infinity\"", "EOF while parsing"),
        ] {
            let told = explained(text, &parse(text).unwrap_err());
            assert!(told.contains(word), "{text}: {told}");
        }
    }
}
