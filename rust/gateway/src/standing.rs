//! How a device stands with its edge: whether the edge takes what it sends.
//!
//! In: answers of the edge. Out: the reason where it refuses this device, and not the client's request: it
//! runs another router, encoder or release, or knows another token. The device then answers by itself,
//! as if the edge were down, and says so once, in the log, the metrics and `/readyz` until it is mended.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::refusal::REFUSAL;
use crate::upstream::{Answer, Content, Failure};
use crate::wire;

/// Longest words of an edge that are repeated, characters.
const MAX_WORDS: usize = 400;

/// Why the edge refuses this device, while it does.
#[derive(Debug, Default)]
pub struct Standing(Mutex<Option<String>>);

impl Standing {
    /// The edge has answered.
    pub fn good(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The edge refuses this device: said once until it is mended.
    pub fn bad(&self, words: String) {
        let mut reason = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reason.is_none() {
            crate::say(&format!("the edge refuses this device: {words}"));
        }
        *reason = Some(words);
    }

    /// Of a failure that is a refusal of this device.
    pub fn failed(&self, failure: &Failure) {
        let Failure::Status(status) = failure else { return };
        if matches!(status.as_u16(), 401 | 403) {
            let status = status.as_u16();
            self.bad(format!(
                "status {status}: check that edge.token_env here and access.device_token_env there hold one token"
            ));
        }
    }

    /// The reason, while there is one.
    pub fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether an edge's answer says that the two do not fit, and in which words.
pub fn misfit(answer: &Answer) -> Option<(Failure, String)> {
    let word = wire::misfit(&answer.head.headers)?;
    let said = match &answer.content {
        Content::Whole(bytes, _) => serde_json::from_slice::<Value>(bytes).ok(),
        Content::Stream(..) => None,
    };
    let said = said.and_then(|v| v["error"]["message"].as_str().map(String::from));
    let code = answer.head.headers.get(REFUSAL).and_then(|v| v.to_str().ok());
    let said: String = said.unwrap_or_default().chars().take(MAX_WORDS).collect();
    let said: String = said.chars().filter(|c| !c.is_control()).collect();
    let words = format!("{word} ({}): {said}", code.unwrap_or("it speaks another version"));
    Some((Failure::Misfit(word), words))
}
