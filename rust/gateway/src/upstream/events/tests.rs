//! Streams, whole and odd.

use super::*;

const ROLE: &str =
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"é\"}}]}\r\n\r\n";
const CALL: &str = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{}]}}]}\n\n";
const ERROR: &str = "event: error\ndata: {\"error\":{\"message\":\"out of memory\"}}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"x\":1}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn one(text: &str) -> Event {
    Events::default().push(Bytes::copy_from_slice(text.as_bytes())).unwrap().unwrap().event
}

#[test]
fn events_are_told_apart() {
    for (text, event) in [
        (ROLE, Event::Empty),
        (": ping\n\n", Event::Empty),
        (WORD, Event::Content),
        (CALL, Event::Content),
        ("data: {\"choices\":[{\"text\":\"a\"}]}\n\n", Event::Content),
        ("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", Event::Content),
        (ERROR, Event::Error),
        (USAGE, Event::Empty),
        (DONE, Event::Done),
        ("data: <html>\n\n", Event::Garbage),
        ("<html>\n\n", Event::Garbage),
        ("data: [1]\n\n", Event::Garbage),
    ] {
        assert_eq!(one(text), event, "{text}");
    }
    assert_eq!(one(&format!("{ROLE}{ERROR}{WORD}")), Event::Error);
    assert_eq!(
        Events::default().push(Bytes::from_static(b"\xff\n\n")).unwrap().unwrap().event,
        Event::Garbage
    );
}

#[test]
fn events_of_a_responses_stream_say_their_type() {
    let typed = |kind: &str, more: &str| {
        format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":3{more}}}\n\n")
    };
    for (kind, more, event) in [
        ("response.created", ",\"response\":{\"error\":null}", Event::Empty),
        ("response.in_progress", "", Event::Empty),
        ("response.output_item.added", ",\"item\":{}", Event::Empty),
        ("response.output_text.delta", ",\"delta\":\"\"", Event::Empty),
        ("response.output_text.delta", ",\"delta\":\"hi\"", Event::Content),
        ("response.function_call_arguments.delta", ",\"delta\":\"{\"", Event::Content),
        ("response.reasoning_summary_text.delta", ",\"delta\":\"so\"", Event::Content),
        ("response.output_text.done", ",\"text\":\"\"", Event::Content),
        ("response.of_a_later_version", "", Event::Content),
        ("response.failed", ",\"response\":{\"error\":{}}", Event::Error),
        ("error", ",\"message\":\"x\"", Event::Error),
        ("thread.created", "", Event::Garbage),
    ] {
        assert_eq!(one(&typed(kind, more)), event, "{kind} {more}");
    }
    let mut events = Events::default();
    let usage = ",\"response\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":7}}";
    let part = events.push(typed("response.completed", usage).into()).unwrap().unwrap();
    assert_eq!((part.event, events.done(), events.sequence), (Event::Done, true, Some(3)));
    let usage = events.usage.unwrap();
    assert_eq!((usage.input(), usage.output()), (Some(5), Some(7)));
}

#[test]
fn wherever_the_stream_is_cut_the_same_bytes_come_out_in_whole_events() {
    let stream = [ROLE, WORD, ": ping\n\n", CALL, USAGE, DONE].concat();
    for size in 1..stream.len() {
        let mut events = Events::default();
        let mut out = Vec::new();
        for piece in stream.as_bytes().chunks(size) {
            if let Some(part) = events.push(Bytes::copy_from_slice(piece)).unwrap() {
                assert!(part.bytes.ends_with(b"\n\n") || part.bytes.ends_with(b"\n\r\n"));
                out.extend_from_slice(&part.bytes);
            }
        }
        assert_eq!(events.rest(), "", "{size}");
        assert_eq!(out, stream.as_bytes(), "{size}");
        assert!(events.done());
        let usage = events.usage.unwrap();
        assert_eq!((usage.input(), usage.output()), (Some(5), Some(7)));
    }
}

fn choice(index: u8, reason: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":{index},\"finish_reason\":{reason}}}]}}\n\n")
}

#[test]
fn an_end_is_announced_and_half_an_event_is_not_passed_on() {
    for (stream, done, rest) in [
        ([WORD, "data: [DONE]"].concat(), true, "data: [DONE]"),
        ([WORD, "data: {\"id"].concat(), false, ""),
        ([WORD, "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n"].concat(), true, ""),
        (WORD.into(), false, ""),
        (format!("{}{}", choice(0, "null"), choice(1, "\"stop\"")), false, ""),
        (format!("{}{}", choice(1, "\"length\""), choice(0, "\"stop\"")), true, ""),
    ] {
        let mut events = Events::default();
        let _ = events.push(Bytes::from(stream.clone())).unwrap();
        assert_eq!(events.end(), rest, "{stream}");
        assert_eq!(events.done(), done, "{stream}");
    }
}

