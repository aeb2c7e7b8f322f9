//! Bodies, good and bad.

use super::*;

/// What a routed chat has at least.
const SAID: &str = r#""messages":[{"role":"user","content":"a"}]"#;

fn read(body: &str) -> Result<Ask, Refusal> {
    Ask::read(Bytes::copy_from_slice(body.as_bytes()), Kind::Chat)
}

#[test]
fn only_the_models_name_changes() {
    let body = r#" {"x": {"model": "deep"},  "model" : "cr2f\u0061st", "messages": [{"role":"user","content":"a"}], "y":1.0e3 } "#;
    let ask = read(body).unwrap();
    assert_eq!(ask.target, Target::Routed { lam: None, alpha: None });
    let expected = body.replace(r#""cr2f\u0061st""#, r#""a \"quoted\" name""#);
    assert_eq!(ask.body_for("a \"quoted\" name"), expected);
}

#[test]
fn a_name_that_is_right_already_costs_no_copy() {
    let ask = read(r#"{"model":"small","messages":[]}"#).unwrap();
    assert_eq!(ask.body_for("small").as_ptr(), ask.body.as_ptr());
}

#[test]
fn bodies_that_are_none_are_refused_without_quoting_them() {
    for (body, words) in [
        ("", "an empty body"),
        ("secret", "something else"),
        ("[\"secret\"]", "an array"),
        ("{\"secret\"", "ends too soon, at line 1 column 9"),
        ("{\"model\":\"secret\",}", "no JSON, at line 1 column"),
        ("{\"model\":\"a\",\"model\":\"b\"}", "\"model\" again"),
        ("{\"messages\":[]}", "body.model: expected"),
        ("{\"model\":3}", "body.model: expected a string"),
        ("{\"model\":\"a\",\"stream\":\"secret\"}", "body.stream: expected true or false"),
        ("{\"model\":\"\\ud800secret\"}", "body.model: expected a string"),
    ] {
        let refusal = read(body).unwrap_err();
        assert_eq!(refusal.status, 400, "{body}");
        assert!(refusal.message.contains(words), "{body}: {}", refusal.message);
        assert!(!refusal.message.contains("secret"), "{}", refusal.message);
    }
    let refusal = Ask::read(Bytes::from_static(b"{\"model\":\"\xff\"}"), Kind::Chat).unwrap_err();
    assert!(refusal.message.contains("no UTF-8 at offset 10"), "{}", refusal.message);
}

#[test]
fn depth_is_no_weapon() {
    let body = format!("{{\"model\":\"a\",\"x\":{}", "[".repeat(200_000));
    assert_eq!(read(&body).unwrap_err().code, "body_not_json");
    let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let deep = nest(100_000);
    let body =
        format!("{{\"model\":\"a\",\"messages\":[{{\"role\":\"user\",\"content\":{deep}}}]}}");
    assert_eq!(read(&body).unwrap().texts.embedded, None);
}

#[test]
fn bounds_of_the_context_are_read() {
    let ask = read(r#"{"model":"a","max_tokens":7,"stream":true}"#).unwrap();
    assert_eq!((ask.max_output_tokens, ask.stream), (Some(7), true));
    let ask = read(r#"{"model":"a","max_tokens":7,"max_completion_tokens":9}"#).unwrap();
    assert_eq!(ask.max_output_tokens, Some(9));
    assert_eq!(read(r#"{"model":"a","max_tokens":null}"#).unwrap().max_output_tokens, None);
    // The greater one, since a server may read either; a whole number in any spelling.
    for (fields, most) in [
        (r#""max_tokens":900,"max_completion_tokens":9"#, Some(900)),
        (r#""max_tokens":900,"max_completion_tokens":null"#, Some(900)),
        (r#""max_tokens":5000.0"#, Some(5000)),
        (r#""max_completion_tokens":5e3"#, Some(5000)),
        (r#""max_tokens":99999999999999999999999"#, Some(u64::MAX)),
        (r#""max_tokens":1e300"#, Some(u64::MAX)),
        (r#""n":2.0,"max_output_tokens":"not of a chat""#, None),
        (r#""n":null"#, None),
    ] {
        let ask = read(&format!("{{\"model\":\"cr2fast\",{SAID},{fields}}}")).unwrap();
        assert_eq!(ask.max_output_tokens, most, "{fields}");
    }
    for field in ["max_tokens", "max_completion_tokens", "n"] {
        for odd in ["0", "-1", "-5000.0", "0.5", "1e-400", "1e400", "\"5000\"", "true", "[5]", "{}"]
        {
            let of =
                |model: &str| read(&format!("{{\"model\":\"{model}\",{SAID},\"{field}\":{odd}}}"));
            let refusal = of("cr2fast").unwrap_err();
            assert_eq!((refusal.status.as_u16(), refusal.code), (400, "count"), "{field} {odd}");
            assert!(refusal.message.contains(&format!("body.{field}: expected a whole number")));
            assert!(of("small").is_ok(), "a server that is named has its own word on it");
        }
    }
    let zero = r#"{"model":"cr2fast","prompt":"a","max_tokens":0}"#;
    let zero = Ask::read(Bytes::from_static(zero.as_bytes()), Kind::Completion).unwrap();
    assert_eq!(zero.max_output_tokens, Some(0), "a completion may ask for none");
    assert_eq!(
        responses(r#"{"model":"cr2fast","input":"a","max_output_tokens":-1}"#).unwrap_err().code,
        "count"
    );
}

#[test]
fn what_models_would_see_or_give_beyond_the_text_is_not_decided_by_it() {
    let image = r#"{"type":"image_url","image_url":{"url":"data:"}}"#;
    let text = r#"{"role":"user","content":"a"}"#;
    let turn = |role: &str, content: &str| {
        format!("\"messages\":[{{\"role\":\"{role}\",\"content\":{content}}},{text}]")
    };
    let with = |more: &str| format!("\"messages\":[{text}],{more}");
    for fields in [
        turn("tool", &format!("[{image}]")),
        turn("tool", image),
        turn("system", r#"[{"type":"file","file":{}}]"#),
        turn("developer", r#"[{"type":"input_audio"}]"#),
        turn("user", r#"[{"type":"text","text":"b","image_url":{"url":"data:"}}]"#),
        turn("assistant", "null").replace("null", "null,\"audio\":{\"id\":\"audio_1\"}"),
        with(r#""modalities":["text","audio"]"#),
        with(r#""modalities":["audio"]"#),
        with(r#""modalities":"audio""#),
        with(r#""audio":{"voice":"alloy"}"#),
    ] {
        let ask = read(&format!("{{\"model\":\"cr2fast\",{fields}}}")).unwrap();
        assert_eq!(ask.texts.routable(), None, "{fields}");
    }
    for fields in [
        with(r#""modalities":["text"]"#),
        with(r#""modalities":null,"audio":null"#),
        turn("tool", "\"b\""),
        turn("assistant", "null").replace("null", "null,\"audio\":null"),
        turn("user", r#"[{"type":"text","text":"b","image_url":null}]"#),
    ] {
        let ask = read(&format!("{{\"model\":\"cr2fast\",{fields}}}")).unwrap();
        assert_eq!(ask.texts.routable(), Some("a"), "{fields}");
    }
    for (fields, routable) in [
        (r#""input":"a","prompt":{"id":"pmpt_1"}"#, None),
        (r#""prompt":{"id":"pmpt_1","variables":{"x":"y"}}"#, None),
        (r#""input":"a","prompt":null"#, Some("a")),
        (r#""input":[{"type":"item_reference","id":"x"},{"role":"user","content":"a"}]"#, None),
    ] {
        for kind in [Kind::Responses, Kind::Any] {
            let body = Bytes::from(format!("{{\"model\":\"cr2fast\",{fields}}}"));
            assert_eq!(Ask::read(body, kind).unwrap().texts.routable(), routable, "{fields}");
        }
    }
    let embeds = Bytes::from_static(br#"{"model":"cr2fast","prompt":"a","prompt_embeds":"AAAA"}"#);
    assert_eq!(Ask::read(embeds, Kind::Completion).unwrap().texts.routable(), None);
}

fn responses(body: &str) -> Result<Ask, Refusal> {
    Ask::read(Bytes::copy_from_slice(body.as_bytes()), Kind::Responses)
}

#[test]
fn the_last_user_turn_of_a_responses_input_is_embedded() {
    for (input, embedded, all) in [
        (r#""hello""#, Some("hello"), 1),
        (r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#, Some("a"), 2),
        (
            r#"[{"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
               {"type":"function_call","name":"f","arguments":"{}"},
               {"type":"function_call_output","output":"42"},{"type":"reasoning","summary":[]}]"#,
            Some("a\nb"),
            4,
        ),
        (
            r#"[{"type":"function_call_output","output":[{"type":"input_text","text":"42"}]}]"#,
            None,
            1,
        ),
        (r#"[{"role":"user","content":[{"type":"text","text":"a"}]}]"#, None, 0),
        ("[1]", None, 0),
        ("\"\"", Some(""), 1),
    ] {
        let ask = responses(&format!("{{\"model\":\"cr2fast\",\"input\":{input}}}")).unwrap();
        assert_eq!(ask.texts.routable(), embedded, "{input}");
        assert_eq!(ask.texts.all.len(), all, "{input}");
    }
    for other in [
        r#"{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image"}]}"#,
        r#"{"role":"user","content":[{"type":"input_file"}]}"#,
        r#"{"type":"item_reference","id":"x"}"#,
        r#"{"type":"computer_call_output","output":{}}"#,
        r#"{"type":"function_call_output","output":[{"type":"input_image"}]}"#,
    ] {
        let input = format!("[{other},{{\"role\":\"user\",\"content\":\"a\"}}]");
        let ask = responses(&format!("{{\"model\":\"cr2fast\",\"input\":{input}}}")).unwrap();
        assert!(ask.texts.other_media, "{other}");
        assert_eq!(ask.texts.routable(), None);
    }
    let ask = responses(
        r#"{"model":"a","instructions":"be brief","input":"hi","max_output_tokens":9,"max_tokens":1}"#,
    );
    let ask = ask.unwrap();
    assert_eq!(ask.texts.all, ["be brief", "hi"]);
    assert_eq!(ask.max_output_tokens, Some(9));
}

#[test]
fn what_one_server_keeps_is_not_routed() {
    for field in [
        r#""previous_response_id":"resp_1""#,
        r#""conversation":"conv_1""#,
        r#""conversation":{"id":"c"}"#,
        r#""background":true"#,
    ] {
        let of =
            |model: &str| responses(&format!("{{\"model\":\"{model}\",\"input\":\"a\",{field}}}"));
        assert_eq!(of("cr2fast").unwrap_err().code, "state_elsewhere", "{field}");
        assert!(of("large").is_ok(), "{field}");
    }
    let none = r#"{"model":"cr2fast","input":"a","previous_response_id":null,"background":false}"#;
    assert!(responses(none).is_ok());
}

#[test]
fn which_endpoint_a_body_is_for_is_seen_by_its_fields() {
    for (fields, embedded) in [
        (r#""messages":[{"role":"user","content":"a"}],"input":"b","prompt":"c""#, Some("a")),
        (r#""input":"b""#, Some("b")),
        (r#""input":"b","prompt":"c""#, Some("c")),
        (r#""prompt":[1, 2]"#, None),
    ] {
        let body = format!("{{\"model\":\"cr2fast\",{fields}}}");
        let ask = Ask::read(Bytes::from(body), Kind::Any).unwrap();
        assert_eq!(ask.texts.routable(), embedded, "{fields}");
    }
}

#[test]
fn a_routed_request_asks_something_and_an_empty_text_is_something() {
    use Kind::{Any, Chat, Completion, Responses};
    let of = |model: &str, fields: &str, kind: Kind| {
        Ask::read(Bytes::from(format!("{{\"model\":\"{model}\"{fields}}}")), kind)
    };
    for (fields, kind, words) in [
        ("", Chat, "body.messages: expected a list of at least one message, got none"),
        (
            r#","messages":null"#,
            Chat,
            "body.messages: expected a list of at least one message, got none",
        ),
        (r#","messages":[]"#, Chat, "at least one message, got an empty list"),
        (",\"messages\": [ \n ]", Chat, "at least one message, got an empty list"),
        (r#","messages":7"#, Chat, "at least one message, got another kind of value"),
        (r#","messages":"a""#, Chat, "at least one message, got another kind of value"),
        (
            r#","prompt":"a""#,
            Chat,
            "body.messages: expected a list of at least one message, got none",
        ),
        ("", Completion, "body.prompt: expected a text, or a list of at least one, got none"),
        (r#","prompt":[]"#, Completion, "or a list of at least one, got an empty list"),
        (r#","prompt":{}"#, Completion, "got another kind of value"),
        ("", Responses, "body.input: expected a text, or a list of at least one item, got none"),
        (r#","input":[],"instructions":"a""#, Responses, "at least one item, got an empty list"),
        (r#","input":7"#, Responses, "at least one item, got another kind of value"),
        ("", Any, "body: expected messages, a prompt or an input, got none"),
        (r#","x":1"#, Any, "body: expected messages, a prompt or an input, got none"),
        (r#","messages":[]"#, Any, "body.messages: expected a list of at least one message"),
    ] {
        let refusal = of("cr2fast", fields, kind).unwrap_err();
        assert_eq!(refusal.status, 400, "{fields}");
        assert!(refusal.message.contains(words), "{fields}: {}", refusal.message);
        // A server that is named has its own word on it.
        assert!(of("small", fields, kind).is_ok(), "{fields}");
    }
    for text in ["", " ", "\n\t ", "\u{a0}\u{2003}"] {
        let said = serde_json::Value::from(text);
        for (fields, kind) in [
            (format!(",\"messages\":[{{\"role\":\"user\",\"content\":{said}}}]"), Chat),
            (
                format!(
                    ",\"messages\":[{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":{said}}}]}}]"
                ),
                Chat,
            ),
            (format!(",\"prompt\":{said}"), Completion),
            (format!(",\"prompt\":[{said}]"), Completion),
            (format!(",\"input\":{said}"), Responses),
        ] {
            for kind in [kind, Any] {
                assert_eq!(of("cr2fast", &fields, kind).unwrap().texts.routable(), Some(text));
            }
        }
    }
    // What is asked may stand elsewhere, or be no text.
    for (fields, kind) in [
        (r#","prompt_embeds":"AAAA""#, Completion),
        (r#","prompt":{"id":"pmpt_1"}"#, Responses),
        (r#","messages":[{"role":"user","content":[]}]"#, Chat),
        (r#","messages":[{"role":"user","content":null}]"#, Chat),
        (r#","messages":[{"role":"system","content":"a"}]"#, Chat),
    ] {
        assert_eq!(of("cr2fast", fields, kind).unwrap().texts.routable(), None, "{fields}");
    }
}
