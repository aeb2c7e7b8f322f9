//! What a request asks for, read from its body without changing a byte of it.
//!
//! In: the bytes of a chat completion, a completion or a Responses request. Out: an [`Ask`]: the model and where its name
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

/// Which endpoint a body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// `/v1/responses`.
    Responses,
    /// Any of them: `/v1/route`.
    Any,
}

impl Kind {
    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Responses => "responses",
            Self::Chat | Self::Any => "chat",
        }
    }

    /// Where an upstream takes such a body.
    pub fn path(self) -> &'static str {
        match self {
            Self::Completion => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Chat | Self::Any => "/v1/chat/completions",
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
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow)]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    previous_response_id: Option<&'a RawValue>,
    #[serde(borrow)]
    conversation: Option<&'a RawValue>,
    #[serde(borrow)]
    background: Option<&'a RawValue>,
}

impl Fields<'_> {
    /// Which endpoint the body is for, where that is not said.
    fn kind(&self) -> Kind {
        match (self.messages, self.prompt, self.input) {
            (Some(_), ..) => Kind::Chat,
            (None, None, Some(_)) => Kind::Responses,
            _ => Kind::Completion,
        }
    }

    /// A routed Responses request must not lean on what one server keeps: another may answer.
    fn check_stateless(&self) -> Result<(), Refusal> {
        let kept = [
            ("previous_response_id", self.previous_response_id),
            ("conversation", self.conversation),
            ("background", self.background),
        ];
        let given = |raw: &RawValue| !matches!(raw.get(), "null" | "false");
        match kept.into_iter().find(|(_, raw)| raw.is_some_and(given)) {
            None => Ok(()),
            Some((field, _)) => Err(Refusal::bad(
                "state_elsewhere",
                format!(
                    "body.{field}: expected none in a routed request, which any server may answer, got one; send the whole conversation as input, or name the model whose server keeps it"
                ),
            )),
        }
    }
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
        let target = Target::of(&name)?;
        let kind = if kind == Kind::Any { fields.kind() } else { kind };
        let texts = match kind {
            Kind::Chat | Kind::Any => messages::of_chat(fields.messages)?,
            Kind::Completion => messages::of_prompt(fields.prompt)?,
            Kind::Responses => messages::of_input(fields.input, fields.instructions)?,
        };
        if kind == Kind::Responses && matches!(target, Target::Routed { .. }) {
            fields.check_stateless()?;
        }
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
        let limit = match kind {
            Kind::Responses => fields.max_output_tokens,
            _ => fields.max_completion_tokens.or(fields.max_tokens),
        };
        let at = model.get().as_ptr() as usize - body.as_ptr() as usize;
        let model_at = at..at + model.get().len();
        let max_output_tokens = limit.and_then(|raw| raw.get().parse().ok());
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
mod tests;
