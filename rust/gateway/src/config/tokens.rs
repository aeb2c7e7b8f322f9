//! Tokens: who has to show which, and that none of them opens a door to somebody who was given it for
//! another.
//!
//! In: names of environment variables. Out: hashes and headers, or the line that is wrong. A token's
//! value is in no error.

use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};
use toml::Spanned;

use super::Access;
use super::check::{Checker, Result};
use super::file::AccessFile;

type Hash = [u8; 32];

/// A token of the file: the key and the line that name it, and its hash.
pub(super) struct Token {
    key: &'static str,
    line: usize,
    hash: Hash,
}

/// What this gateway shows to others.
#[derive(Default)]
pub(super) struct Shown {
    /// To a device's edge, which knows the device by it.
    pub edge: Option<Token>,
    /// To models' servers.
    pub servers: Vec<Token>,
}

impl Checker<'_> {
    /// Who may ask.
    pub(super) fn access(&self, file: &AccessFile) -> Result<Access> {
        let hash = |key: &'static str, name: Option<&Spanned<String>>| {
            Ok(self.shown(key, name)?.map(|token| token.hash))
        };
        let access = Access {
            client: hash("access.token_env", file.token_env.as_ref())?,
            device: hash("access.device_token_env", file.device_token_env.as_ref())?,
            admin: hash("access.admin_token_env", file.admin_token_env.as_ref())?,
        };
        let both = |a: Option<Hash>, b: Option<Hash>| a.is_some() && a == b;
        if let Some(name) = &file.device_token_env
            && both(access.client, access.device)
        {
            let expected = "another token than the clients', who could pose as devices";
            return Err(self.wrong(name, "access.device_token_env", expected, &"the same"));
        }
        if let Some(name) = &file.admin_token_env
            && (both(access.admin, access.client) || both(access.admin, access.device))
        {
            let expected = "another token than the clients' and the devices', who could reload";
            return Err(self.wrong(name, "access.admin_token_env", expected, &"the same"));
        }
        Ok(access)
    }

    /// What is shown to others must open no door that is not theirs: whoever is shown a token can use it.
    pub(super) fn apart(&self, access: &Access, shown: &Shown) -> Result<()> {
        let same = |token: &Token, others: &str| {
            let words =
                format!("{}: expected another token than {others}, got the same", token.key);
            Err(self.error(Some(token.line), words))
        };
        let device = shown.edge.as_ref();
        if let Some(token) = device.filter(|token| access.client == Some(token.hash)) {
            return same(token, "access.token_env, whose clients could pose as this device");
        }
        if let Some(token) = device.filter(|token| access.admin == Some(token.hash)) {
            return same(token, "access.admin_token_env, by which the edge could reload this one");
        }
        for token in &shown.servers {
            if [access.device, device.map(|d| d.hash)].contains(&Some(token.hash)) {
                return same(token, "the device gateways', as whom this server could pose");
            }
            if access.admin == Some(token.hash) {
                return same(token, "access.admin_token_env, by which this server could reload");
            }
        }
        Ok(())
    }

    /// A token, to be compared; none where none is named.
    pub(super) fn shown(
        &self,
        key: &'static str,
        name: Option<&Spanned<String>>,
    ) -> Result<Option<Token>> {
        let Some(name) = name else { return Ok(None) };
        let hash = Sha256::digest(self.token(key, name)?).into();
        Ok(Some(Token { key, line: self.line(name), hash }))
    }

    /// A token from the environment.
    fn token(&self, key: &str, name: &Spanned<String>) -> Result<String> {
        let word = name.get_ref();
        let value = (self.env)(word).unwrap_or_default();
        if value.len() >= 8 && value.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(value);
        }
        // What is no name is perhaps the token itself.
        let named = if is_name(word) { format!(" {word:?}") } else { " that it names".into() };
        let expected = format!(
            "the environment variable{named} to hold a token of at least 8 visible ASCII characters"
        );
        let got = if value.is_empty() { "none" } else { "a shorter one, or other characters" };
        Err(self.wrong(name, key, &expected, &got))
    }

    /// The header that shows a token.
    pub(super) fn bearer(
        &self,
        key: &str,
        name: Option<&Spanned<String>>,
    ) -> Result<Option<HeaderValue>> {
        let Some(name) = name else { return Ok(None) };
        let token = self.token(key, name)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| self.wrong(name, key, "visible ASCII characters", &"others"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Whether a word looks like a variable's name and not like a token: then an error may show it.
fn is_name(word: &str) -> bool {
    let first = |b: u8| b.is_ascii_uppercase() || b == b'_';
    let any = |b: u8| first(b) || b.is_ascii_digit();
    word.len() <= 64 && word.bytes().next().is_some_and(first) && word.bytes().all(any)
}
