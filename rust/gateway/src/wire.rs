//! Headers: what a client may set, what every answer says, and what a device tells its edge.
//!
//! In: header maps from outside, hostile until shown otherwise. Out: [`Wish`], [`Deferral`], or a refusal
//! that names the header. The embedding travels as base64 of little-endian float32: the same bits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::ask::point_value;
use crate::link::Measured;
use crate::refusal::Refusal;

/// What device and edge speak; another version is refused.
pub const VERSION: &str = "1";

/// What all of them begin with.
pub const PREFIX: &str = "x-cr2fast-";
const fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

/// λ: of a request, and of the answer.
pub const LAM: HeaderName = name("x-cr2fast-lam");
/// α: of a request, and of the answer.
pub const ALPHA: HeaderName = name("x-cr2fast-alpha");
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
const LINK: HeaderName = name("x-cr2fast-link");

/// Headers that only a device gateway sends.
const INTERNAL: [HeaderName; 6] = [SPEAKS, EMBEDDING, ENCODER, LINK, REQUEST_ID, WHY];

/// Why a request went where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The device's model was accepted.
    Accepted,
    /// The device deferred to the edge.
    Deferred,
    /// The request names a model.
    Direct,
    /// The edge was to answer and could not.
    EdgeDown,
    /// The device was to answer and could not.
    DeviceDown,
    /// Longer than the device's model takes.
    TooLong,
    /// No text to decide by, or more than text.
    NotText,
}

impl Why {
    const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Deferred,
        Self::Direct,
        Self::EdgeDown,
        Self::DeviceDown,
        Self::TooLong,
        Self::NotText,
    ];

    /// The word in headers, log and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Direct => "direct",
            Self::EdgeDown => "edge-down",
            Self::DeviceDown => "device-down",
            Self::TooLong => "too-long",
            Self::NotText => "not-text",
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

/// The operating point that a request asks for in headers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wish {
    /// λ.
    pub lam: Option<f64>,
    /// α.
    pub alpha: Option<f64>,
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
    /// e(x); none where there is no text.
    pub embedding: Option<Vec<f32>>,
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
                        "{short}: expected {LAM} or {ALPHA}, got a header that this version does not know"
                    ),
                ));
            }
        };
        let value = single(headers, key)
            .map_err(|r| Refusal::bad("header", r.message))?
            .unwrap_or_default();
        *slot = Some(point_value(key.as_str(), value)?);
    }
    Ok(wish)
}

impl Deferral {
    /// Write the headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(SPEAKS, HeaderValue::from_static(VERSION));
        headers.insert(REQUEST_ID, text(&self.id));
        headers.insert(WHY, HeaderValue::from_static(self.why.word()));
        headers.insert(ENCODER, text(&self.encoder));
        if let Some(embedding) = &self.embedding {
            let bytes: Vec<u8> = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
            headers.insert(EMBEDDING, text(&BASE64.encode(bytes)));
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
            return Err(bad(&SPEAKS, &expected, version));
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
        let embedding = single(headers, &EMBEDDING)?.map(floats).transpose()?;
        let link = match single(headers, &LINK)? {
            Some(value) => {
                Measured::from_header(value).map_err(|expected| bad(&LINK, &expected, value))?
            }
            None => Measured::default(),
        };
        Ok(Some(Self { id: id.into(), why, encoder, embedding, link }))
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
mod tests {
    use super::*;

    fn deferral() -> Deferral {
        Deferral {
            id: "0123456789abcdef0123456789abcdef".into(),
            why: Why::Deferred,
            encoder: "ab".into(),
            embedding: Some(vec![0.1, -0.0, f32::MIN_POSITIVE, 1e30]),
            link: Measured { rtt_s: Some(0.018), rate_ul_bps: None, rate_dl_bps: Some(4e7) },
        }
    }

    #[test]
    fn what_a_device_says_arrives_bit_for_bit() {
        let mut headers = HeaderMap::new();
        deferral().write(&mut headers);
        let back = Deferral::read(&headers).unwrap().unwrap();
        let bits = |d: &Deferral| -> Vec<u32> {
            d.embedding.iter().flatten().map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(&back), bits(&deferral()));
        assert_eq!(back, deferral());
        assert_eq!(Deferral::read(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn forged_headers_are_named() {
        for (key, value, words) in [
            (SPEAKS, "2", "x-cr2fast-version: expected \"1\""),
            (REQUEST_ID, "short", "32 hexadecimal digits"),
            (WHY, "because", "a reason"),
            (EMBEDDING, "AAA", "base64 of little-endian float32"),
            (EMBEDDING, "AAAA", "base64 of little-endian float32"),
            (EMBEDDING, "%%%%", "base64"),
            (LINK, "rtt_s=-1", "x-cr2fast-link: expected"),
            (LINK, "rtt_s=NaN", "x-cr2fast-link: expected"),
            (LINK, "rate_ul_bps=0", "x-cr2fast-link: expected"),
            (LINK, "speed=1", "x-cr2fast-link: expected"),
        ] {
            let mut headers = HeaderMap::new();
            deferral().write(&mut headers);
            headers.insert(key, HeaderValue::from_static(value));
            let refusal = Deferral::read(&headers).unwrap_err();
            assert!(refusal.message.contains(words), "{}", refusal.message);
        }
        let mut headers = HeaderMap::new();
        deferral().write(&mut headers);
        headers.remove(SPEAKS);
        assert!(Deferral::read(&headers).is_err());
        deferral().write(&mut headers);
        headers.append(REQUEST_ID, HeaderValue::from_static("x"));
        assert!(Deferral::read(&headers).unwrap_err().message.contains("several"));
    }

    #[test]
    fn clients_set_the_point_and_nothing_else() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (key, value) in pairs {
                headers.append(*key, HeaderValue::from_static(value));
            }
            wish(&headers, false)
        };
        let both = of(&[("x-cr2fast-lam", "0.3"), ("x-cr2fast-alpha", " 0.02"), ("accept", "*/*")]);
        assert_eq!(both.unwrap(), Wish { lam: Some(0.3), alpha: Some(0.02) });
        assert_eq!(of(&[("x-cr2fast-embedding", "AAAA")]).unwrap_err().status, 403);
        assert_eq!(of(&[("x-cr2fast-why", "accepted")]).unwrap_err().status, 403);
        let unknown = of(&[("x-cr2fast-max-usd", "1")]).unwrap_err();
        assert!(unknown.message.contains("does not know"), "{}", unknown.message);
        assert_eq!(of(&[("x-cr2fast-lam", "much")]).unwrap_err().status, 400);
        assert_eq!(of(&[("x-cr2fast-lam", "1"), ("x-cr2fast-lam", "2")]).unwrap_err().status, 400);
        assert_eq!(of(&[("x-cr2fast-lam", "1")]).unwrap().alpha, None);
    }
}
