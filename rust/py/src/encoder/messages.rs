//! What of a request is embedded: a text as it is, or the last user turn of a chat.
//!
//! In: a string, chat messages in the OpenAI format, or a list of these. Out: strings.

use pyo3::exceptions::{PyTypeError, PyUnicodeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyDict, PyMapping, PySequence, PyString};

use crate::base::errors::Cr2Error;

/// What takes a list of texts, where one text belongs.
pub const ROUTE_TEXTS: &str = "use route_texts for it";
pub const ROUTE_BATCH: &str = "call route_text for each, or embed them and use route_batch";
pub const SELECT_BATCH: &str = "call select_text for each, or embed them and use select_batch";
pub const EACH: &str = "call it for each";

/// What is wrong with one text where a list belongs.
pub const MANY: &str = "texts: expected a list of texts or chats, got one; use route_text for it";

/// The strings of an argument, and whether it was a list of texts: a text or a chat is one.
pub fn texts(obj: &Bound<'_, PyAny>) -> PyResult<(Vec<PyBackedStr>, bool)> {
    if obj.is_instance_of::<PyString>() || is_chat(obj) {
        return Ok((vec![text(obj, "text")?], false));
    }
    let Some(items) = sequence(obj) else {
        return Err(PyTypeError::new_err(format!(
            "texts: expected a string, chat messages, or a list of them, got {}",
            name(obj)
        )));
    };
    let mut out = Vec::with_capacity(items.len()?);
    for (i, item) in items.try_iter()?.enumerate() {
        out.push(text(&item?, &format!("texts[{i}]"))?);
    }
    Ok((out, true))
}

/// The one string of an argument; a list of texts is an error, which says what is there `instead`.
pub fn one_text(obj: &Bound<'_, PyAny>, instead: &str) -> PyResult<PyBackedStr> {
    match texts(obj)? {
        (mut strings, false) => Ok(strings.remove(0)),
        _ => Err(not_one(instead)),
    }
}

/// The error of a list where one text belongs.
pub fn not_one(instead: &str) -> PyErr {
    PyTypeError::new_err(format!(
        "text: expected one text or one chat, got a list of them; {instead}"
    ))
}

/// The string of one text or one chat; `what` names it in errors.
fn text(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<PyBackedStr> {
    if obj.is_instance_of::<PyString>() {
        return string(obj, what);
    }
    if !is_chat(obj) {
        return Err(PyTypeError::new_err(format!(
            "{what}: expected a string or a list of chat messages, got {}",
            name(obj)
        )));
    }
    let messages: Vec<Bound<'_, PyAny>> = obj.try_iter()?.collect::<PyResult<_>>()?;
    let mut roles = Vec::with_capacity(messages.len());
    for message in &messages {
        roles.push(field(message, "role")?);
    }
    let Some(last) = roles.iter().rposition(|role| role.eq("user").unwrap_or(false)) else {
        let short = |role: &Bound<'_, PyAny>| role.to_string().chars().take(40).collect::<String>();
        let roles = roles.iter().take(8).map(|role| format!("'{}'", short(role)));
        return Err(Cr2Error::new_err(format!(
            "{what}: expected a message with role 'user', got the roles [{}]",
            roles.collect::<Vec<_>>().join(", ")
        )));
    };
    let content = field(&messages[last], "content")?;
    if content.is_instance_of::<PyString>() {
        return string(&content, what);
    }
    let parts = texts_of_parts(&content, what)?;
    if parts.is_empty() {
        return Err(Cr2Error::new_err(format!(
            "{what}: expected text in the last user turn, got a content of type {} without any",
            name(&content)
        )));
    }
    joined(obj.py(), &parts, what)
}

/// What models read of all turns of a chat, however old, as the gateway counts it: a text per turn that has any,
/// and what assistants called, refused or thought; `None` of what is no chat.
pub fn turns(obj: &Bound<'_, PyAny>) -> PyResult<Option<Vec<PyBackedStr>>> {
    if obj.is_instance_of::<PyString>() || !is_chat(obj) {
        return Ok(None);
    }
    let mut out = Vec::new();
    for message in obj.try_iter()? {
        let message = message?;
        beside(&message, &mut out)?;
        let content = field(&message, "content")?;
        if content.is_instance_of::<PyString>() {
            out.push(string(&content, "text")?);
        } else {
            let parts = texts_of_parts(&content, "text")?;
            if !parts.is_empty() {
                out.push(joined(obj.py(), &parts, "text")?);
            }
        }
    }
    Ok(Some(out))
}

/// What a model reads of a turn beside its content.
fn beside(message: &Bound<'_, PyAny>, out: &mut Vec<PyBackedStr>) -> PyResult<()> {
    for key in ["refusal", "reasoning_content"] {
        count(&field(message, key)?, out)?;
    }
    for part in parts(&field(message, "content")?)? {
        if field(&part, "type")?.eq("refusal")? {
            count(&field(&part, "refusal")?, out)?;
        }
    }
    let mut called = vec![field(message, "function_call")?];
    for call in parts(&field(message, "tool_calls")?)? {
        called.extend([field(&call, "function")?, field(&call, "custom")?]);
    }
    for call in called.iter().filter(|call| call.cast::<PyMapping>().is_ok()) {
        for key in ["name", "arguments", "input"] {
            count(&field(call, key)?, out)?;
        }
    }
    Ok(())
}

/// A value to count: a string by what it says, anything else by its compact JSON.
fn count(value: &Bound<'_, PyAny>, out: &mut Vec<PyBackedStr>) -> PyResult<()> {
    if value.is_none() {
        return Ok(());
    }
    if value.is_instance_of::<PyString>() {
        out.push(string(value, "text")?);
        return Ok(());
    }
    let py = value.py();
    let options = PyDict::new(py);
    options.set_item("ensure_ascii", false)?;
    options.set_item("separators", (",", ":"))?;
    let json = py.import("json")?.call_method("dumps", (value,), Some(&options))?;
    out.push(string(&json, "text")?);
    Ok(())
}

/// The objects in a list; none of what is no list.
fn parts<'py>(list: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let Some(items) = sequence(list) else { return Ok(Vec::new()) };
    let objects = |item: &PyResult<Bound<'py, PyAny>>| {
        item.as_ref().map_or(true, |item| item.cast::<PyMapping>().is_ok())
    };
    items.try_iter()?.filter(objects).collect()
}

