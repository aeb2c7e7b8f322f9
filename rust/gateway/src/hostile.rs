//! What fuzzing asks of the readers of bytes from outside: no panic, bounded words, nothing changed.
//!
//! In: any bytes. Out: a panic where a reader breaks its word. `fuzz/` feeds these functions; a test
//! feeds them its corpus and seeded mutations of it, on stable Rust.

use std::path::Path;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::ask::{Ask, Kind};
use crate::config::Config;
use crate::refusal::Refusal;
use crate::upstream::{Events, look_at_whole};
use crate::wire::{self, Deferral};

/// Characters of any refusal's words.
const MOST_WORDS: usize = 700;

fn bounded(refusal: &Refusal) {
    assert!(refusal.status.is_client_error(), "{}", refusal.status);
    assert!(refusal.message.chars().count() <= MOST_WORDS, "{}", refusal.message);
}

/// A body; the first byte says for which endpoint.
pub fn request(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    let kind = [Kind::Chat, Kind::Completion, Kind::Responses, Kind::Any][usize::from(first % 4)];
    let ask = match Ask::read(Bytes::copy_from_slice(body), kind) {
        Ok(ask) => ask,
        Err(refusal) => return bounded(&refusal),
    };
    let name = "a \"model\" \u{1f600}";
    let sent = ask.body_for(name);
    // Beyond what this parser nests, the body is passed on all the same.
    let (Ok(Value::Object(mut old)), Ok(Value::Object(mut new))) =
        (serde_json::from_slice(body), serde_json::from_slice(&sent))
    else {
        return;
    };
    assert_eq!(new.remove("model"), Some(name.into()));
    old.remove("model");
    assert_eq!(old, new, "only the model's name is another");
}

/// Lines of `key: value`.
pub fn headers(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(64) {
        let at = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (key, value) = (&line[..at], line.get(at + 1..).unwrap_or_default());
        let key = HeaderName::from_bytes(key);
        if let (Ok(key), Ok(value)) = (key, HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(key, value);
        }
    }
    for from_device in [false, true] {
        if let Err(refusal) = wire::wish(&headers, from_device) {
            bounded(&refusal);
        }
    }
    match Deferral::read(&headers) {
        Err(refusal) => bounded(&refusal),
        Ok(None) => {}
        Ok(Some(read)) => {
            let mut again = HeaderMap::new();
            read.write(&mut again);
            let back = Deferral::read(&again).expect("what was read").expect("and written");
            let bits = |d: &Deferral| -> Option<Vec<u32>> {
                d.embedding.as_ref().map(|x| x.iter().map(|x| x.to_bits()).collect())
            };
            assert_eq!(bits(&back), bits(&read), "the same bits");
            assert_eq!((back.id, back.why, back.link), (read.id, read.why, read.link));
        }
    }
}

/// A stream; the first byte says in what pieces it comes.
pub fn events(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    let _ = look_at_whole(stream);
    let through = |size: usize| {
        let (mut events, mut out) = (Events::default(), Vec::new());
        for piece in stream.chunks(size) {
            let part = events.push(Bytes::copy_from_slice(piece)).ok()?;
            out.extend(part.into_iter().flat_map(|part| part.bytes));
        }
        let told = (events.done(), events.usage, events.sequence);
        out.extend(events.rest());
        assert_eq!(out, stream, "the same bytes");
        Some(told)
    };
    let (pieces, whole) = (through(usize::from(*first) + 1), through(stream.len().max(1)));
    if let (Some(pieces), Some(whole)) = (pieces, whole) {
        assert_eq!(pieces, whole, "however it is cut");
    }
}

/// A file of either role.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |_: &str| Some("a-token-of-the-fuzzer".to_string());
    if let Err(e) = Config::parse(Path::new("fuzz.toml"), text, &env) {
        let words = e.to_string();
        assert!(words.starts_with("fuzz.toml:"), "{words}");
        assert!(words.chars().count() <= 2 * MOST_WORDS, "{words}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift64*.
    fn next(state: &mut u64) -> usize {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    fn mutated(seeds: &[Vec<u8>], state: &mut u64) -> Vec<u8> {
        let mut data = seeds[next(state) % seeds.len()].clone();
        for _ in 0..=next(state) % 6 {
            let at = next(state) % (data.len() + 1);
            match next(state) % 5 {
                0 if at < data.len() => data[at] = next(state) as u8,
                1 if at < data.len() => drop(data.remove(at)),
                2 => data.insert(at, b"\"{}[]:,\\\n="[next(state) % 10]),
                3 => data.truncate(at),
                // A piece of another seed.
                _ => {
                    let other = &seeds[next(state) % seeds.len()];
                    let from = next(state) % (other.len() + 1);
                    let to = (from + next(state) % 64).min(other.len());
                    data.splice(at..at, other[from..to].iter().copied());
                }
            }
        }
        data
    }

    type Target = fn(&[u8]);

    #[test]
    fn the_corpus_and_its_mutations_break_no_word() {
        let targets: [(&str, Target); 4] =
            [("request", request), ("headers", headers), ("events", events), ("config", config)];
        for (name, target) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let mut files: Vec<_> =
                std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
            files.sort();
            let seeds: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
            assert!(seeds.len() >= 4, "{name}: {} seeds", seeds.len());
            for seed in &seeds {
                target(seed);
            }
            let mut state = 0x5eed;
            for _ in 0..20_000 {
                target(&mutated(&seeds, &mut state));
            }
        }
    }
}
