//! W3C trace context: which trace a request belongs to.
//!
//! In: the headers `traceparent` and `tracestate` of a client or a device gateway. Out: a [`Context`] that is
//! handed on to whoever is asked, and its trace's id for the log. One that is malformed is none: the
//! recommendation has it ignored, not refused (<https://www.w3.org/TR/trace-context/>).

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// Bytes of a state that is handed on at most: what the recommendation asks for at least.
const MAX_STATE: usize = 512;
/// Sampled, and a random id: what is known of the flags.
const FLAGS: u8 = 0b11;

/// A place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Of the trace; not 0.
    pub trace: u128,
    /// Of the span that asks; not 0.
    pub span: u64,
    /// Sampled is 1.
    pub flags: u8,
    /// What vendors hand on.
    pub state: Option<HeaderValue>,
}

impl Context {
    /// Of a request's headers; none where there is none that is well formed.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(PARENT).iter();
        let (value, None) = (all.next()?, all.next()) else { return None };
        let text = value.to_str().ok()?;
        let (head, rest) = text.split_at_checked(55)?;
        let mut parts = head.split('-');
        let [version, trace, span, flags] = std::array::from_fn(|_| parts.next().unwrap_or(""));
        let lower = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let lengths = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
        let good = lengths && [version, trace, span, flags].into_iter().all(lower);
        // A later version may say more behind a dash.
        let later = version != "00" && rest.starts_with('-');
        if !good || parts.next().is_some() || version == "ff" || !(rest.is_empty() || later) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()? & FLAGS;
        let mut states = headers.get_all(STATE).iter();
        let state = match (states.next(), states.next()) {
            (Some(state), None) if state.len() <= MAX_STATE && state.to_str().is_ok() => {
                Some(state.clone())
            }
            _ => None,
        };
        Some(Self { trace, span, flags, state })
    }

    /// Hand it on.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Self { trace, span, flags, state } = self;
        let parent = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
        headers.insert(PARENT, crate::wire::text(&parent));
        if let Some(state) = state {
            headers.insert(STATE, state.clone());
        }
    }

    /// The trace's id, as the log has it.
    pub fn trace_hex(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(k, v): &(&'static str, &str)| {
            (HeaderName::from_static(k), HeaderValue::from_str(v).unwrap())
        };
        all.iter().map(pair).collect()
    }

    fn again(all: &[(&'static str, &str)]) -> Option<(String, Option<String>)> {
        let context = Context::read(&headers(all))?;
        let mut out = HeaderMap::new();
        context.write(&mut out);
        let of = |key: HeaderName| Some(out.get(key)?.to_str().unwrap().to_string());
        Some((of(PARENT).unwrap(), of(STATE)))
    }

    #[test]
    fn what_is_well_formed_is_handed_on() {
        let state = ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
        assert_eq!(
            again(&[("traceparent", GOOD), state]),
            Some((GOOD.into(), Some(state.1.into())))
        );
        let context = Context::read(&headers(&[("traceparent", GOOD)])).unwrap();
        assert_eq!(context.trace_hex(), "0af7651916cd43dd8448eb211c80319c");
        // A later version is read as far as it is known, and unknown flags are not handed on.
        let later = GOOD.replacen("00", "cc", 1);
        for value in [later.clone(), later + "-what-will-be", GOOD.replace("-01", "-f9")] {
            assert_eq!(again(&[("traceparent", &value)]), Some((GOOD.into(), None)), "{value}");
        }
        let long = format!("a={}", "b".repeat(MAX_STATE));
        assert_eq!(
            again(&[("traceparent", GOOD), ("tracestate", &long)]),
            Some((GOOD.into(), None))
        );
    }

    #[test]
    fn what_is_malformed_is_none() {
        for value in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &format!("{GOOD}-more"),
            &format!("{GOOD}0"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace('b', "g"),
            &GOOD.replace('-', "_"),
            &"-".repeat(55),
            &"é".repeat(30),
        ] {
            let mut all = HeaderMap::new();
            all.insert(PARENT, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            assert_eq!(Context::read(&all), None, "{value}");
        }
        let mut twice = headers(&[("traceparent", GOOD)]);
        twice.append(PARENT, HeaderValue::from_static(GOOD));
        assert_eq!(Context::read(&twice), None);
        assert_eq!(Context::read(&headers(&[("tracestate", "a=b")])), None);
    }
}
