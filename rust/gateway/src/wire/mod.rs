//! Headers: what a client may set, what every answer says, and what a device tells its edge.
//!
//! In: header maps from outside, hostile until shown otherwise. Out: [`Wish`], [`Deferral`], or a refusal
//! that names the header. The embedding travels as base64 of little-endian float32: the same bits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cr2fast_core::Budget;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::ask::point_value;
use crate::link::Measured;
use crate::refusal::Refusal;

/// What device and edge speak; another version is refused.
pub const VERSION: &str = "2";

/// Bytes of a group's name.
const MAX_GROUP: usize = 200;

/// What all of them begin with.
pub const PREFIX: &str = "x-cr2fast-";
const fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

/// λ: of a request, and of the answer.
pub const LAM: HeaderName = name("x-cr2fast-lam");
/// α: of a request, and of the answer.
pub const ALPHA: HeaderName = name("x-cr2fast-alpha");
/// Most seconds of this call, in ms.
pub const MAX_LATENCY_MS: HeaderName = name("x-cr2fast-max-latency-ms");
/// Most joules of this call.
pub const MAX_ENERGY_J: HeaderName = name("x-cr2fast-max-energy-j");
/// Most dollars of this call.
pub const MAX_USD: HeaderName = name("x-cr2fast-max-usd");
/// The group whose threshold applies, where the router was calibrated per group.
pub const GROUP: HeaderName = name("x-cr2fast-group");
/// Seconds that the cost table expects.
pub const LATENCY_S: HeaderName = name("x-cr2fast-estimated-latency-s");
/// Joules that the cost table expects.
pub const ENERGY_J: HeaderName = name("x-cr2fast-estimated-energy-j");
/// Dollars that the cost table expects.
pub const USD: HeaderName = name("x-cr2fast-estimated-usd");
/// The request's id.
pub const REQUEST_ID: HeaderName = name("x-cr2fast-request-id");
/// Where the answer was made: `device` or `edge`.
pub const PLACE: HeaderName = name("x-cr2fast-place");
/// The model that answered.
pub const MODEL: HeaderName = name("x-cr2fast-model");
/// Δ̂.
pub const MARGIN: HeaderName = name("x-cr2fast-margin");
/// τ as a margin.
pub const THRESHOLD: HeaderName = name("x-cr2fast-threshold");
/// [`Why`].
pub const WHY: HeaderName = name("x-cr2fast-why");
/// The version that the sender speaks.
pub const SPEAKS: HeaderName = name("x-cr2fast-version");
/// Seconds between the edge's reading of a request and its answer's head.
pub const EDGE_S: HeaderName = name("x-cr2fast-edge-s");
const EMBEDDING: HeaderName = name("x-cr2fast-embedding");
const ENCODER: HeaderName = name("x-cr2fast-encoder");
/// SHA-256 of the router's file that the sender decides with.
const ROUTER: HeaderName = name("x-cr2fast-router");
const LINK: HeaderName = name("x-cr2fast-link");
const INPUT_TOKENS: HeaderName = name("x-cr2fast-input-tokens");

/// Headers that only a device gateway sends.
const INTERNAL: [HeaderName; 8] =
    [SPEAKS, EMBEDDING, ENCODER, LINK, REQUEST_ID, ROUTER, WHY, INPUT_TOKENS];

/// Why a request went where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The device's model was accepted.
    Accepted,
    /// The device deferred to the edge.
    Deferred,
    /// The call's budget decided, against stage one's word.
    Budget,
    /// The edge sent a deferred request back to the device.
    Returned,
    /// The request names a model.
    Direct,
    /// The edge was to answer and could not.
    EdgeDown,
    /// The device was to answer and could not.
    DeviceDown,
    /// The device has answered, and the edge is asked for comparison.
    Shadow,
    /// Longer than the device's model takes.
    TooLong,
    /// No text to decide by, or more than text.
    NotText,
    /// The encoder's endpoint gave no embedding.
    NoEmbedding,
}

impl Why {
    const ALL: [Self; 11] = [
        Self::Accepted,
        Self::Deferred,
        Self::Budget,
        Self::Returned,
        Self::Direct,
        Self::EdgeDown,
        Self::DeviceDown,
        Self::Shadow,
        Self::TooLong,
        Self::NotText,
        Self::NoEmbedding,
    ];

    /// The word in headers, log and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Budget => "budget",
            Self::Returned => "returned",
            Self::Direct => "direct",
            Self::EdgeDown => "edge-down",
            Self::DeviceDown => "device-down",
            Self::Shadow => "shadow",
            Self::TooLong => "too-long",
            Self::NotText => "not-text",
            Self::NoEmbedding => "no-embedding",
        }
    }
}

