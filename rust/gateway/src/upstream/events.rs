//! Server-sent events on their way through: unchanged, but known.
//!
//! In: bytes of a stream as they come. Out: the same bytes, cut at ends of events, and what the events
//! were: whether there was content, an error, the end, token counts.

use bytes::{Bytes, BytesMut};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

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
}

impl Events {
    /// Take bytes; give those of events that are complete.
    ///
    /// `Err` where an event grows beyond any bound.
    pub fn push(&mut self, bytes: Bytes) -> Result<Option<Part>, ()> {
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

    /// Of the rest, when the stream has ended, what may be passed on: an end without its empty line.
    /// Anything else is the beginning of an event.
    pub fn end(&mut self) -> Bytes {
        let rest = self.rest();
        let before = (self.announced, self.finished);
        let _ = self.look(&rest);
        let told = before != (self.announced, self.finished);
        if told || rest.iter().all(u8::is_ascii_whitespace) { rest } else { Bytes::new() }
    }

    fn look(&mut self, bytes: &[u8]) -> Event {
        let mut first = Event::Empty;
        for line in bytes.split(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(line).unwrap_or("no text");
            let line = line.strip_suffix('\r').unwrap_or(line);
            let Some(data) = line.strip_prefix("data:") else {
                let known = ["event:", "id:", "retry:", ":"].iter().any(|p| line.starts_with(p));
                if !known && !line.is_empty() && first == Event::Empty {
                    first = Event::Garbage;
                }
                continue;
            };
            let event = self.event(data.trim());
            self.failed |= event == Event::Error;
            if first == Event::Empty {
                first = event;
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
        at >= from && (seen.ends_with(b"\n\n") || seen.ends_with(b"\n\r\n"))
    };
    (from..=bytes.len()).rev().find(|at| ends(*at))
}

/// What an answer in one piece is.
pub fn look_at_whole(body: &[u8]) -> (Event, Option<Usage>) {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        error: Value,
        #[serde(default)]
        object: Value,
        #[serde(default)]
        choices: Option<Vec<IgnoredAny>>,
        #[serde(default)]
        output: Option<Vec<IgnoredAny>>,
        #[serde(default, deserialize_with = "usable")]
        usage: Option<Usage>,
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return (Event::Garbage, None);
    }
    let Ok(whole) = serde_json::from_slice::<Whole>(body) else { return (Event::Garbage, None) };
    let answers = whole.choices.is_some_and(|c| !c.is_empty()) || whole.output.is_some();
    if !answers || !whole.error.is_null() || whole.object.as_str() == Some("error") {
        return (Event::Error, None);
    }
    (Event::Content, whole.usage)
}

/// Counts that are whole numbers; others tell nothing, and spoil no answer.
fn usable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Usage>, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(if value.is_object() { Usage::deserialize(value).ok() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str =
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"é\"}}]}\r\n\r\n";
    const CALL: &str = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{}]}}]}\n\n";
    const ERROR: &str = "event: error\ndata: {\"error\":{\"message\":\"out of memory\"}}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"x\":1}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn one(text: &str) -> Event {
        Events::default().push(Bytes::copy_from_slice(text.as_bytes())).unwrap().unwrap().event
    }

    #[test]
    fn events_are_told_apart() {
        for (text, event) in [
            (ROLE, Event::Empty),
            (": ping\n\n", Event::Empty),
            (WORD, Event::Content),
            (CALL, Event::Content),
            ("data: {\"choices\":[{\"text\":\"a\"}]}\n\n", Event::Content),
            ("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", Event::Content),
            (ERROR, Event::Error),
            (USAGE, Event::Empty),
            (DONE, Event::Done),
            ("data: <html>\n\n", Event::Garbage),
            ("<html>\n\n", Event::Garbage),
            ("data: [1]\n\n", Event::Garbage),
        ] {
            assert_eq!(one(text), event, "{text}");
        }
        assert_eq!(one(&format!("{ROLE}{ERROR}{WORD}")), Event::Error);
        assert_eq!(
            Events::default().push(Bytes::from_static(b"\xff\n\n")).unwrap().unwrap().event,
            Event::Garbage
        );
    }

    #[test]
    fn events_of_a_responses_stream_say_their_type() {
        let typed = |kind: &str, more: &str| {
            format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":3{more}}}\n\n")
        };
        for (kind, more, event) in [
            ("response.created", ",\"response\":{\"error\":null}", Event::Empty),
            ("response.in_progress", "", Event::Empty),
            ("response.output_item.added", ",\"item\":{}", Event::Empty),
            ("response.output_text.delta", ",\"delta\":\"\"", Event::Empty),
            ("response.output_text.delta", ",\"delta\":\"hi\"", Event::Content),
            ("response.function_call_arguments.delta", ",\"delta\":\"{\"", Event::Content),
            ("response.reasoning_summary_text.delta", ",\"delta\":\"so\"", Event::Content),
            ("response.output_text.done", ",\"text\":\"\"", Event::Content),
            ("response.of_a_later_version", "", Event::Content),
            ("response.failed", ",\"response\":{\"error\":{}}", Event::Error),
            ("error", ",\"message\":\"x\"", Event::Error),
            ("thread.created", "", Event::Garbage),
        ] {
            assert_eq!(one(&typed(kind, more)), event, "{kind} {more}");
        }
        let mut events = Events::default();
        let usage = ",\"response\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":7}}";
        let part = events.push(typed("response.completed", usage).into()).unwrap().unwrap();
        assert_eq!((part.event, events.done(), events.sequence), (Event::Done, true, Some(3)));
        let usage = events.usage.unwrap();
        assert_eq!((usage.input(), usage.output()), (Some(5), Some(7)));
    }

    #[test]
    fn wherever_the_stream_is_cut_the_same_bytes_come_out_in_whole_events() {
        let stream = [ROLE, WORD, ": ping\n\n", CALL, USAGE, DONE].concat();
        for size in 1..stream.len() {
            let mut events = Events::default();
            let mut out = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                if let Some(part) = events.push(Bytes::copy_from_slice(piece)).unwrap() {
                    assert!(part.bytes.ends_with(b"\n\n") || part.bytes.ends_with(b"\n\r\n"));
                    out.extend_from_slice(&part.bytes);
                }
            }
            assert_eq!(events.rest(), "", "{size}");
            assert_eq!(out, stream.as_bytes(), "{size}");
            assert!(events.done());
            let usage = events.usage.unwrap();
            assert_eq!((usage.input(), usage.output()), (Some(5), Some(7)));
        }
    }

    fn choice(index: u8, reason: &str) -> String {
        format!("data: {{\"choices\":[{{\"index\":{index},\"finish_reason\":{reason}}}]}}\n\n")
    }

    #[test]
    fn an_end_is_announced_and_half_an_event_is_not_passed_on() {
        for (stream, done, rest) in [
            ([WORD, "data: [DONE]"].concat(), true, "data: [DONE]"),
            ([WORD, "data: {\"id"].concat(), false, ""),
            ([WORD, "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n"].concat(), true, ""),
            (WORD.into(), false, ""),
            (format!("{}{}", choice(0, "null"), choice(1, "\"stop\"")), false, ""),
            (format!("{}{}", choice(1, "\"length\""), choice(0, "\"stop\"")), true, ""),
        ] {
            let mut events = Events::default();
            let _ = events.push(Bytes::from(stream.clone())).unwrap();
            assert_eq!(events.end(), rest, "{stream}");
            assert_eq!(events.done(), done, "{stream}");
        }
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        let mut events = Events::default();
        let piece = Bytes::from(vec![b'x'; 1 << 16]);
        let pieces = (0..100).find(|_| events.push(piece.clone()).is_err()).unwrap();
        assert_eq!(pieces, MAX_EVENT / piece.len());
    }

    #[test]
    fn answers_in_one_piece_are_told_apart() {
        let event = |body: &str| look_at_whole(body.as_bytes()).0;
        assert_eq!(event("{\"choices\":[{}],\"error\":null}"), Event::Content);
        assert_eq!(event("{\"output\":[]}"), Event::Content);
        for none in [
            "\"choices\":[]",
            "\"error\":null",
            "\"detail\":\"oom\"",
            "\"object\":\"error\",\"choices\":[{}]",
        ] {
            assert_eq!(event(&format!("{{{none}}}")), Event::Error, "{none}");
        }
        for odd in ["3.0", "-1", "\"3\"", "1e300"] {
            let body = format!("{{\"choices\":[{{}}],\"usage\":{{\"prompt_tokens\":{odd}}}}}");
            assert_eq!(look_at_whole(body.as_bytes()), (Event::Content, None), "{odd}");
        }
        assert_eq!(event("{\"error\":{\"message\":\"x\"}}"), Event::Error);
        assert_eq!(event("{\"error\":\"x\"}"), Event::Error);
        for garbage in ["", "[]", "<html>", "{\"choices\":"] {
            assert_eq!(event(garbage), Event::Garbage, "{garbage}");
        }
        let counted = USAGE.replace("[]", "[{}]");
        let (_, usage) = look_at_whole(counted.trim_start_matches("data:").trim().as_bytes());
        assert_eq!(usage.unwrap().output(), Some(7));
    }
}
