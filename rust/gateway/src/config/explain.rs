//! What is wrong with a file's TOML, in the words of its settings.
//!
//! In: the parser's error. Out: its offset, and words that name the setting, what was expected and what
//! came. A text that came is not repeated: it may be a token in the wrong place.

use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};

/// Characters of an error at most.
const MAX_WORDS: usize = 600;

/// Where an error is, and what it says.
pub fn explain(text: &str, e: &Error) -> (Option<usize>, String) {
    let at = e.span().map(|span| span.start);
    let name = e.span().map(|span| {
        let mut found = Found { at: span, name: String::new(), long: usize::MAX };
        found.look(DeTable::parse_recoverable(text).0.get_ref(), "");
        found.name
    });
    let words = type_error(e.message()).unwrap_or_else(|| e.message().into());
    let words = match name.as_deref() {
        None | Some("") => words,
        Some(name) => format!("{name}: {words}"),
    };
    (at, words.chars().take(MAX_WORDS).collect())
}

/// What either file may have beside `[local]` and `[[models]]`.
const KNOWN: [&str; 17] = [
    "listen",
    "router",
    "encoder",
    "edge",
    "not_text",
    "shadow",
    "rule",
    "fallback",
    "health",
    "deadlines",
    "limits",
    "breaker",
    "access",
    "tls",
    "log",
    "promise",
    "energy",
];

/// The error of a file that is nobody's: the section that nobody has, most likely one with a slip in its name.
pub fn neither(text: &str, table: &toml::Table) -> (Option<usize>, String) {
    let whose = "a device's file, with [local] and [edge], or an edge's, with [[models]]";
    let unknown = table.keys().find(|key| !KNOWN.contains(&key.as_str()) && *key != "traces");
    if let Some(key) = unknown {
        let shown: String = key.chars().take(40).collect();
        let at = text.find(&format!("[{key}")).or(text.find(key.as_str()));
        return (at, format!("{shown}: no such section or setting; expected {whose}"));
    }
    let got = if table.contains_key("edge") { "[edge] without [local]" } else { "neither" };
    (text.find("[edge").filter(|_| got != "neither"), format!("expected {whose}; got {got}"))
}

/// The setting, or the section, that stands at a place of the text.
struct Found {
    at: Range<usize>,
    name: String,
    /// Bytes of what was found: the innermost is meant.
    long: usize,
}

impl Found {
    fn take(&mut self, span: &Range<usize>, name: &str) {
        if span.contains(&self.at.start) && span.len() < self.long {
            (self.name, self.long) = (name.into(), span.len());
        }
    }

    fn look(&mut self, table: &DeTable, of: &str) {
        for (key, value) in table {
            let name = match of {
                "" => key.get_ref().to_string(),
                of => format!("{of}.{}", key.get_ref()),
            };
            // A key that is unknown is the section's fault.
            self.take(&key.span(), of);
            self.take(&value.span(), &name);
            self.inside(value.get_ref(), &name);
        }
    }

    fn inside(&mut self, value: &DeValue, name: &str) {
        match value {
            DeValue::Table(table) => self.look(table, name),
            DeValue::Array(values) => {
                for value in values {
                    self.take(&value.span(), name);
                    self.inside(value.get_ref(), name);
                }
            }
            _ => {}
        }
    }
}

/// An error about a value's type, without the value where that is text.
fn type_error(message: &str) -> Option<String> {
    let rest = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "))?;
    let (got, expected) = rest.rsplit_once(", expected ")?;
    let expected = match expected.trim_end() {
        "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list",
        of if of.starts_with("struct ") => "a section",
        other => other,
    };
    let number = || got.split('`').nth(1).unwrap_or_default();
    let got = match got.split(' ').next()? {
        "string" => "a text in quotes",
        "sequence" => "a list",
        "map" => "a section",
        "boolean" | "integer" | "floating" => number(),
        _ => "another kind of value",
    };
    Some(format!("expected {expected}, got {got}"))
}
