//! What a request asks for, read from its body without changing a byte of it.
//!
//! In: the bytes of a chat completion, a completion or a Responses request. Out: an [`Ask`]: the model and where its name
//! stands, the text to embed, whether to stream, and what bounds the context.

mod beside;
mod messages;
mod target;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::heavy::drop_away;
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

/// Texts of a request that are worth the way to another thread to be dropped.
const MANY_TEXTS: usize = 1_000;

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
    pub texts: Arc<Texts>,
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
    #[serde(borrow)]
    n: Option<&'a RawValue>,
    #[serde(borrow)]
    modalities: Option<&'a RawValue>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_embeds: Option<&'a RawValue>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    functions: Option<&'a RawValue>,
    #[serde(borrow)]
    documents: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    suffix: Option<&'a RawValue>,
}

impl Fields<'_> {
    /// Which endpoint the body is for, where that is not said.
    fn kind(&self) -> Kind {
        // A prompt by its id is of a Responses request.
        let prompt = self.prompt.filter(|raw| !raw.get().starts_with('{'));
        match (self.messages, prompt, self.input) {
            (Some(_), ..) => Kind::Chat,
            (None, None, Some(_)) => Kind::Responses,
            (None, None, None) if self.prompt.is_some() => Kind::Responses,
            _ => Kind::Completion,
        }
    }

    /// Whether the models would see or give more than the text that is here: a prompt that a server
    /// keeps, embeddings in its place, or an answer to be spoken.
    fn is_beyond_text(&self, kind: Kind) -> bool {
        let only_text = |raw: &RawValue| {
            let words = serde_json::from_str::<Vec<String>>(raw.get());
            words.is_ok_and(|words| words.iter().all(|word| word == "text"))
        };
        self.modalities.is_some_and(|raw| !only_text(raw))
            || self.audio.is_some()
            || self.prompt_embeds.is_some()
            || (kind == Kind::Responses && self.prompt.is_some())
    }

    /// The texts of the turns, and what else the models read.
    fn texts(&self, kind: Kind) -> Result<Texts, Refusal> {
        let mut texts = match kind {
            Kind::Chat | Kind::Any => messages::of_chat(self.messages)?,
            Kind::Completion => messages::of_prompt(self.prompt)?,
            Kind::Responses => messages::of_input(self.input, self.instructions)?,
        };
        texts.other_media |= self.is_beyond_text(kind);
        match kind {
            Kind::Chat | Kind::Any => {
                for list in [self.tools, self.functions, self.documents] {
                    texts.count_list(list);
                }
                texts.count_shape(self.response_format, "response_format")?;
            }
            Kind::Completion => texts.count(self.suffix),
            Kind::Responses => {
                texts.count_list(self.tools);
                texts.count_settings(self.text)?;
            }
        }
        Ok(texts)
    }

    /// Output tokens at most: the greater one where two fields say it, since a server may read either.
    fn max_output_tokens(&self, kind: Kind) -> Result<Option<u64>, Refusal> {
        count("n", self.n, 1)?;
        let of = |field, raw| count(field, raw, u64::from(kind != Kind::Completion));
        if kind == Kind::Responses {
            return of("max_output_tokens", self.max_output_tokens);
        }
        let new = of("max_completion_tokens", self.max_completion_tokens)?;
        Ok(new.max(of("max_tokens", self.max_tokens)?))
    }

    /// A routed request must ask something: an empty text is one, no text or message at all is none, and no
    /// server takes it.
    fn check_asks(&self, kind: Kind, said: Kind) -> Result<(), Refusal> {
        let (field, expected, value, elsewhere) = match kind {
            Kind::Chat | Kind::Any => {
                ("messages", "a list of at least one message", self.messages, false)
            }
            Kind::Completion => {
                let expected = "a text, or a list of at least one";
                ("prompt", expected, self.prompt, self.prompt_embeds.is_some())
            }
            Kind::Responses => {
                let expected = "a text, or a list of at least one item";
                ("input", expected, self.input, self.prompt.is_some())
            }
        };
        let text = value.map(RawValue::get).unwrap_or_default();
        let got = match text.as_bytes().first() {
            _ if elsewhere => return Ok(()),
            Some(b'[') if text[1..].trim_ascii_start() != "]" => return Ok(()),
            Some(b'"') if field != "messages" => return Ok(()),
            Some(b'[') => "an empty list",
            Some(_) => "another kind of value",
            None => "none",
        };
        let words = match (said, value) {
            (Kind::Any, None) => "body: expected messages, a prompt or an input, got none".into(),
            _ => format!("body.{field}: expected {expected}, got {got}"),
        };
        Err(Refusal::bad("input_missing", words))
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
        let said = kind;
        let kind = if said == Kind::Any { fields.kind() } else { said };
        let texts = fields.texts(kind)?;
        let routed = matches!(target, Target::Routed { .. });
        if routed {
            fields.check_asks(kind, said)?;
        }
        if kind == Kind::Responses && routed {
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
        let max_output_tokens = match fields.max_output_tokens(kind) {
            Err(refusal) if routed => return Err(refusal),
            // The model's server is asked by name: its word on odd numbers counts.
            found => found.unwrap_or(None),
        };
        let at = model.get().as_ptr() as usize - body.as_ptr() as usize;
        let model_at = at..at + model.get().len();
        Ok(Self { body, model_at, target, texts: Arc::new(texts), stream, max_output_tokens })
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

impl Drop for Ask {
    fn drop(&mut self) {
        if self.texts.all.len() > MANY_TEXTS {
            drop_away(std::mem::take(&mut self.texts));
        }
    }
}

/// A count as the API takes one: a whole number, 5000.0 and 5e3 among them; null is none.
fn count(field: &'static str, raw: Option<&RawValue>, least: u64) -> Result<Option<u64>, Refusal> {
    let Some(text) = raw.map(RawValue::get) else { return Ok(None) };
    let whole = |x: &f64| x.is_finite() && x.fract() == 0.0 && *x >= 0.0;
    let float = || text.parse::<f64>().ok().filter(whole).map(|x| x as u64);
    let number = text.parse::<u64>().ok().or_else(float).filter(|n| *n >= least);
    number.map(Some).ok_or_else(|| {
        let words = format!(
            "body.{field}: expected a whole number, at least {least}, or null, got another value; leave it out for the model's own"
        );
        Refusal::bad("count", words)
    })
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
mod counted;
#[cfg(test)]
mod tests;
