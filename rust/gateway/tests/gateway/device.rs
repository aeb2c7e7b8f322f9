//! A device gateway between a client, a local server and an edge.

use std::sync::Arc;

use crate::common::client::{CHAT, ask, chat, get, post, read, send, streamed};
use crate::common::stub::{ANSWER, DONE, Play, ROLE, Stub, WORD};
use crate::common::{World, device};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::Notify;

fn events(all: &[&str]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// A world, both upstreams, a gateway, an accepted text and a deferred one.
async fn setup() -> (World, Stub, Stub, crate::common::Gateway, String, String) {
    let world = World::new();
    let (local, edge) = (Stub::answering().await, Stub::answering().await);
    let gateway = world.start(&device(&local.url, &edge.url)).await;
    let (accepted, deferred) = world.texts();
    (world, local, edge, gateway, accepted, deferred)
}

#[tokio::test]
async fn accepted_requests_go_to_the_local_server_and_deferred_ones_to_the_edge() {
    let (world, local, edge, gateway, accepted, deferred) = setup().await;
    let reply = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    assert_eq!((reply.status, reply.place()), (200, ("device", "small", "accepted")));
    assert_eq!(reply.body, ANSWER, "byte for byte");
    assert_eq!(reply.header("x-own"), "kept");
    let core = world.core().route_text(&accepted, &world.encoder, false).unwrap();
    let margin: f32 = reply.header("x-cr2fast-margin").parse().unwrap();
    assert_eq!(margin.to_bits(), core.margin.to_bits());
    assert_eq!(reply.header("x-cr2fast-threshold"), "0");
    assert_eq!(reply.header("x-cr2fast-lam"), "1");
    assert_eq!(reply.header("x-cr2fast-alpha"), "0.05");
    assert_eq!(reply.header("x-cr2fast-request-id").len(), 32);
    let seen = &local.seen()[0];
    let expected = chat("cr2fast", &accepted).replace("cr2fast", "tiny.gguf");
    assert_eq!(seen.body, expected.as_bytes());
    assert!(!seen.head.contains("x-cr2fast"), "{}", seen.head);
    assert_eq!(edge.count(), 0);

    let reply = ask(&gateway.url, &chat("cr2fast", &deferred)).await;
    assert_eq!((reply.status, reply.place()), (200, ("edge", "unknown", "deferred")));
    let seen = &edge.seen()[0];
    assert_eq!(seen.body, chat("cr2fast", &deferred).as_bytes());
    assert_eq!(seen.header("x-cr2fast-version"), Some("2"));
    assert_eq!(seen.header("x-cr2fast-lam"), Some("1"));
    assert_eq!(seen.header("x-cr2fast-request-id"), Some(reply.header("x-cr2fast-request-id")));
    let token = format!("Bearer {}", crate::common::DEVICE_TOKEN);
    assert_eq!(seen.header("authorization"), Some(token.as_str()));
    assert_eq!(local.count(), 1);
}

#[tokio::test]
async fn the_point_comes_from_the_name_the_headers_or_the_file() {
    let (_world, _local, edge, gateway, accepted, _) = setup().await;
    let at = async |model: &str, headers: &[(&str, &str)]| {
        post(&gateway.url, CHAT, &chat(model, &accepted), headers).await
    };
    // At α = 0.02 the threshold is infinite: everything is deferred.
    let reply = at("cr2fast:lam=0.1,alpha=0.02", &[]).await;
    assert_eq!(reply.place().2, "deferred");
    assert_eq!(reply.header("x-cr2fast-threshold"), "inf");
    assert_eq!(reply.header("x-cr2fast-lam"), "0.1");
    assert_eq!(edge.seen()[0].body, chat("cr2fast", &accepted).as_bytes());
    assert_eq!(edge.seen()[0].header("x-cr2fast-alpha"), Some("0.02"));
    let reply = at("cr2fast", &[("x-cr2fast-alpha", "0.02")]).await;
    assert_eq!(reply.header("x-cr2fast-alpha"), "0.02");
    let reply = at("cr2fast:alpha=0.05", &[("x-cr2fast-alpha", "0.02")]).await;
    assert_eq!(reply.status, 400);
    let reply = at("cr2fast:lam=0.5", &[]).await;
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("nearest 0.1 and 1"), "{}", reply.error());
    assert!(at("cr2fast:alpha=0.03", &[]).await.error().contains("[0.02, 0.05]"));
    assert_eq!(at("cr2fast", &[("x-cr2fast-embedding", "AAAA")]).await.status, 403);
}

