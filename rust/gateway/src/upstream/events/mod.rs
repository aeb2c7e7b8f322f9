//! Server-sent events on their way through: unchanged, but known.
//!
//! In: bytes of a stream as they come. Out: the same bytes, cut at ends of events, and what the events
//! were: whether there was content, an error, the end, token counts.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// An event that does not end within this many bytes is none of a language model's.
const MAX_EVENT: usize = 1 << 20;

/// Token counts as an upstream reports them: in a chat or completion under the first names, in a
/// Responses answer under the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(clippy::struct_field_names)] // the API's names
pub struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl Usage {
    /// L_in.
    pub fn input(self) -> Option<u64> {
        self.prompt_tokens.or(self.input_tokens)
    }

    /// L_out.
    pub fn output(self) -> Option<u64> {
        self.completion_tokens.or(self.output_tokens)
    }
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing of an answer: a comment, a role.
    Empty,
    /// Part of an answer.
    Content,
    /// `[DONE]`, or `response.completed`.
    Done,
    /// An error where an answer was expected.
    Error,
    /// No event of this API.
    Garbage,
}

/// Complete events, and what the first of them that matters is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The events' bytes.
    pub bytes: Bytes,
    /// The first that is not empty; `Empty` where all are.
    pub event: Event,
}

/// Cuts a stream at ends of events.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // facts of a stream, each by itself
pub struct Events {
    rest: BytesMut,
    /// The last counts seen.
    pub usage: Option<Usage>,
    /// Whether `[DONE]` or a final event announced the end.
    announced: bool,
    /// Choices that were begun and that gave a reason to finish, a bit each.
    begun: u64,
    finished: u64,
    /// Whether an event told of an error.
    pub failed: bool,
    /// The last number of a Responses event; none in a stream of chunks.
    pub sequence: Option<u64>,
    /// Whether bytes have come: a byte order mark stands before all others.
    started: bool,
    /// Whether nothing in it can be read, as it is compressed: its bytes pass, and only its
    /// connection's end is known.
    pub opaque: bool,
}

impl Events {
    /// Of a stream that is compressed, or not.
    pub fn new(opaque: bool) -> Self {
        Self { opaque, ..Self::default() }
    }

    /// Take bytes; give those of events that are complete.
    ///
    /// `Err` where an event grows beyond any bound.
    pub fn push(&mut self, bytes: Bytes) -> Result<Option<Part>, ()> {
        if self.opaque {
            let event = if bytes.is_empty() { Event::Empty } else { Event::Content };
            return Ok(Some(Part { bytes, event }));
        }
        let whole = if self.rest.is_empty() && end_of_events(&bytes, 0) == Some(bytes.len()) {
            bytes // the usual case: one write, one or more whole events
        } else {
            let from = self.rest.len().saturating_sub(3);
            self.rest.extend_from_slice(&bytes);
            let Some(end) = end_of_events(&self.rest, from) else {
                return if self.rest.len() > MAX_EVENT { Err(()) } else { Ok(None) };
            };
            self.rest.split_to(end).freeze()
        };
        let event = self.look(&whole);
        Ok(Some(Part { bytes: whole, event }))
    }

    /// Whether the answer has told its end: announced it, or finished all of its choices.
    pub fn done(&self) -> bool {
        self.announced || (self.begun != 0 && self.begun == self.finished)
    }

    /// What stands after the last complete event.
    pub fn rest(&mut self) -> Bytes {
        self.rest.split().freeze()
    }

    /// Of the rest, when the stream has ended, what may be passed on: an event without its empty line.
    /// Anything else is the beginning of one.
    pub fn end(&mut self) -> Bytes {
        let rest = self.rest();
        if self.opaque {
            self.announced = true;
            return rest;
        }
        if self.look(&rest) == Event::Garbage { Bytes::new() } else { rest }
    }

