//! What of a request counts as input beside what is embedded.

use super::*;

fn all(body: &str, kind: Kind) -> Vec<String> {
    let body = format!("{{\"model\":\"cr2fast\",{body}}}");
    let ask = Ask::read(Bytes::from(body), kind).unwrap();
    assert_eq!(ask.texts.routable(), Some("a"), "what is embedded stays");
    ask.texts.all.clone()
}

#[test]
fn what_a_chat_holds_beside_its_texts_counts() {
    let turn = r#"{"role":"user","content":"a"}"#;
    for (more, expected) in [
        (r#""tools":[ {"type": "function"} ]"#, vec![r#"[{"type":"function"}]"#]),
        (r#""functions":[{"name":"f"}],"documents":["d"]"#, vec![r#"[{"name":"f"}]"#, r#"["d"]"#]),
        (
            r#""response_format":{"type":"json_schema","json_schema":{"schema":{}}}"#,
            vec![r#"{"type":"json_schema","json_schema":{"schema":{}}}"#],
        ),
        (r#""response_format":{"type":"json_object"}"#, vec![]),
        (r#""tools":null,"functions":[],"documents":7,"response_format":"text""#, vec![]),
        (r#""suffix":"of completions","text":{"format":{"schema":{}}}"#, vec![]),
    ] {
        let body = format!("\"messages\":[{turn}],{more}");
        let expected: Vec<_> = ["a"].into_iter().chain(expected).map(String::from).collect();
        assert_eq!(all(&body, Kind::Chat), expected, "{more}");
        assert_eq!(all(&body, Kind::Any), expected, "{more}");
    }
    for (fields, expected) in [
        (
            r#""tool_calls":[{"id":"1","function":{"name":"f","arguments":"{\"x\": 1}"}},7]"#,
            vec!["f", r#"{"x": 1}"#],
        ),
        (r#""tool_calls":[{"custom":{"name":"g","input":"x"}}]"#, vec!["g", "x"]),
        (r#""function_call":{"name":"h","arguments":{"x": [ 1 ]}}"#, vec!["h", r#"{"x":[1]}"#]),
        (r#""refusal":"no","reasoning_content":"so""#, vec!["no", "so"]),
        (r#""tool_calls":"f","function_call":null"#, vec![]),
        (r#""tool_calls":[{"function":{"arguments":"\ud800"}}]"#, vec![r#""\ud800""#]),
    ] {
        let body = format!("\"messages\":[{{\"role\":\"assistant\",{fields}}},{turn}]");
        let expected: Vec<_> = expected.into_iter().chain(["a"]).map(String::from).collect();
        assert_eq!(all(&body, Kind::Chat), expected, "{fields}");
    }
    let refused = r#"{"role":"assistant","content":[{"type":"refusal","refusal":"no"}]}"#;
    assert_eq!(all(&format!("\"messages\":[{refused},{turn}]"), Kind::Chat), ["no", "a"]);
}

#[test]
fn what_completions_and_responses_hold_counts() {
    assert_eq!(all(r#""prompt":"a","suffix":"b""#, Kind::Completion), ["a", "b"]);
    let shape = r#""text":{"format":{"type":"json_schema","name":"n","schema":{}}}"#;
    let body = format!("\"instructions\":\"i\",\"input\":\"a\",\"tools\":[{{}}],{shape}");
    let schema = r#"{"type":"json_schema","name":"n","schema":{}}"#;
    assert_eq!(all(&body, Kind::Responses), ["i", "a", "[{}]", schema]);
    assert_eq!(all(r#""input":"a","text":{"verbosity":"low"}"#, Kind::Responses), ["a"]);
    let items = [
        r#"{"type":"function_call","name":"f","arguments":"{}"}"#,
        r#"{"type":"custom_tool_call","name":"g","input":"x"}"#,
        r#"{"type":"function_call_output","output":"42"}"#,
        r#"{"type":"reasoning","summary":[{"type":"summary_text","text":"s"}],"content":{}}"#,
    ];
    let input = format!("\"input\":[{},{{\"role\":\"user\",\"content\":\"a\"}}]", items.join(","));
    assert_eq!(all(&input, Kind::Responses), ["f", "{}", "g", "x", "42", "s", "a"]);
}

#[test]
fn several_prompts_count_and_decide_nothing() {
    let body = Bytes::from_static(br#"{"model":"cr2fast","prompt":["a","b"]}"#);
    let ask = Ask::read(body, Kind::Completion).unwrap();
    assert_eq!((ask.texts.routable(), ask.texts.all.len()), (None, 2));
}

#[test]
fn a_field_that_stands_twice_is_refused_there_too() {
    for body in [
        r#""tools":[],"tools":[]"#,
        r#""messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","name":"g"}}]}]"#,
        r#""response_format":{"schema":{},"schema":{}}"#,
    ] {
        let body = Bytes::from(format!("{{\"model\":\"small\",{body}}}"));
        assert_eq!(Ask::read(body, Kind::Chat).unwrap_err().code, "field_repeated");
    }
}
