//! What is counted, kept in a file over a restart.
//!
//! In: a file, perhaps of another router, another δ, truncated or forged. Out: what was counted at each
//! point, or why it is refused; and the file, written whole or not at all. The states inside are those
//! of `RiskAlarm` and `RollingThreshold`, which Python reads too.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cr2fast_core::{Error, RiskAlarm, RollingThreshold, read_bounded, write_whole};
use serde::{Deserialize, Serialize};

use super::point::{Counted, Known, Place, Rules};

/// What was counted, and where.
pub type Points = Vec<(Known, Counted)>;
/// What is counted at a place at first, or why the router has none such.
pub type Begin<'a> = dyn Fn(&Place) -> Result<(Known, Counted), String> + 'a;

/// The format of the file.
const SCHEMA: &str = "cr2fast.gateway_promise/1";
/// Largest file read: some 50,000 points.
const MAX_BYTES: u64 = 1 << 26;
/// Alarms of one point, at most.
const MAX_ALARMS: u64 = 1 << 40;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    schema: String,
    router: String,
    delta: f64,
    threshold: String,
    points: Vec<PointFile>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PointFile {
    lam: f64,
    alpha: f64,
    group: Option<String>,
    alarm: String,
    rolling: Option<String>,
    alarms: u64,
    alarm_since: Option<String>,
}

/// Why a file is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Of another router: begin anew, and keep it aside.
    Router(String),
    /// Anything else; the words go on after "expected …, got".
    Other(String),
}

/// What a state is checked against.
pub struct Expected<'a> {
    /// SHA-256 of the router's file.
    pub router: &'a str,
    /// How points are watched.
    pub rules: &'a Rules,
    /// The router's places.
    pub begin: &'a Begin<'a>,
}

/// The file's text.
pub fn text<'a>(
    router: &str,
    rules: &Rules,
    points: impl Iterator<Item = (&'a Place, Counted)>,
) -> Vec<u8> {
    let file = StateFile {
        schema: SCHEMA.into(),
        router: router.into(),
        delta: rules.delta,
        threshold: rules.threshold.word().into(),
        points: points
            .map(|(place, c)| PointFile {
                lam: place.lam,
                alpha: place.alpha,
                group: place.group.clone(),
                alarm: BASE64.encode(c.alarm.to_bytes()),
                rolling: c.rolling.map(|r| BASE64.encode(r.to_bytes())),
                alarms: c.alarms,
                alarm_since: c.since,
            })
            .collect(),
    };
    serde_json::to_vec(&file).unwrap_or_default()
}

/// Write it whole.
pub fn save(path: &Path, text: &[u8]) -> Result<(), String> {
    write_whole(text, path).map_err(|e| bounded(&e))
}

/// What a file holds; none where there is none.
pub fn load(path: &Path, expected: &Expected) -> Result<Option<Points>, Refused> {
    let large = |got: String| Error::argument("state", format!("at most {MAX_BYTES} bytes"), got);
    let bytes = match read_bounded(path, MAX_BYTES, large) {
        Ok(bytes) => bytes,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(e) => return Err(Refused::Other(bounded(&e))),
    };
    read(&bytes, expected).map(Some)
}

fn read(bytes: &[u8], expected: &Expected) -> Result<Points, Refused> {
    let other = |words: String| Refused::Other(words);
    let file: StateFile = serde_json::from_slice(bytes).map_err(|e| {
        other(format!("no such state ({})", e.to_string().chars().take(120).collect::<String>()))
    })?;
    if file.schema != SCHEMA {
        return Err(other(format!("one of schema {:?}", short(&file.schema))));
    }
    if file.router != expected.router {
        return Err(Refused::Router(short(&file.router)));
    }
    let rules = expected.rules;
    if file.delta.to_bits() != rules.delta.to_bits() {
        return Err(other(format!("one of delta = {}", file.delta)));
    }
    if file.threshold != rules.threshold.word() {
        return Err(other(format!("one of threshold = {:?}", short(&file.threshold))));
    }
    let mut out: Points = Vec::with_capacity(file.points.len());
    for p in file.points {
        let place = Place { lam: p.lam, alpha: p.alpha, group: p.group };
        let at = {
            let group = place.group.as_deref().map(|g| format!(", group {:?}", short(g)));
            format!("lam = {}, alpha = {}{}", place.lam, place.alpha, group.unwrap_or_default())
        };
        let wrong = |got: String| other(format!("{got} at {at}"));
        let (known, fresh) = (expected.begin)(&place).map_err(&wrong)?;
        let bytes = |text: &str| BASE64.decode(text).map_err(|_| wrong("no base64".into()));
        let alarm = RiskAlarm::from_bytes(&bytes(&p.alarm)?).map_err(|e| wrong(bounded(&e)))?;
        if alarm.alpha().to_bits() != known.place.alpha.to_bits() {
            return Err(wrong(format!("an alarm of alpha = {}", alarm.alpha())));
        }
        if alarm.delta().to_bits() != rules.delta.to_bits() {
            return Err(wrong(format!("an alarm of delta = {}", alarm.delta())));
        }
        let rolling = match &p.rolling {
            Some(text) => {
                Some(RollingThreshold::from_bytes(&bytes(text)?).map_err(|e| wrong(bounded(&e)))?)
            }
            None => None,
        };
        let settings =
            |r: &Option<RollingThreshold>| r.as_ref().map(|r| (r.alpha().to_bits(), r.steps()));
        if settings(&rolling) != settings(&fresh.rolling) {
            let word = |r: &Option<RollingThreshold>| match settings(r) {
                Some((alpha, steps)) => {
                    format!("a rolling threshold of alpha = {}, {steps:?}", f64::from_bits(alpha))
                }
                None => "no rolling threshold".into(),
            };
            let (want, got) = (word(&fresh.rolling), word(&rolling));
            return Err(wrong(format!("{got}, where the file's settings make {want},")));
        }
        let counts = p.alarms <= MAX_ALARMS && (p.alarms > 0) == p.alarm_since.is_some();
        let since = p.alarm_since.as_deref();
        let dated = since.is_none_or(|s| humantime::parse_rfc3339(s).is_ok());
        if !counts || !dated || (alarm.alarmed() && p.alarms == 0) {
            return Err(wrong("alarms and their time that do not agree".into()));
        }
        if out.iter().any(|(other, _)| other.place == known.place) {
            return Err(wrong("a point twice".into()));
        }
        out.push((known, Counted { alarm, rolling, alarms: p.alarms, since: p.alarm_since }));
    }
    Ok(out)
}