/// Where an answer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The device's local server.
    Device,
    /// The edge.
    Edge,
}

impl Place {
    /// The word in headers, log and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Edge => "edge",
        }
    }
}

/// The place that an answer of ours says it was made at.
pub fn place(headers: &HeaderMap) -> Option<Place> {
    let word = headers.get(PLACE)?;
    [Place::Device, Place::Edge].into_iter().find(|place| word == place.word())
}

/// Whether an edge's answer to its device says that the two do not fit: not the client's request is at
/// fault then, which the device has read and found good.
pub fn misfit(headers: &HeaderMap) -> Option<&'static str> {
    let code = headers.get(crate::refusal::REFUSAL).and_then(|v| v.to_str().ok());
    match code {
        Some("other_router" | "operating_point" | "embedding") => Some("other-router"),
        Some("other_encoder") => Some("other-encoder"),
        Some("other_version" | "device_header" | "unknown_header" | "header" | "unknown_path") => {
            Some("other-version")
        }
        Some(_) => None,
        None => headers.get(SPEAKS).filter(|v| *v != VERSION).map(|_| "other-version"),
    }
}

/// What a request asks for in headers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// λ.
    pub lam: Option<f64>,
    /// α.
    pub alpha: Option<f64>,
    /// Most milliseconds.
    pub max_latency_ms: Option<f64>,
    /// Most joules.
    pub max_energy_j: Option<f64>,
    /// Most dollars.
    pub max_usd: Option<f64>,
    /// The group.
    pub group: Option<String>,
}

impl Wish {
    /// The limits.
    pub fn budget(&self) -> Budget {
        Budget {
            latency_s: self.max_latency_ms.map(|ms| ms / 1e3),
            energy_j: self.max_energy_j,
            usd: self.max_usd,
        }
    }

    /// Write the limits' headers.
    pub fn write_budget(&self, headers: &mut HeaderMap) {
        let limits = [
            (MAX_LATENCY_MS, self.max_latency_ms),
            (MAX_ENERGY_J, self.max_energy_j),
            (MAX_USD, self.max_usd),
        ];
        for (key, limit) in limits {
            if let Some(limit) = limit {
                headers.insert(key, text(&limit.to_string()));
            }
        }
    }
}

/// What a device gateway tells the edge about a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Deferral {
    /// The request's id.
    pub id: String,
    /// Why the device sends it.
    pub why: Why,
    /// SHA-256 of the encoder's file.
    pub encoder: String,
    /// SHA-256 of the router's file.
    pub router: String,
    /// e(x); none where there is no text.
    pub embedding: Option<Vec<f32>>,
    /// L_in, where the device's endpoint counted it.
    pub input_tokens: Option<u64>,
    /// The link as far as measured.
    pub link: Measured,
}

/// Read what a client may set; any other of our headers is refused by name.
pub fn wish(headers: &HeaderMap, from_device: bool) -> Result<Wish, Refusal> {
    let mut wish = Wish::default();
    for key in headers.keys().filter(|key| key.as_str().starts_with(PREFIX)) {
        let slot = match key {
            key if *key == LAM => &mut wish.lam,
            key if *key == ALPHA => &mut wish.alpha,
            key if *key == MAX_LATENCY_MS => &mut wish.max_latency_ms,
            key if *key == MAX_ENERGY_J => &mut wish.max_energy_j,
            key if *key == MAX_USD => &mut wish.max_usd,
            key if *key == GROUP => {
                wish.group = Some(group(headers)?);
                continue;
            }
            key if INTERNAL.contains(key) => {
                if from_device {
                    continue;
                }
                return Err(Refusal::new(
                    hyper::StatusCode::FORBIDDEN,
                    "device_only",
                    format!(
                        "{key}: only a device gateway with the edge's token may send this header; leave it out"
                    ),
                ));
            }
            key => {
                let short: String = key.as_str().chars().take(60).collect();
                return Err(Refusal::bad(
                    "unknown_header",
                    format!(
                        "{short}: expected {LAM}, {ALPHA}, {GROUP}, {MAX_LATENCY_MS}, {MAX_ENERGY_J} or {MAX_USD}, got a header that this version does not know"
                    ),
                ));
            }
        };
        let value = single(headers, key)
            .map_err(|r| Refusal::bad("header", r.message))?
            .unwrap_or_default();
        *slot = Some(if [LAM, ALPHA].contains(key) {
            point_value(key.as_str(), value)?
        } else {
            limit(key, value)?
        });
    }
    Ok(wish)
}

