//! What a model reads of a request beside the texts of its turns: it counts as input, and is not embedded.
//!
//! In: JSON as it came. Out: texts to count, among [`Texts::all`]: the calls of tools that a turn holds, and the
//! schemas of tools and of the answer as compact JSON. `cr2fast.integrations.texts` counts the same.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::messages::{Texts, elements, is_object, is_string, once};
use crate::refusal::Refusal;

/// A function that an assistant's turn called, or another tool.
#[derive(Deserialize)]
struct Called<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// One of `tool_calls`.
#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    function: Option<&'a RawValue>,
    #[serde(borrow)]
    custom: Option<&'a RawValue>,
}

/// The shape of an answer: `response_format`, or `format` of a Responses request's `text`.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(borrow)]
    json_schema: Option<&'a RawValue>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

/// A part of a summary or of a content of reasoning.
#[derive(Deserialize)]
struct Thought<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Settings<'a> {
    #[serde(borrow)]
    format: Option<&'a RawValue>,
}

impl Texts {
    /// Count a value: a string by what it says, anything else by its JSON.
    pub(super) fn count(&mut self, value: Option<&RawValue>) {
        let Some(value) = value else { return };
        let said = is_string(value).then(|| serde_json::from_str(value.get()).ok()).flatten();
        self.all.push(said.unwrap_or_else(|| compact(value.get())));
    }

    /// Count a list, of tools or of documents, unless it is empty.
    pub(super) fn count_list(&mut self, list: Option<&RawValue>) {
        let held = |raw: &&RawValue| elements(raw).is_some_and(|items| !items.is_empty());
        self.count(list.filter(held));
    }

    /// Count the texts of what a model thought.
    pub(super) fn count_parts(&mut self, parts: Option<&RawValue>) {
        for part in parts.and_then(elements).unwrap_or_default() {
            let part = serde_json::from_str::<Thought>(part.get());
            self.count(part.ok().and_then(|part| part.text).filter(|raw| is_string(raw)));
        }
    }

    /// Count the calls of an assistant's turn.
    pub(super) fn count_calls(
        &mut self,
        calls: Option<&RawValue>,
        at: &str,
    ) -> Result<(), Refusal> {
        for (k, call) in calls.and_then(elements).unwrap_or_default().into_iter().enumerate() {
            if !is_object(call) {
                continue;
            }
            let place = || format!("{at}.tool_calls[{k}]");
            let call: Call = once(call, place)?;
            self.count_call(call.function, || format!("{}.function", place()))?;
            self.count_call(call.custom, || format!("{}.custom", place()))?;
        }
        Ok(())
    }

    /// Count one call: what it is of, and with which arguments.
    pub(super) fn count_call(
        &mut self,
        call: Option<&RawValue>,
        place: impl Fn() -> String,
    ) -> Result<(), Refusal> {
        let Some(call) = call.filter(|raw| is_object(raw)) else { return Ok(()) };
        let Called { name, arguments, input } = once(call, place)?;
        for value in [name, arguments, input] {
            self.count(value);
        }
        Ok(())
    }

    /// Count the schema that an answer is to have.
    pub(super) fn count_shape(
        &mut self,
        shape: Option<&RawValue>,
        at: &str,
    ) -> Result<(), Refusal> {
        let Some(raw) = shape.filter(|raw| is_object(raw)) else { return Ok(()) };
        let shape: Shape = once(raw, || at.into())?;
        self.count(Some(raw).filter(|_| shape.json_schema.or(shape.schema).is_some()));
        Ok(())
    }

    /// The same of `text` of a Responses request.
    pub(super) fn count_settings(&mut self, text: Option<&RawValue>) -> Result<(), Refusal> {
        let Some(raw) = text.filter(|raw| is_object(raw)) else { return Ok(()) };
        let settings: Settings = once(raw, || "text".into())?;
        self.count_shape(settings.format, "text.format")
    }
}

/// JSON without the white space between its values, and with characters in place of what escapes need not be.
///
/// One request counts the same however its client writes JSON.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('"') {
        push_spaceless(&mut out, &rest[..at]);
        let length = string_length(&rest.as_bytes()[at..]);
        let string = &rest[at..at + length];
        rest = &rest[at + length..];
        let plain =
            if string.contains('\\') { serde_json::from_str::<String>(string).ok() } else { None };
        match plain.and_then(|plain| serde_json::to_string(&plain).ok()) {
            Some(written) => out.push_str(&written),
            None => out.push_str(string),
        }
    }
    push_spaceless(&mut out, rest);
    out
}

fn push_spaceless(out: &mut String, json: &str) {
    out.extend(json.split([' ', '\t', '\n', '\r']));
}

/// Bytes of the JSON string at the beginning, quotes included.
fn string_length(json: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_compact_however_it_came() {
        for (json, same) in [
            (r#"{ "a" : [ 1.50, -2e+3 , true ] }"#, r#"{"a":[1.50,-2e+3,true]}"#),
            ("[\n\t{}\r\n]", "[{}]"),
            (r#""two  words""#, r#""two  words""#),
            (r#"["\u0e01\ud83d\ude42", "\u00e9"]"#, "[\"ก🙂\",\"é\"]"),
            (r#"{"\"": "\\", "b\/": "\n\u0001"}"#, r#"{"\"":"\\","b/":"\n\u0001"}"#),
            (r#"["\ud800 \u0e01"]"#, r#"["\ud800 \u0e01"]"#),
        ] {
            assert_eq!(compact(json), same, "{json}");
        }
        let deep = format!("{}\"a\"{}", "[ ".repeat(100_000), " ]".repeat(100_000));
        assert_eq!(compact(&deep).len(), 200_003);
        for torn in ["\"", "\"\\", "[\"a", "\"é\\"] {
            assert_eq!(compact(torn), torn, "never a panic");
        }
    }
}