#[tokio::test]
async fn a_models_name_goes_there_directly_and_nowhere_else() {
    let (_world, local, edge, gateway, accepted, _) = setup().await;
    let reply = ask(&gateway.url, &chat("small", &accepted)).await;
    assert_eq!(reply.place(), ("device", "small", "direct"));
    assert_eq!(reply.header("x-cr2fast-margin"), "");
    let reply = ask(&gateway.url, &chat("large", &accepted)).await;
    assert_eq!(reply.place(), ("edge", "large", "direct"));
    assert_eq!(edge.seen()[0].body, chat("large", &accepted).as_bytes());
    assert_eq!(edge.seen()[0].header("x-cr2fast-embedding"), None);
    let reply = ask(&gateway.url, &chat("huge", &accepted)).await;
    assert_eq!(reply.status, 404);
    assert!(reply.error().contains("[\"small\", \"medium\", \"large\"], got \"huge\""));
    local.play(Play::Json(500, "{}".into()));
    let reply = ask(&gateway.url, &chat("small", &accepted)).await;
    assert_eq!((reply.status, edge.count()), (502, 1));
    let models = get(&gateway.url, "/v1/models").await.json();
    let ids: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["cr2fast", "small", "medium", "large"]);
}

#[tokio::test]
async fn what_text_does_not_decide_and_what_is_too_long_goes_to_the_edge() {
    let (_world, local, edge, gateway, accepted, _) = setup().await;
    let image = serde_json::json!({"model": "cr2fast", "messages": [{"role": "user", "content": [
        {"type": "text", "text": accepted},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]});
    for body in [
        image.to_string(),
        "{\"model\":\"cr2fast\",\"messages\":[]}".into(),
        "{\"model\":\"cr2fast\",\"messages\":7}".into(),
        "{\"model\":\"cr2fast\"}".into(),
    ] {
        let reply = ask(&gateway.url, &body).await;
        assert_eq!(reply.place().2, "not-text", "{body}");
        assert_eq!(edge.seen().last().unwrap().header("x-cr2fast-embedding"), None);
    }
    let reply = ask(&gateway.url, &chat("cr2fast", &"a ".repeat(1001))).await;
    assert_eq!(reply.place().2, "too-long");
    let much = format!("{{\"max_tokens\": 1000, {}", &chat("cr2fast", &accepted)[1..]);
    assert_eq!(ask(&gateway.url, &much).await.place().2, "too-long");
    // An encoder counts what has no spaces as one word.
    let whole = chat("cr2fast", &"สวัสดี".repeat(500));
    assert_eq!(ask(&gateway.url, &whole).await.place().2, "too-long");
    assert_eq!(local.count(), 0);
}

#[tokio::test]
async fn the_other_place_answers_whatever_way_the_first_one_fails() {
    let (_world, local, edge, _, accepted, deferred) = setup().await;
    let lie = |long: usize| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {long}\r\n\r\n{ANSWER}")
            .into_bytes()
    };
    let error = "{\"error\": {\"message\": \"CUDA out of memory\"}}";
    let error_event = format!("data: {error}\n\n");
    let sse = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    };
    let plays = [
        ("status", Play::Json(500, "{}".into())),
        ("status", Play::Json(429, "{}".into())),
        ("status", Play::Json(302, "{}".into())),
        ("status", Play::Json(401, "{}".into())),
        ("deadline", Play::Silence),
        ("broken", Play::Cut),
        ("broken", Play::Raw(b"\x16\x03\x01 no HTTP\r\n\r\n".to_vec())),
        ("broken", Play::Raw(lie(9_999))),
        ("error-inside", Play::Json(200, error.into())),
        ("garbage", Play::Json(200, "<html>".into())),
        ("garbage", Play::Json(200, String::new())),
    ];
    let streams = [
        ("error-inside", Play::Events(events(&[ROLE, &error_event]))),
        ("broken", Play::Events(events(&[ROLE]))),
        ("broken", Play::EventsThenCut(events(&[ROLE]))),
        ("deadline", Play::EventsThenSilence(events(&[ROLE, ": ping\n\n"]))),
        ("garbage", Play::Events(events(&["data: <html>\n\n"]))),
        ("garbage", Play::Raw(sse(&"\u{1}garbage\n\n".repeat(10)))),
        ("garbage", Play::Raw(sse(&"x".repeat(2 << 20)))),
        ("broken", Play::Raw(sse("data: {\"choices\""))),
        ("error-inside", Play::Json(200, error.into())),
    ];
    let plays = plays.into_iter().map(|(word, play)| (word, play, false));
    for (word, play, stream) in plays.chain(streams.into_iter().map(|(w, p)| (w, p, true))) {
        // A gateway for each, so that no breaker is in the way.
        let world = World::new();
        let gateway = world.start(&device(&local.url, &edge.url)).await;
        let body = if stream { streamed } else { chat };
        let good = || {
            if stream {
                Play::Events(events(&[ROLE, WORD, DONE]))
            } else {
                Play::Json(200, ANSWER.into())
            }
        };
        let expected = if stream { [ROLE, WORD, DONE].concat() } else { ANSWER.into() };
        edge.play(play.clone());
        local.play(good());
        let reply = ask(&gateway.url, &body("cr2fast", &deferred)).await;
        assert_eq!(
            (reply.status, reply.place()),
            (200, ("device", "small", "edge-down")),
            "{play:?}"
        );
        assert_eq!(reply.body, expected);
        local.play(play.clone());
        edge.play(good());
        let reply = ask(&gateway.url, &body("cr2fast", &accepted)).await;
        assert_eq!((reply.status, reply.place().2), (200, "device-down"), "{play:?}");
        assert_eq!(reply.body, expected);
        let metrics = get(&gateway.url, "/metrics").await.body;
        for upstream in ["edge", "device"] {
            let line = format!(
                "cr2fast_upstream_failures_total{{upstream=\"{upstream}\",failure=\"{word}\"}} 1"
            );
            assert!(metrics.contains(&line), "{line}\n{metrics}");
        }
    }
}