/// The group: as bytes on the wire, since names may be of any script.
fn group(headers: &HeaderMap) -> Result<String, Refusal> {
    let mut values = headers.get_all(GROUP).iter();
    let (first, more) = (values.next(), values.next());
    let name =
        first.filter(|_| more.is_none()).and_then(|v| std::str::from_utf8(v.as_bytes()).ok());
    let name = name.map(str::trim).filter(|name| (1..=MAX_GROUP).contains(&name.len()));
    name.map(String::from).ok_or_else(|| {
        let words = format!("{GROUP}: expected one name of 1 to {MAX_GROUP} bytes of UTF-8, got none, several or another");
        Refusal::bad("group", words)
    })
}

/// A limit: a number, at least 0.
fn limit(key: &HeaderName, value: &str) -> Result<f64, Refusal> {
    let number = value.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
    number.ok_or_else(|| {
        let got: String = value.chars().take(40).collect();
        Refusal::bad("budget", format!("{key}: expected a number, at least 0, got {got:?}"))
    })
}

impl Deferral {
    /// Write the headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(SPEAKS, HeaderValue::from_static(VERSION));
        headers.insert(REQUEST_ID, text(&self.id));
        headers.insert(WHY, HeaderValue::from_static(self.why.word()));
        headers.insert(ENCODER, text(&self.encoder));
        headers.insert(ROUTER, text(&self.router));
        if let Some(embedding) = &self.embedding {
            let bytes: Vec<u8> = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
            headers.insert(EMBEDDING, text(&BASE64.encode(bytes)));
        }
        if let Some(n) = self.input_tokens {
            headers.insert(INPUT_TOKENS, HeaderValue::from(n));
        }
        let link = self.link.to_header();
        if !link.is_empty() {
            headers.insert(LINK, text(&link));
        }
    }

    /// Read the headers of a device gateway: none of them, or all that belong together.
    ///
    /// The embedding's width and values are the selector's to check.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(version) = single(headers, &SPEAKS)? else {
            return match INTERNAL.iter().find(|key| headers.contains_key(*key)) {
                Some(key) => Err(bad(key, &format!("to come with {SPEAKS}"), "it alone")),
                None => Ok(None),
            };
        };
        if version != VERSION {
            let expected = format!("{VERSION:?}; run the same release on device and edge");
            return Err(Refusal { code: "other_version", ..bad(&SPEAKS, &expected, version) });
        }
        let need = |key: &HeaderName| {
            single(headers, key)?.ok_or_else(|| bad(key, "a value from the device", "none"))
        };
        let id = need(&REQUEST_ID)?;
        if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad(&REQUEST_ID, "32 hexadecimal digits", id));
        }
        let word = need(&WHY)?;
        let why = Why::ALL.into_iter().find(|why| why.word() == word);
        let why = why.ok_or_else(|| bad(&WHY, "a reason of this version", word))?;
        let encoder = need(&ENCODER)?.to_string();
        let router = need(&ROUTER)?.to_string();
        let embedding = single(headers, &EMBEDDING)?.map(floats).transpose()?;
        let input_tokens = single(headers, &INPUT_TOKENS)?
            .map(|n| n.parse().map_err(|_| bad(&INPUT_TOKENS, "a number of tokens", n)))
            .transpose()?;
        let link = match single(headers, &LINK)? {
            Some(value) => {
                Measured::from_header(value).map_err(|expected| bad(&LINK, &expected, value))?
            }
            None => Measured::default(),
        };
        Ok(Some(Self { id: id.into(), why, encoder, router, embedding, input_tokens, link }))
    }
}

fn floats(value: &str) -> Result<Vec<f32>, Refusal> {
    let bytes = BASE64.decode(value).ok();
    let Some((chunks, [])) = bytes.as_deref().map(<[u8]>::as_chunks::<4>) else {
        return Err(bad(&EMBEDDING, "base64 of little-endian float32", value));
    };
    Ok(chunks.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// A header's one value, as text.
fn single<'a>(headers: &'a HeaderMap, key: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(key).iter();
    let (first, more) = (values.next(), values.next());
    if more.is_some() {
        return Err(bad(key, "one value", "several"));
    }
    first.map(|value| value.to_str().map_err(|_| bad(key, "ASCII text", "other bytes"))).transpose()
}

fn bad(key: &HeaderName, expected: &str, got: &str) -> Refusal {
    let got: String = got.chars().take(40).collect();
    // The gateways' fault, not the client's: a device that reads this status answers by itself.
    let status = hyper::StatusCode::MISDIRECTED_REQUEST;
    Refusal::new(status, "device_header", format!("{key}: expected {expected}, got {got:?}"))
}

/// A header value of text that is ours, or of a configured name; bytes that no header holds leave it empty.
pub fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