/// Refuse chats that hold more than text, which alone decides: the gateway does not route those by it either.
pub fn check_only_text(obj: &Bound<'_, PyAny>) -> PyResult<()> {
    if obj.is_instance_of::<PyString>() {
        return Ok(());
    }
    if is_chat(obj) {
        return check_turns(obj, "text");
    }
    for (i, item) in
        sequence(obj).map(|items| items.try_iter()).transpose()?.into_iter().flatten().enumerate()
    {
        let item = item?;
        if is_chat(&item) {
            check_turns(&item, &format!("texts[{i}]"))?;
        }
    }
    Ok(())
}

fn check_turns(chat: &Bound<'_, PyAny>, what: &str) -> PyResult<()> {
    for (k, message) in chat.try_iter()?.enumerate() {
        let message = message?;
        if let Some(got) = media_of(&message)? {
            return Err(Cr2Error::new_err(format!(
                "{what}: expected a chat of text, by which alone a router decides, got {got} in messages[{k}]; \
                 send such a chat to a model that reads it (the gateway and cr2fast.integrations take the edge), \
                 or pass the question's text alone"
            )));
        }
    }
    Ok(())
}

/// What a turn holds beside text, in words.
fn media_of(message: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if !field(message, "audio")?.is_none() {
        return Ok(Some("audio".into()));
    }
    let content = field(message, "content")?;
    if content.cast::<PyMapping>().is_ok() {
        return Ok(Some("a content that is one part, where a list of parts belongs,".into()));
    }
    for part in parts(&content)? {
        let kind = field(&part, "type")?;
        if !(kind.eq("text")? || kind.eq("refusal")?) {
            let kind: String = kind.repr()?.to_string().chars().take(40).collect();
            return Ok(Some(format!("a part of type {kind}")));
        }
        for key in ["image_url", "input_audio", "file"] {
            if !field(&part, key)?.is_none() {
                return Ok(Some(format!("a part with '{key}'")));
            }
        }
    }
    Ok(None)
}

/// The texts of a content that is a list of parts.
fn texts_of_parts(content: &Bound<'_, PyAny>, what: &str) -> PyResult<Vec<PyBackedStr>> {
    let mut out = Vec::new();
    for part in parts(content)? {
        if field(&part, "type")?.eq("text")? {
            let text = field(&part, "text")?;
            if text.is_instance_of::<PyString>() {
                out.push(string(&text, what)?);
            }
        }
    }
    Ok(out)
}

/// The parts of one content as the text that they are together.
fn joined(py: Python<'_>, parts: &[PyBackedStr], what: &str) -> PyResult<PyBackedStr> {
    let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
    string(PyString::new(py, &parts.join("\n")).as_any(), what)
}

fn field<'py>(message: &Bound<'py, PyAny>, key: &str) -> PyResult<Bound<'py, PyAny>> {
    message.call_method1("get", (key,))
}

/// Whether an argument is one list of messages, and not a list of texts or of chats.
fn is_chat(obj: &Bound<'_, PyAny>) -> bool {
    let Some(items) = sequence(obj) else { return false };
    let Ok(mut iter) = items.try_iter() else { return false };
    items.len().is_ok_and(|n| n > 0)
        && iter.all(|item| item.is_ok_and(|item| item.cast::<PyMapping>().is_ok()))
}

/// A sequence that is neither text nor bytes.
fn sequence<'a, 'py>(obj: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PySequence>> {
    if obj.is_instance_of::<PyString>() || obj.is_instance_of::<PyBytes>() {
        return None;
    }
    obj.cast::<PySequence>().ok()
}

fn string(obj: &Bound<'_, PyAny>, what: &str) -> PyResult<PyBackedStr> {
    obj.extract().map_err(|e: PyErr| {
        if e.is_instance_of::<PyUnicodeError>(obj.py()) {
            Cr2Error::new_err(format!("{what}: expected text that UTF-8 can hold, got {e}"))
        } else {
            e
        }
    })
}

fn name(obj: &Bound<'_, PyAny>) -> String {
    obj.get_type().name().map_or_else(|_| "another object".into(), |n| n.to_string())
}

/// The string to embed of one text or one chat; the rest as of :func:`texts_of`.
#[pyfunction]
pub fn text_of<'py>(py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    Ok(PyString::new(py, &text(value, "text")?))
}

/// The strings of one text or of many, and whether they were many.
///
/// Parameters
/// ----------
/// value : str, chat messages, or a sequence of these
///     Of chat messages the last user turn counts: the system prompt and earlier turns are much the
///     same in every request. A content is a string or a list of parts, of which those of type "text"
///     count.
///
/// Returns
/// -------
/// (list of str, bool)
///
/// Raises
/// ------
/// TypeError, Cr2Error
///     Something that is no text, named by its place; a chat without a user turn or without text.
#[pyfunction]
pub fn texts_of<'py>(
    py: Python<'py>,
    value: &Bound<'py, PyAny>,
) -> PyResult<(Vec<Bound<'py, PyString>>, bool)> {
    let (strings, many) = texts(value)?;
    Ok((strings.iter().map(|s| PyString::new(py, s)).collect(), many))
}
