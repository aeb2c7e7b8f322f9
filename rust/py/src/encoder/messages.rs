//! What of a request is embedded: a text as it is, or the last user turn of a chat.
//!
//! In: a string, chat messages in the OpenAI format, or a list of these. Out: strings.

use pyo3::exceptions::{PyTypeError, PyUnicodeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyMapping, PySequence, PyString};

use crate::base::errors::Cr2Error;

/// What is wrong with a list where one text belongs, and the other way round.
pub const ONE: &str =
    "text: expected one text or one chat, got a list of them; use route_texts for it";
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

/// The one string of an argument; a list of texts is an error.
pub fn one_text(obj: &Bound<'_, PyAny>) -> PyResult<PyBackedStr> {
    match texts(obj)? {
        (mut strings, false) => Ok(strings.remove(0)),
        _ => Err(PyTypeError::new_err(ONE)),
    }
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
    let get = field;
    let mut roles = Vec::with_capacity(messages.len());
    for message in &messages {
        roles.push(get(message, "role")?);
    }
    let Some(last) = roles.iter().rposition(|role| role.eq("user").unwrap_or(false)) else {
        let short = |role: &Bound<'_, PyAny>| role.to_string().chars().take(40).collect::<String>();
        let roles = roles.iter().take(8).map(|role| format!("'{}'", short(role)));
        return Err(Cr2Error::new_err(format!(
            "{what}: expected a message with role 'user', got the roles [{}]",
            roles.collect::<Vec<_>>().join(", ")
        )));
    };
    let content = get(&messages[last], "content")?;
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

/// The texts of all turns of a chat, however old, one per turn that has any, as the gateway counts them;
/// `None` of what is no chat.
pub fn turns(obj: &Bound<'_, PyAny>) -> PyResult<Option<Vec<PyBackedStr>>> {
    if obj.is_instance_of::<PyString>() || !is_chat(obj) {
        return Ok(None);
    }
    let mut out = Vec::new();
    for message in obj.try_iter()? {
        let content = field(&message?, "content")?;
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

/// The texts of a content that is a list of parts.
fn texts_of_parts(content: &Bound<'_, PyAny>, what: &str) -> PyResult<Vec<PyBackedStr>> {
    let mut out = Vec::new();
    for part in sequence(content).map(|items| items.try_iter()).transpose()?.into_iter().flatten() {
        let part = part?;
        if part.cast::<PyMapping>().is_ok() && field(&part, "type")?.eq("text")? {
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