#[test]
fn an_event_without_end_is_given_up() {
    let mut events = Events::default();
    let piece = Bytes::from(vec![b'x'; 1 << 16]);
    let pieces = (0..100).find(|_| events.push(piece.clone()).is_err()).unwrap();
    assert_eq!(pieces, MAX_EVENT / piece.len());
}

#[test]
fn answers_in_one_piece_are_told_apart() {
    let event = |body: &str| look_at_whole(body.as_bytes()).0;
    assert_eq!(event("{\"choices\":[{}],\"error\":null}"), Event::Content);
    assert_eq!(event("{\"output\":[]}"), Event::Content);
    for none in [
        "\"choices\":[]",
        "\"error\":null",
        "\"detail\":\"oom\"",
        "\"object\":\"error\",\"choices\":[{}]",
    ] {
        assert_eq!(event(&format!("{{{none}}}")), Event::Error, "{none}");
    }
    for odd in ["3.0", "-1", "\"3\"", "1e300"] {
        let body = format!("{{\"choices\":[{{}}],\"usage\":{{\"prompt_tokens\":{odd}}}}}");
        assert_eq!(look_at_whole(body.as_bytes()), (Event::Content, None), "{odd}");
    }
    assert_eq!(event("{\"error\":{\"message\":\"x\"}}"), Event::Error);
    assert_eq!(event("{\"error\":\"x\"}"), Event::Error);
    for garbage in ["", "[]", "<html>", "{\"choices\":"] {
        assert_eq!(event(garbage), Event::Garbage, "{garbage}");
    }
    let counted = USAGE.replace("[]", "[{}]");
    let (_, usage) = look_at_whole(counted.trim_start_matches("data:").trim().as_bytes());
    assert_eq!(usage.unwrap().output(), Some(7));
}

#[test]
fn every_spelling_of_a_stream_is_read_and_passes_unchanged() {
    let word = "{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}";
    let usage =
        "{\"choices\":[],\"usage\":\ndata:  {\"prompt_tokens\":5,\ndata: \"completion_tokens\":7}}";
    let stream = format!(
        "\u{feff}: ping\n\nid: 1\nretry: 5\nx-own: y\ndata: {word}\n\n:\n\nevent: message\ndata:{word}\n\ndata: {usage}\n\ndata: [DONE]"
    );
    for end in ["", "\n", "\n\n"] {
        for newline in ["\n", "\r\n", "\r"] {
            let stream = (stream.clone() + end).replace('\n', newline);
            for size in 1..=stream.len() {
                let (mut events, mut out, mut kinds) = (Events::default(), vec![], vec![]);
                for piece in stream.as_bytes().chunks(size) {
                    if let Some(part) = events.push(Bytes::copy_from_slice(piece)).unwrap() {
                        out.extend_from_slice(&part.bytes);
                        kinds.push(part.event);
                    }
                }
                out.extend_from_slice(&events.end());
                assert_eq!(out, stream.as_bytes(), "{newline:?} {size}");
                assert!(events.done() && !events.failed, "{newline:?} {size}");
                let usage = events.usage.unwrap();
                assert_eq!((usage.input(), usage.output()), (Some(5), Some(7)));
                assert!(!kinds.contains(&Event::Garbage), "{newline:?} {size} {kinds:?}");
                assert!(size > 100 || kinds.contains(&Event::Content));
            }
        }
    }
    // Counts after the end, without their empty line, are passed on.
    let mut events = Events::default();
    let stream = [&choice(0, "\"stop\""), USAGE.trim_end()].concat();
    let part = events.push(Bytes::from(stream.clone())).unwrap().unwrap();
    assert_eq!([&part.bytes[..], &events.end()].concat(), stream.as_bytes());
    assert_eq!(events.usage.unwrap().output(), Some(7));
    assert_eq!(one("event: error\ndata: overloaded\n\n"), Event::Error);
    assert_eq!(one("event: message\ndata: overloaded\n\n"), Event::Garbage);
}

#[test]
fn what_is_compressed_passes_as_it_comes() {
    let mut events = Events { opaque: true, ..Events::default() };
    let part = events.push(Bytes::from_static(b"\x1f\x8b\xff")).unwrap().unwrap();
    assert_eq!((part.event, part.bytes.len(), events.done()), (Event::Content, 3, false));
    assert_eq!((events.end().len(), events.done(), events.usage), (0, true, None));
}
