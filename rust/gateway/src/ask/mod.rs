//! What a request asks for, read from its body without changing a byte of it.
//!
//! In: the bytes of a chat completion or a completion. Out: an [`Ask`]: the model and where its name
//! stands, the text to embed, whether to stream, and what bounds the context.

mod messages;
mod target;

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::refusal::Refusal;

pub use messages::Texts;
pub use target::{Target, point_value};

/// Which of the two endpoints a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// Either: `/v1/route`.
    Either,
}

impl Kind {
    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Chat | Self::Either => "chat",
        }
    }

    /// Where an upstream takes such a body.
    pub fn path(self) -> &'static str {
        match self {
            Self::Completion => "/v1/completions",
            Self::Chat | Self::Either => "/v1/chat/completions",
        }
    }
}

/// A body, read.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The body as it came.
    pub body: Bytes,
    /// Where the model's JSON string stands in it.
    model_at: Range<usize>,
    /// Who is to answer.
    pub target: Target,
    /// What is embedded and counted.
    pub texts: Texts,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Output tokens asked for at most.
    pub max_output_tokens: Option<u64>,
}

/// The fields that count. A field that stands twice is refused: the model server might read the other.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_completion_tokens: Option<&'a RawValue>,
}

impl Ask {
    /// Read a body.
    pub fn read(body: Bytes, kind: Kind) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(&body).map_err(|e| {
            no_json(format!("bytes that are no UTF-8 at offset {}", e.valid_up_to()))
        })?;
        if !text.trim_ascii_start().starts_with('{') {
            return Err(no_json(match text.trim_ascii_start().chars().next() {
                None => "an empty body".into(),
                Some('[') => "an array".to_string(),
                Some(_) => "something else".into(),
            }));
        }
        let fields: Fields = serde_json::from_str(text).map_err(|e| json_error(&e))?;
        let model = fields.model.ok_or_else(|| {
            Refusal::bad("model_missing", "body.model: expected \"cr2fast\" or a model's name, got none; GET /v1/models lists them")
        })?;
        let name: String = serde_json::from_str(model.get()).map_err(|_| {
            Refusal::bad(
                "model_not_text",
                "body.model: expected a string, got another kind of value",
            )
        })?;
        let texts = match kind {
            Kind::Chat => messages::of_chat(fields.messages)?,
            Kind::Either if fields.messages.is_some() => messages::of_chat(fields.messages)?,
            Kind::Completion | Kind::Either => messages::of_prompt(fields.prompt)?,
        };
        let stream = match fields.stream.map(RawValue::get) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                return Err(Refusal::bad(
                    "stream_not_boolean",
                    "body.stream: expected true or false, got another kind of value",
                ));
            }
        };
        let limit = fields.max_completion_tokens.or(fields.max_tokens);
        let at = model.get().as_ptr() as usize - body.as_ptr() as usize;
        let model_at = at..at + model.get().len();
        let max_output_tokens = limit.and_then(|raw| raw.get().parse().ok());
        let target = Target::of(&name)?;
        Ok(Self { body, model_at, target, texts, stream, max_output_tokens })
    }

    /// The body with another model's name in place of the one that came; every other byte stays.
    pub fn body_for(&self, model: &str) -> Bytes {
        let name = serde_json::Value::from(model).to_string();
        if self.body[self.model_at.clone()] == *name.as_bytes() {
            return self.body.clone();
        }
        let (before, after) = (&self.body[..self.model_at.start], &self.body[self.model_at.end..]);
        Bytes::from([before, name.as_bytes(), after].concat())
    }
}

fn no_json(got: String) -> Refusal {
    Refusal::bad("body_not_json", format!("body: expected a JSON object in UTF-8, got {got}"))
}

/// An error of the parser without the text that it may quote.
fn json_error(e: &serde_json::Error) -> Refusal {
    let place = format!("line {} column {}", e.line(), e.column());
    if e.is_data() {
        // Only a repeated field is left to be wrong: its name is one of ours.
        let words = e.to_string();
        let field = words.split('`').nth(1).unwrap_or("field");
        return Refusal::bad(
            "field_repeated",
            format!("body: expected each field once, got {field:?} again at {place}"),
        );
    }
    let what = if e.is_eof() { "text that ends too soon" } else { "text that is no JSON" };
    no_json(format!("{what}, at {place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Ask, Refusal> {
        Ask::read(Bytes::copy_from_slice(body.as_bytes()), Kind::Chat)
    }

    #[test]
    fn only_the_models_name_changes() {
        let body = r#" {"x": {"model": "deep"},  "model" : "cr2f\u0061st", "messages": [{"role":"user","content":"a"}], "y":1.0e3 } "#;
        let ask = read(body).unwrap();
        assert_eq!(ask.target, Target::Routed { lam: None, alpha: None });
        let expected = body.replace(r#""cr2f\u0061st""#, r#""a \"quoted\" name""#);
        assert_eq!(ask.body_for("a \"quoted\" name"), expected);
    }

    #[test]
    fn a_name_that_is_right_already_costs_no_copy() {
        let ask = read(r#"{"model":"small","messages":[]}"#).unwrap();
        assert_eq!(ask.body_for("small").as_ptr(), ask.body.as_ptr());
    }

    #[test]
    fn bodies_that_are_none_are_refused_without_quoting_them() {
        for (body, words) in [
            ("", "an empty body"),
            ("secret", "something else"),
            ("[\"secret\"]", "an array"),
            ("{\"secret\"", "ends too soon, at line 1 column 9"),
            ("{\"model\":\"secret\",}", "no JSON, at line 1 column"),
            ("{\"model\":\"a\",\"model\":\"b\"}", "\"model\" again"),
            ("{\"messages\":[]}", "body.model: expected"),
            ("{\"model\":3}", "body.model: expected a string"),
            ("{\"model\":\"a\",\"stream\":\"secret\"}", "body.stream: expected true or false"),
            ("{\"model\":\"\\ud800secret\"}", "body.model: expected a string"),
        ] {
            let refusal = read(body).unwrap_err();
            assert_eq!(refusal.status, 400, "{body}");
            assert!(refusal.message.contains(words), "{body}: {}", refusal.message);
            assert!(!refusal.message.contains("secret"), "{}", refusal.message);
        }
        let refusal =
            Ask::read(Bytes::from_static(b"{\"model\":\"\xff\"}"), Kind::Chat).unwrap_err();
        assert!(refusal.message.contains("no UTF-8 at offset 10"), "{}", refusal.message);
    }

    #[test]
    fn depth_is_no_weapon() {
        let body = format!("{{\"model\":\"a\",\"x\":{}", "[".repeat(200_000));
        assert_eq!(read(&body).unwrap_err().code, "body_not_json");
        let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let deep = nest(100_000);
        let body =
            format!("{{\"model\":\"a\",\"messages\":[{{\"role\":\"user\",\"content\":{deep}}}]}}");
        assert_eq!(read(&body).unwrap().texts.embedded, None);
    }

    #[test]
    fn bounds_of_the_context_are_read() {
        let ask = read(r#"{"model":"a","max_tokens":7,"stream":true}"#).unwrap();
        assert_eq!((ask.max_output_tokens, ask.stream), (Some(7), true));
        let ask = read(r#"{"model":"a","max_tokens":7,"max_completion_tokens":9}"#).unwrap();
        assert_eq!(ask.max_output_tokens, Some(9));
        assert_eq!(read(r#"{"model":"a","max_tokens":null}"#).unwrap().max_output_tokens, None);
    }
}
