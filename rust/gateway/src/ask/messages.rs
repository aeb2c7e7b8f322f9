//! What of a request is embedded: the last user turn of a chat or of a Responses input, or the prompt of
//! a completion.
//!
//! In: JSON as it came. Out: [`Texts`]. The same strings as `cr2fast.encoders.messages` makes of the
//! same JSON (`tests/contract/test_gateway.py` compares them).

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::refusal::Refusal;

/// The texts of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// What is embedded; none where there is no text in the last user turn.
    pub embedded: Option<String>,
    /// Every text, for counting tokens, with what [`super::beside`] counts.
    pub all: Vec<String>,
    /// Whether something other than text came too: an image, audio, a file.
    pub other_media: bool,
}

impl Texts {
    /// The text to decide by; none where the models would see more than text.
    pub fn routable(&self) -> Option<&str> {
        self.embedded.as_deref().filter(|_| !self.other_media)
    }

    /// Bytes of all texts.
    pub fn len(&self) -> usize {
        self.all.iter().map(String::len).sum()
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    /// An answer that was spoken, by the id under which a server keeps it.
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    input_audio: Option<&'a RawValue>,
    #[serde(borrow)]
    file: Option<&'a RawValue>,
}

impl Part<'_> {
    /// Whether it brings something beside its text, whatever type it says it is.
    fn has_media(&self) -> bool {
        [self.image_url, self.input_audio, self.file].iter().any(Option::is_some)
    }
}

/// An item of a Responses input.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    summary: Option<&'a RawValue>,
}

/// Types of parts that are text, in a chat and in a Responses input.
const CHAT: [&str; 1] = ["text"];
const RESPONSES: [&str; 2] = ["input_text", "output_text"];

/// Texts of `messages`; anything that is no list of messages has none.
pub fn of_chat(messages: Option<&RawValue>) -> Result<Texts, Refusal> {
    let mut texts = Texts::default();
    let Some(turns) = messages.and_then(elements) else { return Ok(texts) };
    if turns.iter().any(|turn| !is_object(turn)) {
        return Ok(texts);
    }
    let mut last_user = None;
    for (i, turn) in turns.iter().enumerate() {
        let turn: Turn = once(turn, || format!("messages[{i}]"))?;
        let place = || format!("messages[{i}].content");
        let found = of_content(turn.content, &CHAT, &place, &mut texts)?;
        texts.other_media |= turn.audio.is_some();
        for text in [turn.refusal, turn.reasoning_content] {
            texts.count(text);
        }
        texts.count_calls(turn.tool_calls, &format!("messages[{i}]"))?;
        texts.count_call(turn.function_call, || format!("messages[{i}].function_call"))?;
        if is(turn.role, "user") {
            last_user = Some(found);
        }
    }
    texts.embedded = last_user.flatten();
    Ok(texts)
}

/// Texts of `prompt`: a string, or a list of one string; several are counted, and decide nothing.
pub fn of_prompt(prompt: Option<&RawValue>) -> Result<Texts, Refusal> {
    let mut texts = Texts::default();
    let Some(prompt) = prompt else { return Ok(texts) };
    let single = match elements(prompt).as_deref() {
        None => Some(prompt),
        Some([one]) => Some(*one),
        Some(several) => {
            for one in several.iter().filter(|raw| is_string(raw)) {
                texts.count(Some(one));
            }
            None
        }
    };
    let Some(single) = single.filter(|raw| is_string(raw)) else { return Ok(texts) };
    let text = string(single, || "prompt".into())?;
    texts.all.push(text.clone());
    texts.embedded = Some(text);
    Ok(texts)
}