#[tokio::test]
async fn words_of_the_upstream_about_the_request_are_handed_on() {
    let (_world, local, edge, gateway, accepted, _) = setup().await;
    let words = "{\"error\": {\"message\": \"unknown field\"}}";
    for status in [400, 404, 422] {
        local.play(Play::Json(status, words.into()));
        let reply = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
        assert_eq!((reply.status, reply.body.as_str()), (status, words));
        assert_eq!(reply.place(), ("device", "small", "accepted"));
    }
    assert_eq!(edge.count(), 0);
}

#[tokio::test]
async fn a_stream_passes_unchanged_and_one_that_breaks_ends_in_an_error_event() {
    let (_world, local, edge, gateway, accepted, _) = setup().await;
    let all = [ROLE, ": ping\n\n", WORD, WORD, DONE];
    local.play(Play::Events(events(&all)));
    let reply = ask(&gateway.url, &streamed("cr2fast", &accepted)).await;
    assert_eq!(reply.body, all.concat());
    assert_eq!(reply.header("content-type"), "text/event-stream; charset=utf-8");
    for (play, how) in [
        (Play::EventsThenCut(events(&[WORD, "data: {\"choi"])), "broke off"),
        (Play::Events(events(&[WORD])), "broke off"), // a clean end, but not the answer's
        (Play::Events(events(&[WORD, "data: {\"choi"])), "broke off"),
        (Play::EventsThenSilence(events(&[WORD, "data: {\"choi"])), "fell silent"),
    ] {
        local.play(play);
        let reply = ask(&gateway.url, &streamed("cr2fast", &accepted)).await;
        let rest = reply.body.strip_prefix(WORD).unwrap();
        let error: Value = serde_json::from_str(rest.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(error["error"]["code"], "stream_interrupted");
        assert!(error["error"]["message"].as_str().unwrap().contains(how));
    }
    let whole = [WORD, DONE].concat();
    local.play(Play::EventsThenCut(events(&[WORD, DONE])));
    assert_eq!(ask(&gateway.url, &streamed("cr2fast", &accepted)).await.body, whole);
    assert_eq!(edge.count(), 0, "nothing is switched after the first content");
}

#[tokio::test]
async fn content_is_handed_on_while_the_stream_goes_on() {
    let (_world, local, _edge, gateway, accepted, _) = setup().await;
    local.play(Play::EventsThenSilence(events(&[ROLE, WORD])));
    let mut response = send(&gateway.url, CHAT, streamed("cr2fast", &accepted), &[]).await;
    let mut got = Vec::new();
    while got != [ROLE, WORD].concat().as_bytes() {
        got.extend(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap());
    }
    drop(response);
    // The client is gone: so is the upstream's connection, long before any idle limit of its own.
    local.left.notified().await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_upstream() {
    let world = World::new();
    let (local, edge) = (Stub::start(Play::Silence).await, Stub::answering().await);
    let slow = device(&local.url, &edge.url).replace("answer_ms = 300", "answer_ms = 3600000");
    let gateway = world.start(&slow).await;
    let body = chat("small", "a");
    let url = gateway.url.clone();
    let client = tokio::spawn(async move { ask(&url, &body).await });
    while local.count() == 0 {
        tokio::task::yield_now().await;
    }
    client.abort();
    local.left.notified().await;
}

#[tokio::test]
async fn an_upstream_that_keeps_failing_is_left_alone_and_tried_again() {
    let world = World::new();
    let (local, edge) = (Stub::answering().await, Stub::start(Play::Cut).await);
    let text = device(&local.url, &edge.url) + "[breaker]\nfailures = 3\nopen_ms = 200\n";
    let gateway = world.start(&text).await;
    let (accepted, deferred) = world.texts();
    for _ in 0..10 {
        let reply = ask(&gateway.url, &chat("cr2fast", &deferred)).await;
        assert_eq!((reply.status, reply.place().2), (200, "edge-down"));
    }
    let asked = edge.count();
    assert!(asked < 10, "left alone after three failures, but for probes: {asked}");
    assert_eq!(get(&gateway.url, "/readyz").await.status, 200);
    local.play(Play::Cut);
    for _ in 0..3 {
        ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    }
    let reply = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    assert!((502..=503).contains(&reply.status), "{reply:?}");
    edge.play(Play::Json(200, ANSWER.into()));
    // Half-open, one probe finds the edge well again.
    while ask(&gateway.url, &chat("cr2fast", &deferred)).await.place().2 != "deferred" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn where_nobody_answers_the_error_says_who_was_asked() {
    let (_world, local, edge, gateway, accepted, _) = setup().await;
    local.play(Play::Cut);
    edge.play(Play::Silence);
    let reply = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    assert_eq!(reply.status, 504);
    let words =
        "device: a connection that broke before the end; edge: no content within the deadline";
    assert!(reply.error().contains(words), "{}", reply.error());
}

#[tokio::test]
async fn past_the_limit_of_requests_at_once_clients_are_told_to_retry() {
    let world = World::new();
    let notice = Arc::new(Notify::new());
    let local = Stub::start(Play::Wait(Arc::clone(&notice))).await;
    let text =
        device(&local.url, "http://127.0.0.1:1").replace("answer_ms = 300", "answer_ms = 3600000");
    let gateway = world.start(&(text + "[limits]\nconcurrency = 1\n")).await;
    let (url, body) = (gateway.url.clone(), chat("small", "a"));
    let first = tokio::spawn(async move { read(send(&url, CHAT, body, &[]).await).await });
    while local.count() == 0 {
        tokio::task::yield_now().await;
    }
    let reply = ask(&gateway.url, &chat("small", "b")).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, "1"));
    notice.notify_one();
    assert_eq!(first.await.unwrap().status, 200);
    local.play(Play::Json(200, ANSWER.into()));
    assert_eq!(ask(&gateway.url, &chat("small", "b")).await.status, 200);
}

#[tokio::test]
async fn a_stream_is_one_of_the_requests_at_once_until_its_end() {
    let world = World::new();
    let local = Stub::start(Play::EventsThenSilence(events(&[WORD]))).await;
    let text =
        device(&local.url, "http://127.0.0.1:1").replace("idle_ms = 300", "idle_ms = 3600000");
    let gateway = world.start(&(text + "[limits]\nconcurrency = 1\n")).await;
    let stream = send(&gateway.url, CHAT, streamed("small", "a"), &[]).await;
    assert_eq!(stream.status(), 200);
    let reply = ask(&gateway.url, &chat("small", "b")).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, "1"));
    assert_eq!(reply.header("x-cr2fast-request-id").len(), 32, "refusals have an id too");
    drop(stream);
    local.left.notified().await;
    local.play(Play::Json(200, ANSWER.into()));
    while ask(&gateway.url, &chat("small", "b")).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_decision_alone() {
    let (world, local, edge, gateway, accepted, deferred) = setup().await;
    let at = async |body: String| post(&gateway.url, "/v1/route", &body, &[]).await;
    let told = at(chat("cr2fast", &accepted)).await.json();
    let core = world.core().route_text(&accepted, &world.encoder, false).unwrap();
    assert_eq!((told["place"].as_str(), told["model"].as_str()), (Some("device"), Some("small")));
    assert_eq!(told["margin"].as_f64().map(|x| x as f32), Some(core.margin));
    assert_eq!(told["score"].as_f64(), Some(core.score));
    assert_eq!(told["why"], "accepted");
    let told = at(chat("cr2fast:alpha=0.02", &deferred)).await.json();
    assert_eq!((told["place"].as_str(), told["threshold"].as_str()), (Some("edge"), Some("inf")));
    assert_eq!(told["model"], Value::Null);
    let prompt = serde_json::json!({"model": "cr2fast", "prompt": accepted}).to_string();
    assert_eq!(at(prompt).await.json()["margin"].as_f64().map(|x| x as f32), Some(core.margin));
    assert_eq!((local.count(), edge.count()), (0, 0));
    let text = get(&gateway.url, "/healthz").await;
    assert_eq!((text.status, text.body.as_str()), (200, "ok\n"));
    let other = get(&gateway.url, "/v1/route").await;
    assert_eq!((other.status, other.header("allow")), (405, "POST"));
    assert!(other.error().contains("/v1/route: expected the method"), "{}", other.error());
    assert!(get(&gateway.url, "/v1/other").await.error().contains("/v1/route"));
}

