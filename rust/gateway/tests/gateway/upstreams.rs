//! What a device does with upstreams that fail, fall silent, break off or say odd things.

use crate::common::client::{CHAT, ask, chat, get, send, streamed};
use crate::common::stub::{ANSWER, DONE, Play, ROLE, Stub, WORD};
use crate::common::{World, device, hurried_edge, hurried_local};
use crate::device::{events, setup};
use http_body_util::BodyExt;
use serde_json::Value;

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
        ("token", Play::Json(401, "{}".into())),
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
        // A gateway for each, so that no breaker is in the way; only who is silent has little time.
        let world = World::new();
        let file = device(&local.url, &edge.url);
        let files = match word {
            "deadline" => [hurried_edge(&file), hurried_local(&file)],
            _ => [file.clone(), file],
        };
        let [gateway, other] = [world.start(&files[0]).await, world.start(&files[1]).await];
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
        let reply = ask(&other.url, &body("cr2fast", &accepted)).await;
        assert_eq!((reply.status, reply.place().2), (200, "device-down"), "{play:?}");
        assert_eq!(reply.body, expected);
        for (upstream, gateway) in [("edge", &gateway), ("device", &other)] {
            let metrics = get(&gateway.url, "/metrics").await.body;
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
    let (world, local, edge, gateway, accepted, _) = setup().await;
    let file = device(&local.url, &edge.url).replace("idle_ms = 60000", "idle_ms = 50");
    let hurried = world.start(&file).await;
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
        let url = if how == "fell silent" { &hurried.url } else { &gateway.url };
        let reply = ask(url, &streamed("cr2fast", &accepted)).await;
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
async fn an_upstream_that_keeps_failing_is_left_alone_and_tried_again() {
    let world = World::new();
    let (local, edge) = (Stub::answering().await, Stub::start(Play::Cut).await);
    let start = async |open_ms: u32| {
        let breaker = "[breaker]\nfailures = 3\n";
        let times = format!("open_ms = {open_ms}\nmax_open_ms = {open_ms}\n");
        world.start(&(device(&local.url, &edge.url) + breaker + &times)).await
    };
    let (accepted, deferred) = world.texts();
    let gateway = start(86_400_000).await;
    for _ in 0..10 {
        let reply = ask(&gateway.url, &chat("cr2fast", &deferred)).await;
        assert_eq!((reply.status, reply.place().2), (200, "edge-down"));
    }
    assert_eq!(edge.count(), 3, "left alone after three failures");
    assert_eq!(get(&gateway.url, "/readyz").await.status, 200);
    local.play(Play::Cut);
    for _ in 0..3 {
        ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    }
    let reply = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    local.play(Play::Json(200, ANSWER.into()));
    // Half-open, one probe finds the edge well again.
    let gateway = start(1).await;
    for _ in 0..3 {
        assert_eq!(ask(&gateway.url, &chat("cr2fast", &deferred)).await.place().2, "edge-down");
    }
    edge.play(Play::Json(200, ANSWER.into()));
    while ask(&gateway.url, &chat("cr2fast", &deferred)).await.place().2 != "deferred" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn where_nobody_answers_the_error_says_who_was_asked() {
    let (world, local, edge, _, accepted, _) = setup().await;
    let gateway = world.start(&hurried_edge(&device(&local.url, &edge.url))).await;
    local.play(Play::Cut);
    edge.play(Play::Silence);
    let reply = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    assert_eq!(reply.status, 504);
    let words =
        "device: a connection that broke before the end; edge: no content within the deadline";
    assert!(reply.error().contains(words), "{}", reply.error());
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