/// Texts of `input`, a string or items, and of `instructions`.
pub fn of_input(
    input: Option<&RawValue>,
    instructions: Option<&RawValue>,
) -> Result<Texts, Refusal> {
    let mut texts = Texts::default();
    if let Some(raw) = instructions.filter(|raw| is_string(raw)) {
        texts.all.push(string(raw, || "instructions".into())?);
    }
    let Some(input) = input else { return Ok(texts) };
    if is_string(input) {
        let text = string(input, || "input".into())?;
        texts.all.push(text.clone());
        texts.embedded = Some(text);
        return Ok(texts);
    }
    let Some(items) = elements(input) else { return Ok(texts) };
    if items.iter().any(|item| !is_object(item)) {
        return Ok(texts);
    }
    let mut last_user = None;
    for (i, raw) in items.iter().enumerate() {
        let item: Item = once(raw, || format!("input[{i}]"))?;
        let any = |words: &[&str]| words.iter().any(|word| is(item.kind, word));
        if item.kind.is_none() || any(&["message"]) {
            let place = || format!("input[{i}].content");
            let found = of_content(item.content, &RESPONSES, &place, &mut texts)?;
            if is(item.role, "user") {
                last_user = Some(found);
            }
        } else if any(&["function_call_output", "custom_tool_call_output"]) {
            let place = || format!("input[{i}].output");
            of_content(item.output, &RESPONSES, &place, &mut texts)?;
        } else if any(&["function_call", "custom_tool_call"]) {
            texts.count_call(Some(raw), || format!("input[{i}]"))?;
        } else if any(&["reasoning"]) {
            for parts in [item.summary, item.content] {
                texts.count_parts(parts);
            }
        } else {
            // A screenshot, a file search, a reference to what another server keeps.
            texts.other_media = true;
        }
    }
    texts.embedded = last_user.flatten();
    Ok(texts)
}

/// The text of one content, whose parts of the types `kinds` are text; all of it also goes to `texts`.
fn of_content(
    content: Option<&RawValue>,
    kinds: &[&str],
    place: &dyn Fn() -> String,
    texts: &mut Texts,
) -> Result<Option<String>, Refusal> {
    let Some(content) = content else { return Ok(None) };
    if is_string(content) {
        let text = string(content, place)?;
        texts.all.push(text.clone());
        return Ok(Some(text));
    }
    // One part without a list around it is no text that the API knows.
    texts.other_media |= is_object(content);
    let mut found = Vec::new();
    for (k, part) in elements(content).unwrap_or_default().into_iter().enumerate() {
        if !is_object(part) {
            continue;
        }
        let place = || format!("{}[{k}]", place());
        let part: Part = once(part, place)?;
        texts.other_media |= part.has_media();
        if !kinds.iter().any(|kind| is(part.kind, kind)) {
            let refused = is(part.kind, "refusal");
            texts.other_media |= !refused;
            texts.count(part.refusal.filter(|_| refused));
        } else if let Some(text) = part.text.filter(|raw| is_string(raw)) {
            found.push(string(text, place)?);
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    let joined = found.join("\n");
    texts.all.push(joined.clone());
    Ok(Some(joined))
}

fn first(raw: &RawValue) -> u8 {
    raw.get().as_bytes().first().copied().unwrap_or(b' ')
}

pub(super) fn is_object(raw: &RawValue) -> bool {
    first(raw) == b'{'
}

pub(super) fn is_string(raw: &RawValue) -> bool {
    first(raw) == b'"'
}

fn is(raw: Option<&RawValue>, word: &str) -> bool {
    let text = raw.map(RawValue::get);
    text.is_some_and(|text| serde_json::from_str::<String>(text).is_ok_and(|s| s == word))
}

pub(super) fn elements(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}

/// An object whose fields stand once each.
pub(super) fn once<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    place: impl Fn() -> String,
) -> Result<T, Refusal> {
    serde_json::from_str(raw.get()).map_err(|_| {
        let words = format!("body.{}: expected each field once, got one of them again", place());
        Refusal::bad("field_repeated", words)
    })
}

fn string(raw: &RawValue, place: impl Fn() -> String) -> Result<String, Refusal> {
    serde_json::from_str(raw.get()).map_err(|_| {
        let words = format!(
            "body.{}: expected text that UTF-8 can hold, got half of a surrogate pair",
            place()
        );
        Refusal::bad("text_not_unicode", words)
    })
}
