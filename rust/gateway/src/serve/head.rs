//! The head of a request, before anything else reads it.
//!
//! In: the bytes of one head, hostile until shown otherwise. Out: how its body is framed; or a refusal.
//! A head that two servers may read in two ways is refused (RFC 9112, sections 2.2, 5.2 and 6.3): who
//! stands before this gateway, and what stands behind it, must see the same requests in the same bytes.

use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use httparse::{EMPTY_HEADER, Error, Request, Status};

use crate::refusal::Refusal;

/// Header fields of a request at most.
pub const MAX_FIELDS: usize = 128;

/// Where a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// Where its chunks say.
    Chunked,
}

fn framing(words: &str) -> Refusal {
    Refusal::bad(
        "framing",
        format!("{words}; send one content-length of digits, or transfer-encoding: chunked"),
    )
}

/// The 431 of a head that is longer than it may be.
pub fn too_long(most: usize) -> Refusal {
    let words = format!("head: expected at most {most} bytes (limits.header_bytes), got more");
    Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", words)
}

/// Where a head ends that begins here: none where more has to come. `seen` bytes were looked at before.
pub fn end(bytes: &[u8], seen: usize) -> Result<Option<usize>, Refusal> {
    for at in seen..bytes.len() {
        let before = at.checked_sub(1).map(|k| bytes[k]);
        if bytes[at] == b'\n' && before != Some(b'\r') {
            return Err(framing("head: expected lines that end in CR LF, got a bare LF"));
        }
        if before == Some(b'\r') && bytes[at] != b'\n' {
            return Err(framing("head: expected lines that end in CR LF, got a bare CR"));
        }
        if bytes[..=at].ends_with(b"\r\n\r\n") {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// Whether bytes that are no whole head yet can become one.
pub fn may_become_one(bytes: &[u8]) -> Result<(), Refusal> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    Request::new(&mut fields).parse(bytes).map(drop).map_err(|e| no_head(e, bytes))
}

fn no_head(e: Error, bytes: &[u8]) -> Refusal {
    if e == Error::TooManyHeaders {
        let words = format!("head: expected at most {MAX_FIELDS} header fields, got more");
        return Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", words);
    }
    let folded = bytes.windows(3).any(|w| w[..2] == *b"\r\n" && matches!(w[2], b' ' | b'\t'));
    if e == Error::HeaderName && folded {
        return framing("head: expected each header field on one line, got a folded one");
    }
    let what = match e {
        Error::Version => "HTTP/1.1 or HTTP/1.0",
        Error::HeaderName => "header fields as NAME: VALUE, with no space before the colon",
        Error::HeaderValue => "header values without control characters",
        _ => "METHOD PATH HTTP/1.1 and header fields",
    };
    Refusal::bad("head", format!("head: expected {what}, got something else"))
}

/// How the body of a whole head's request is framed, and whether it comes only once it is asked for.
pub fn read(bytes: &[u8]) -> Result<(Framing, bool), Refusal> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(no_head(Error::Token, bytes)),
        Err(e) => return Err(no_head(e, bytes)),
    }
    let method = request.method.and_then(|m| Method::from_bytes(m.as_bytes()).ok());
    let path = request.path.and_then(|path| path.parse::<Uri>().ok());
    let (Some(_), Some(_)) = (method, path) else { return Err(no_head(Error::Token, bytes)) };
    let (mut length, mut chunked, mut hosts, mut waits) = (None, false, 0, false);
    // An older client knows neither host nor expect.
    let old = request.version == Some(0);
    for field in request.headers.iter() {
        let (name, value) = (field.name, field.value.trim_ascii());
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(no_head(Error::HeaderName, bytes));
        }
        if HeaderValue::from_bytes(field.value).is_err() {
            return Err(no_head(Error::HeaderValue, bytes));
        }
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case("expect") {
            if !old && !value.eq_ignore_ascii_case(b"100-continue") {
                let words = "expect: expected \"100-continue\" or no such field, got another";
                return Err(Refusal::new(StatusCode::EXPECTATION_FAILED, "expectation", words));
            }
            waits = true;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked {
                return Err(framing("transfer-encoding: expected it once, got it twice"));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(framing("transfer-encoding: expected \"chunked\" alone, got another"));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(framing("content-length: expected it once, got it twice"));
            }
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(value).ok().filter(|_| digits);
            let number = number.and_then(|n| n.parse::<u64>().ok());
            let number = number.ok_or_else(|| {
                framing("content-length: expected a whole number in digits, got another value")
            })?;
            length = Some(number);
        }
    }
    if chunked && length.is_some() {
        return Err(framing("expected content-length or transfer-encoding, got both"));
    }
    if chunked && old {
        return Err(framing("transfer-encoding: expected none in HTTP/1.0, got one"));
    }
    if hosts > 1 {
        return Err(Refusal::bad("head", "host: expected it once, got it twice"));
    }
    if hosts == 0 && !old {
        return Err(Refusal::bad("head", "host: expected it once in HTTP/1.1, got none"));
    }
    Ok((if chunked { Framing::Chunked } else { Framing::Length(length.unwrap_or(0)) }, waits))
}