    fn look(&mut self, bytes: &[u8]) -> Event {
        let mut first = Event::Empty;
        let mut note = |event: Event| {
            if first == Event::Empty {
                first = event;
            }
        };
        let bom = if self.started { None } else { bytes.strip_prefix(b"\xef\xbb\xbf") };
        self.started |= !bytes.is_empty();
        let (mut data, mut names_error) = (None::<Cow<str>>, false);
        // The end of the bytes ends an event, as an empty line does.
        for line in lines(bom.unwrap_or(bytes)).chain([&b""[..]]) {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    let mut event = self.event(data.trim());
                    // An error of words; one of JSON says so itself.
                    if names_error && event == Event::Garbage && !data.trim().starts_with('{') {
                        event = Event::Error;
                    }
                    self.failed |= event == Event::Error;
                    note(event);
                }
                names_error = false;
                continue;
            }
            let Ok(line) = std::str::from_utf8(line) else {
                note(Event::Garbage);
                continue;
            };
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "data" => {
                    data = Some(match data {
                        None => Cow::Borrowed(value),
                        Some(before) => Cow::Owned(format!("{before}\n{value}")),
                    });
                }
                "event" => names_error = value.trim() == "error",
                // A comment, or a field that readers pass over.
                _ if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) => {}
                _ => note(Event::Garbage),
            }
        }
        first
    }

    fn event(&mut self, data: &str) -> Event {
        if data == "[DONE]" {
            self.announced = true;
            return Event::Done;
        }
        // An array would do for a struct's fields.
        let object = Some(data).filter(|data| data.starts_with('{'));
        let chunk = object.and_then(|data| serde_json::from_str::<Chunk>(data).ok());
        let Some(chunk) = chunk else { return Event::Garbage };
        if let Some(kind) = chunk.kind.as_str().filter(|_| chunk.choices.is_empty()) {
            self.sequence = Some(chunk.sequence_number.or(self.sequence).unwrap_or(0));
            return self.typed(kind, &chunk);
        }
        if chunk.usage.is_some() {
            self.usage = chunk.usage;
        }
        if !chunk.error.is_null() {
            return Event::Error;
        }
        for choice in &chunk.choices {
            let bit = 1 << choice.index.as_u64().unwrap_or(0).min(63);
            self.begun |= bit;
            if choice.finish_reason.is_string() {
                self.finished |= bit;
            }
        }
        if chunk.choices.iter().any(Choice::has_content) { Event::Content } else { Event::Empty }
    }

    /// An event of the Responses API, which says its type.
    fn typed(&mut self, kind: &str, chunk: &Chunk) -> Event {
        let Some(what) = kind.strip_prefix("response.") else {
            return if kind == "error" { Event::Error } else { Event::Garbage };
        };
        match what {
            "created"
            | "queued"
            | "in_progress"
            | "output_item.added"
            | "content_part.added"
            | "reasoning_summary_part.added" => Event::Empty,
            "failed" | "cancelled" => Event::Error,
            "completed" | "incomplete" => {
                self.announced = true;
                self.usage = chunk.response.as_ref().and_then(|r| r.usage).or(self.usage);
                Event::Done
            }
            _ if chunk.delta.as_str() == Some("") => Event::Empty,
            // Text, arguments of a call, a search under way: the server is at work on the answer.
            _ => Event::Content,
        }
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    error: Value,
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default, deserialize_with = "usable")]
    usage: Option<Usage>,
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    sequence_number: Option<u64>,
    #[serde(default)]
    delta: Value,
    #[serde(default)]
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Response {
    #[serde(default, deserialize_with = "usable")]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: Value,
    #[serde(default)]
    delta: Value,
    #[serde(default)]
    text: Value,
    #[serde(default)]
    finish_reason: Value,
}

impl Choice {
    fn has_content(&self) -> bool {
        let said = |v: &Value| !v.is_null() && v.as_str() != Some("");
        let delta = self.delta.as_object();
        let delta = delta.is_some_and(|d| d.iter().any(|(key, v)| key != "role" && said(v)));
        delta || said(&self.text) || said(&self.finish_reason)
    }
}

/// Where the last complete event ends; events end with an empty line.
fn end_of_events(bytes: &[u8], from: usize) -> Option<usize> {
    let ends = |at: usize| {
        let seen = &bytes[..at];
        let empty_line = [&b"\n\n"[..], b"\n\r\n", b"\r\r"].iter().any(|end| seen.ends_with(end));
        at >= from && empty_line
    };
    (from..=bytes.len()).rev().find(|at| ends(*at))
}

/// Lines, ended by CR LF, LF or CR, as the format allows them all.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let Some(at) = bytes.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
            rest = None;
            return Some(bytes);
        };
        let (line, end) = bytes.split_at(at);
        rest = Some(end.strip_prefix(b"\r\n").unwrap_or(&end[1..]));
        Some(line)
    })
}

/// What an answer in one piece is.
pub fn look_at_whole(body: &[u8]) -> (Event, Option<Usage>) {
    #[derive(Deserialize)]
    struct Whole<'a> {
        /// Null is none.
        error: Option<IgnoredAny>,
        #[serde(borrow)]
        object: Option<&'a RawValue>,
        choices: Option<Vec<IgnoredAny>>,
        output: Option<Vec<IgnoredAny>>,
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return (Event::Garbage, None);
    }
    let Ok(whole) = serde_json::from_slice::<Whole>(body) else { return (Event::Garbage, None) };
    let answers = whole.choices.is_some_and(|c| !c.is_empty()) || whole.output.is_some();
    let is_error = |raw: &RawValue| {
        serde_json::from_str::<Cow<str>>(raw.get()).is_ok_and(|object| object == "error")
    };
    if !answers || whole.error.is_some() || whole.object.is_some_and(is_error) {
        return (Event::Error, None);
    }
    // As `usable` has it.
    let object = whole.usage.map(RawValue::get).filter(|text| text.starts_with('{'));
    (Event::Content, object.and_then(|text| serde_json::from_str(text).ok()))
}

/// Counts that are whole numbers; others tell nothing, and spoil no answer.
fn usable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Usage>, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(if value.is_object() { Usage::deserialize(value).ok() } else { None })
}

#[cfg(test)]
mod tests;
