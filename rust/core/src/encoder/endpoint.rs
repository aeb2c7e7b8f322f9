//! An encoder behind an OpenAI-compatible `/v1/embeddings`: what it is asked, and what its answer says.
//!
//! In: a text. Out: the body of the request; and from the body of the answer e(x), and how many tokens
//! the server says that the text had. Gateway and Python ask by these functions, so that one answer is the same bits in both.
//! A request holds one text: in a batch, padding may change the vectors. Every byte read is hostile.

use std::borrow::Cow;

use serde::Deserialize;

use crate::base::error::{Error, Result};
use crate::base::limits::MAX_WIDTH;

/// Characters that are sent of a text at most, unless the router's encoder says otherwise.
pub const MAX_CHARS: usize = 32_768;
/// A vector whose length is this near to 1 is taken as it is.
const UNIT: f64 = 1e-5;

/// What an endpoint says of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// e(x), as it came.
    pub vector: Vec<f32>,
    /// `usage.prompt_tokens`, where it says them.
    pub prompt_tokens: Option<u64>,
}

/// What is sent of a text: all of it, or both ends of one longer than `most` characters.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    let end = (most / 2).max(1);
    // A character has at least one byte.
    if text.len() <= 2 * end {
        return Cow::Borrowed(text);
    }
    let chars = text.chars().count();
    if chars <= 2 * end {
        return Cow::Borrowed(text);
    }
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    Cow::Owned(format!("{} {}", &text[..at(end)], &text[at(chars - end)..]))
}

/// The body of a request.
pub fn question(model: &str, text: &str) -> String {
    serde_json::json!({"model": model, "input": text, "encoding_format": "float"}).to_string()
}

#[derive(Deserialize)]
struct Body {
    data: Vec<Item>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Item {
    embedding: Vec<f64>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
}

fn wrong(expected: &str, got: impl ToString) -> Error {
    Error::argument("embeddings endpoint", expected, got)
}

/// What an answer holds that is none of [`Body`]; never its words, which may be the prompt's.
fn described(bytes: &[u8]) -> &'static str {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return "no JSON" };
    if value.get("error").is_some() {
        return "an error";
    }
    match value.get("data").map(|d| d.get(0).and_then(|item| item.get("embedding"))) {
        None => "JSON without data",
        Some(Some(serde_json::Value::String(_))) => {
            "a string (base64, perhaps: the server does not follow encoding_format \"float\")"
        }
        Some(Some(serde_json::Value::Array(_))) => "an array with other values than numbers",
        Some(_) => "data without an embedding",
    }
}

/// Read the body of an answer to one text; `width` is d, where it is known.
pub fn answer(bytes: &[u8], width: Option<usize>) -> Result<Embedded> {
    let expected = "{\"data\": [{\"embedding\": [numbers]}]}";
    let body: Body =
        serde_json::from_slice(bytes).map_err(|_| wrong(expected, described(bytes)))?;
    let [item] = &body.data[..] else {
        return Err(wrong("one embedding for one text", body.data.len()));
    };
    let vector: Vec<f32> = item.embedding.iter().map(|x| *x as f32).collect();
    let good = match width {
        Some(d) => vector.len() == d,
        None => (1..=MAX_WIDTH).contains(&vector.len()),
    };
    if !good {
        let expected =
            width.map_or(format!("1 to {MAX_WIDTH} numbers"), |d| format!("{d} numbers"));
        return Err(wrong(&expected, vector.len()));
    }
    if vector.iter().any(|x| !x.is_finite()) || vector.iter().all(|x| *x == 0.0) {
        return Err(wrong("finite numbers, not all of them 0", "others"));
    }
    let prompt_tokens = body.usage.and_then(|u| u.prompt_tokens).filter(|n| *n > 0);
    Ok(Embedded { vector, prompt_tokens })
}

/// |x|, summed in order.
fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

/// Whether a vector has unit length.
pub(crate) fn is_unit(vector: &[f32]) -> bool {
    (length(vector) - 1.0).abs() <= UNIT
}

/// The vector at unit length; one that has it already keeps its bits.
pub fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let by = length(&vector);
    if (by - 1.0).abs() > UNIT {
        for x in &mut vector {
            *x = (f64::from(*x) / by) as f32;
        }
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_ends() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abc efg");
        assert_eq!(cut("äöüßéñç", 6), "äöü éñç", "characters, not bytes");
        assert_eq!(cut("äöü", 4), "äöü", "six bytes, three characters");
    }

    #[test]
    fn an_answer_is_read_or_its_fault_is_named() {
        let said = |text: &str| answer(text.as_bytes(), Some(2));
        let good =
            said(r#"{"data":[{"index":0,"embedding":[0.6,-8e-1]}],"usage":{"prompt_tokens":3}}"#);
        assert_eq!(good.unwrap(), Embedded { vector: vec![0.6, -0.8], prompt_tokens: Some(3) });
        for (text, word) in [
            ("", "no JSON"),
            ("<html>", "no JSON"),
            ("{}", "JSON without data"),
            (r#"{"error": {"message": "the prompt"}}"#, "an error"),
            (r#"{"data": []}"#, "one embedding for one text, got 0"),
            (r#"{"data": [{"embedding": [1, 0]}, {"embedding": [1, 0]}]}"#, "got 2"),
            (r#"{"data": [{"embedding": "AACAPwAAAAA="}]}"#, "base64"),
            (r#"{"data": [{"embedding": [1, "0"]}]}"#, "other values than numbers"),
            (r#"{"data": [{"embedding": [1, null]}]}"#, "other values than numbers"),
            (r#"{"data": [{"embedding": [NaN, 1]}]}"#, "no JSON"),
            (r#"{"data": [{"embedding": [1e300, 1]}]}"#, "finite"),
            (r#"{"data": [{"embedding": [0, 0]}]}"#, "not all of them 0"),
            (r#"{"data": [{"embedding": [1]}]}"#, "2 numbers, got 1"),
            (r#"{"data": [{"embedding": [1, 2, 3]}]}"#, "2 numbers, got 3"),
            (r#"{"data": [{}]}"#, "data without an embedding"),
        ] {
            let words = said(text).unwrap_err().to_string();
            assert!(words.contains(word), "{text}: {words}");
            assert!(!words.contains("the prompt"), "{words}");
        }
        assert!(answer(br#"{"data": [{"embedding": []}]}"#, None).is_err());
    }

    #[test]
    fn a_unit_vector_keeps_its_bits_and_another_gets_its_length() {
        let unit = vec![0.6_f32, 0.8];
        assert_eq!(normalised(unit.clone()), unit);
        assert_eq!(normalised(vec![3.0, 4.0]), [0.6, 0.8]);
    }
}