fn short(word: &str) -> String {
    word.chars().take(80).collect()
}

fn bounded(e: &Error) -> String {
    e.to_string().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OnAlarm, Threshold};

    const RULES: Rules = Rules {
        delta: 0.01,
        threshold: Threshold::Rolling,
        on_alarm: OnAlarm::Report,
        step: 0.1,
        window: None,
    };

    fn begin(place: &Place) -> Result<(Known, Counted), String> {
        if place.lam != 1.0 {
            return Err("a point off the grid".into());
        }
        let range = Some((-1.0, 1.0));
        let known = Known { place: place.clone(), calibrated: 0.25, range };
        let counted = RULES.begin(&known).map_err(|e| e.to_string())?;
        Ok((known, counted))
    }

    fn taken(bytes: &[u8]) -> Result<Points, Refused> {
        read(bytes, &Expected { router: "abc", rules: &RULES, begin: &begin })
    }

    fn good() -> (Place, Counted) {
        let place = Place { lam: 1.0, alpha: 0.1, group: Some("mail".into()) };
        let (known, mut counted) = begin(&place).unwrap();
        counted.alarm.update(1.0, 1.0).unwrap();
        counted.rolling.as_mut().unwrap().update(0.5, true, None).unwrap();
        (known.place, counted)
    }

    fn said(bytes: &[u8]) -> String {
        match taken(bytes) {
            Err(Refused::Other(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_saved_comes_back() {
        let (place, counted) = good();
        let bytes = text("abc", &RULES, [(&place, counted.clone())].into_iter());
        let found = taken(&bytes).unwrap();
        assert_eq!((&found[0].0.place, &found[0].1, found.len()), (&place, &counted, 1));
        assert_eq!(taken(&text("abc", &RULES, [].into_iter())).unwrap(), []);
    }

    #[test]
    fn states_of_others_are_refused_by_name() {
        let (place, counted) = good();
        let of = |router: &str, rules: &Rules, place: &Place, counted: &Counted| {
            text(router, rules, [(place, counted.clone())].into_iter())
        };
        assert_eq!(taken(&of("abd", &RULES, &place, &counted)), Err(Refused::Router("abd".into())));
        let other = Rules { delta: 0.05, ..RULES };
        assert!(said(&of("abc", &other, &place, &counted)).contains("delta = 0.05"));
        let other = Rules { threshold: Threshold::Calibrated, ..RULES };
        assert!(said(&of("abc", &other, &place, &counted)).contains("calibrated"));
        let elsewhere = Place { lam: 2.0, ..place.clone() };
        assert!(said(&of("abc", &RULES, &elsewhere, &counted)).contains("off the grid at lam = 2"));
        let elsewhere = Place { alpha: 0.2, ..place.clone() };
        assert!(said(&of("abc", &RULES, &elsewhere, &counted)).contains("alarm of alpha = 0.1"));
        let mut bare = counted.clone();
        bare.rolling = None;
        assert!(said(&of("abc", &RULES, &place, &bare)).contains("no rolling threshold"));
        let mut odd = counted.clone();
        odd.alarms = 3;
        assert!(said(&of("abc", &RULES, &place, &odd)).contains("do not agree"));
        odd.since = Some("yesterday".into());
        assert!(said(&of("abc", &RULES, &place, &odd)).contains("do not agree"));
        let twice = [(&place, counted.clone()), (&place, counted)];
        assert!(said(&text("abc", &RULES, twice.into_iter())).contains("a point twice"));
    }

    #[test]
    fn a_damaged_file_is_never_taken_for_another() {
        let (place, counted) = good();
        let bytes = text("abc", &RULES, [(&place, counted)].into_iter());
        for end in 0..bytes.len() {
            assert!(taken(&bytes[..end]).is_err(), "{end}");
        }
        let known = taken(&bytes).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            // A group's name may differ; what is counted may not.
            if let Ok(found) = taken(&bad) {
                assert_eq!(found[0].1.alarm, known[0].1.alarm, "byte {at}");
                assert_eq!(found[0].1.rolling, known[0].1.rolling, "byte {at}");
            }
        }
        for hostile in ["", "[]", "null", "{\"schema\": 1}", &"[".repeat(100_000)] {
            assert!(said(hostile.as_bytes()).len() < 400);
        }
    }
}
