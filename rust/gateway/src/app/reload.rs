//! A reload: what decides and what clients are shown of us is taken anew, or nothing is.
//!
//! In: SIGHUP, or a call with the administrator's token. Out: the new router's hash, or why the old one
//! stays. Files are read and checked beside what serves; requests in flight keep what they began with.

use std::sync::{Arc, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::HeaderMap;
use axum::response::Response;
use serde_json::json;

use super::{App, bearer_hash, certificates};
use crate::brain::Brain;
use crate::config::{Config, ConfigError};
use crate::endpoint::Proof;
use crate::refusal::Refusal;

impl App {
    /// Read the file's `[router]` and `[tls]` again and swap them, or refuse and go on with the old.
    ///
    /// The other sections take a restart. The log's file is opened again, whatever comes of the rest, as
    /// logrotate expects of a SIGHUP. Reads files: call it off the event loop.
    pub fn reload(&self) -> Result<String, ConfigError> {
        self.log.reopen();
        // One at a time: the last to ask is the last to swap.
        let _turn = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.load_again();
        self.metrics.reload(taken.is_ok());
        taken
    }

    fn load_again(&self) -> Result<String, ConfigError> {
        let config = Config::read(&self.path)?;
        let mut new = Brain::load(&config, &certificates::trust(&config)?)?;
        let old = self.brain();
        let wrong = |message| ConfigError { path: self.path.clone(), line: None, message };
        if let Some(Proof::Bad(_, words, _)) = new.endpoint().map(|e| e.proof()) {
            return Err(wrong(format!("encoder.url: expected an endpoint that answers, {words}")));
        }
        if new.models() != old.models() {
            let (expected, got) = (old.models(), new.models());
            return Err(wrong(format!(
                "router.path: expected a router of the models {expected:?}, got {got:?}; other models take a restart"
            )));
        }
        let served = certificates::served(&config)?;
        if served.is_some() != self.tls().is_some() {
            let words = "tls.cert: expected TLS as before, on or off; the other takes a restart";
            return Err(wrong(words.into()));
        }
        let hash = new.hash().to_string();
        if let Some(promise) = &self.promise {
            let kept = promise.reload(&new);
            new.watched_by(kept);
        }
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = served;
        *self.brain.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(hash)
    }
}

/// `POST /v1/reload`.
pub(super) async fn call(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Some(door) = app.access.admin else {
        let words = "expected a gateway whose file names access.admin_token_env, got one without; send SIGHUP, or set it and restart";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "reload_closed", words));
    };
    if bearer_hash(&headers) != Some(door) {
        let words = "authorization: expected \"Bearer TOKEN\" with the token of access.admin_token_env, got none or another";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "token", words));
    }
    let own = Arc::clone(&app);
    let done = tokio::task::spawn_blocking(move || own.reload()).await;
    let done = done.map_err(|_| {
        let words = "the reload stopped in the middle; the old router stays";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", words)
    })?;
    match done {
        Ok(hash) => {
            crate::say(&format!("reloaded, router {hash}"));
            Ok(super::json(&json!({"object": "cr2fast.reload", "router": hash})))
        }
        Err(e) => {
            crate::say(&format!("reload refused, the old router stays: {e}"));
            let words = format!("the old router stays: {e}");
            Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "reload_refused", words))
        }
    }
}