#[tokio::test]
async fn odd_answers_of_a_server_are_whole_or_none() {
    let (_world, local, edge, _, accepted, _) = setup().await;
    let head =
        |more: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}\r\n");
    let long = ANSWER.len();
    let chunked = format!("{long:x}\r\n{ANSWER}\r\n0\r\nx-trailer: 1\r\n\r\n");
    for (bytes, good) in [
        // A length that is too short or too great, a status without a body that has one.
        (head("content-length: 10\r\n") + ANSWER, false),
        (head("content-length: 9999\r\n") + ANSWER, false),
        (format!("HTTP/1.1 204 No Content\r\ncontent-length: {long}\r\n\r\n{ANSWER}"), false),
        (format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n{ANSWER}"), false),
        (format!("HTTP/1.1 304 Not Modified\r\n\r\n{ANSWER}"), false),
        (head("transfer-encoding: chunked\r\n") + &chunked[..chunked.len() / 2], false),
        (head("transfer-encoding: chunked\r\n") + "zz\r\n" + ANSWER, false),
        // Words before the answer, trailers after it, an older version, an end by the connection's.
        (
            format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{}{ANSWER}",
                head(&format!("content-length: {long}\r\n"))
            ),
            true,
        ),
        (head("transfer-encoding: chunked\r\ntrailer: x-trailer\r\n") + &chunked, true),
        (head(&format!("content-length: {long}\r\n")).replace("1.1", "1.0") + ANSWER, true),
        (head("connection: close\r\nalt-svc: h3=\":443\"\r\n") + ANSWER, true),
    ] {
        let world = World::new();
        let gateway = world.start(&device(&local.url, &edge.url)).await;
        local.play(Play::Raw(bytes.clone().into_bytes()));
        let reply = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
        let why = if good { "accepted" } else { "device-down" };
        assert_eq!(
            (reply.status, reply.place().2, reply.body.as_str()),
            (200, why, ANSWER),
            "{bytes}"
        );
        for gone in ["trailer", "x-trailer", "alt-svc"] {
            assert_eq!(reply.header(gone), "", "{bytes}");
        }
    }
}

#[tokio::test]
async fn a_compressed_stream_passes_as_it_comes_and_one_that_breaks_breaks() {
    let (_world, local, _edge, gateway, accepted, _) = setup().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n";
    let begun = format!("{head}5\r\n\u{1f}8b+x\r\n");
    local.play(Play::Raw(format!("{begun}0\r\n\r\n").into_bytes()));
    let reply = ask(&gateway.url, &streamed("cr2fast", &accepted)).await;
    assert_eq!((reply.status, reply.place().2), (200, "accepted"));
    assert_eq!((reply.header("content-encoding"), reply.body.as_str()), ("gzip", "\u{1f}8b+x"));
    local.play(Play::Raw(begun.into_bytes()));
    let response = send(&gateway.url, CHAT, streamed("cr2fast", &accepted), &[]).await;
    assert_eq!(response.status(), 200);
    assert!(
        response.into_body().collect().await.is_err(),
        "no event can say so: the connection does"
    );
}
