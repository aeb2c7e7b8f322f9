//! Whose failure it is: an edge that says that a model failed has not failed, and what a server says of
//! waiting or of a token reaches whoever can do something about it.

use crate::common::client::{ask, chat, get, streamed};
use crate::common::stub::{ANSWER, Play, Stub, WORD};
use crate::common::{Gateway, World, device, edge};

/// Two models behind an edge behind a device, and breakers that do not close again.
struct Chain {
    world: World,
    local: Stub,
    medium: Stub,
    large: Stub,
    edge: Gateway,
    front: Gateway,
}

const BREAKER: &str = "[breaker]\nopen_ms = 86400000\nmax_open_ms = 86400000\n";

async fn chain() -> Chain {
    let world = World::new();
    let (local, medium, large) =
        (Stub::answering().await, Stub::answering().await, Stub::answering().await);
    let models = edge(&[("medium", &medium.url), ("large", &large.url)]);
    let behind = world.start(&(models + BREAKER)).await;
    let front = world.start(&(device(&local.url, &behind.url) + BREAKER)).await;
    Chain { world, local, medium, large, edge: behind, front }
}

/// An answer of that status with a header of its own.
fn status(head: &str) -> Play {
    Play::Raw(format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes())
}

#[tokio::test]
async fn a_dead_model_takes_no_other_model_from_the_device() {
    for play in [Play::Cut, Play::Json(500, "{}".into()), Play::Json(200, "<html>".into())] {
        let c = chain().await;
        let (_, deferred) = c.world.texts();
        c.large.play(play.clone());
        for k in 0..5 {
            let reply = ask(&c.front.url, &chat("large", "hello")).await;
            // The edge says what it knows: its own breaker leaves that one model alone.
            let (status, code) =
                if k < 3 { (502, "upstreams_failed") } else { (503, "upstreams_down") };
            assert_eq!((reply.status, reply.header("x-cr2fast-refusal")), (status, code));
            let words = reply.error();
            assert!(words.contains("large: "), "the model that failed: {words}");
            assert_eq!(words.matches("expected an answer").count(), 1, "{words}");
            assert_eq!(reply.header("retry-after").is_empty(), k < 3, "{reply:?}");
        }
        let reply = ask(&c.front.url, &chat("medium", "hello")).await;
        assert_eq!((reply.status, reply.place()), (200, ("edge", "medium", "direct")), "{play:?}");
        let reply = ask(&c.front.url, &chat("cr2fast", &deferred)).await;
        assert_eq!((reply.status, reply.place().2), (200, "deferred"), "{play:?}");
        // Where no model is left, the device answers what it may, and asks the edge all the same.
        c.medium.play(play);
        for _ in 0..5 {
            let reply = ask(&c.front.url, &chat("cr2fast", &deferred)).await;
            assert_eq!((reply.status, reply.place().2), (200, "edge-down"));
        }
        let metrics = get(&c.front.url, "/metrics").await.body;
        assert!(metrics.contains("cr2fast_upstream_up{upstream=\"edge\"} 1"), "{metrics}");
        assert!(!metrics.contains("upstream=\"edge\",failure=\"breaker-open\""), "{metrics}");
        let line = "cr2fast_upstream_failures_total{upstream=\"edge\",failure=\"refused\"} 10";
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn a_silent_model_or_a_stream_that_breaks_is_not_the_edges_failure() {
    let world = World::new();
    let (local, medium) = (Stub::answering().await, Stub::answering().await);
    let large = Stub::start(Play::Silence).await;
    let behind = world.start(&edge(&[("medium", &medium.url), ("large", &large.url)])).await;
    let file = device(&local.url, &behind.url) + BREAKER;
    let hurried = world.start(&crate::common::hurried_edge(&file)).await;
    for _ in 0..4 {
        let reply = ask(&hurried.url, &chat("large", "hello")).await;
        assert_eq!(reply.status, 504, "the device has less patience than its edge: {reply:?}");
    }
    let metrics = get(&hurried.url, "/metrics").await.body;
    assert!(metrics.contains("cr2fast_upstream_up{upstream=\"edge\"} 1"), "{metrics}");
    let front = world.start(&file).await;
    for _ in 0..4 {
        large.play(Play::EventsThenCut(vec![WORD.into()]));
        let reply = ask(&front.url, &streamed("large", "hello")).await;
        assert!(reply.body.contains("stream_interrupted"), "{}", reply.body);
    }
    assert_eq!(ask(&front.url, &chat("medium", "hello")).await.status, 200);
}

#[tokio::test]
async fn what_is_no_edges_own_word_is_the_edges_failure() {
    let world = World::new();
    let (local, behind) = (Stub::answering().await, Stub::answering().await);
    let (_, deferred) = world.texts();
    for play in [Play::Json(502, "{}".into()), Play::Cut, status("503 X\r\nretry-after: 9")] {
        let front = world.start(&(device(&local.url, &behind.url) + BREAKER)).await;
        behind.play(play);
        let before = behind.count();
        for _ in 0..5 {
            assert_eq!(ask(&front.url, &chat("cr2fast", &deferred)).await.place().2, "edge-down");
        }
        assert_eq!(behind.count(), before + 3, "a proxy before the edge is not the edge");
    }
    // Words of an edge that are none, or without end, are words all the same.
    let front = world.start(&(device(&local.url, &behind.url) + BREAKER)).await;
    for (body, words) in
        [("", "no reason"), ("{\"error\":{\"message\":\"a\\u0007b\"}}", "edge: ab")]
    {
        let long = body.len();
        let head = "HTTP/1.1 502 X\r\nx-cr2fast-refusal: of_another_release";
        let raw = format!("{head}\r\ncontent-length: {long}\r\n\r\n{body}");
        behind.play(Play::Raw(raw.into_bytes()));
        let reply = ask(&front.url, &chat("large", "hello")).await;
        assert_eq!((reply.status, reply.header("x-cr2fast-refusal")), (502, "upstreams_failed"));
        assert!(reply.error().contains(words), "{}", reply.error());
    }
}

#[tokio::test]
async fn a_request_that_its_server_refuses_leaves_the_server_to_others() {
    let c = chain().await;
    for code in [400, 404, 413, 422, 429] {
        c.large.play(Play::Json(code, "{}".into()));
        for _ in 0..4 {
            assert_eq!(ask(&c.front.url, &chat("large", "hello")).await.status, code);
        }
        for gateway in [&c.edge, &c.front] {
            let metrics = get(&gateway.url, "/metrics").await.body;
            assert!(!metrics.contains("breaker-open"), "{code}: {metrics}");
        }
    }
}

#[tokio::test]
async fn how_long_to_wait_passes_through_edge_and_device() {
    let c = chain().await;
    for (head, code, refusal) in [
        ("429 X\r\nretry-after: 7", 429, "upstreams_full"),
        ("503 X\r\nretry-after: 7", 502, "upstreams_failed"),
    ] {
        c.large.play(status(head));
        let reply = ask(&c.edge.url, &chat("large", "hello")).await;
        assert_eq!((reply.status, reply.header("retry-after")), (code, "7"), "{}", reply.body);
        let reply = ask(&c.front.url, &chat("large", "hello")).await;
        assert_eq!((reply.status, reply.header("retry-after")), (code, "7"), "{}", reply.body);
        assert_eq!(reply.header("x-cr2fast-refusal"), refusal);
        assert!(reply.error().contains(&format!("large: status {}", &head[..3])), "{reply:?}");
    }
    // Of two that are full, the sooner one; beside one that is down, the wait of who is full.
    let (accepted, deferred) = c.world.texts();
    c.large.play(status("429 X\r\nretry-after: 7"));
    c.medium.play(status("429 X\r\nretry-after: 5"));
    c.local.play(status("429 X\r\nretry-after: 3"));
    for text in [&accepted, &deferred] {
        let reply = ask(&c.front.url, &chat("cr2fast", text)).await;
        assert_eq!((reply.status, reply.header("retry-after")), (429, "3"), "{}", reply.body);
    }
    c.local.play(Play::Cut);
    let reply = ask(&c.front.url, &chat("cr2fast", &deferred)).await;
    assert_eq!((reply.status, reply.header("retry-after")), (502, "5"), "{}", reply.body);
}

#[tokio::test]
async fn a_wrong_token_is_for_whoever_runs_the_gateway() {
    let c = chain().await;
    for code in [401, 403] {
        c.large.play(Play::Json(code, "{\"error\": {\"message\": \"bad key sk-123\"}}".into()));
        for gateway in [&c.edge, &c.front] {
            let reply = ask(&gateway.url, &chat("large", "hello")).await;
            assert_eq!(reply.status, 502);
            let words = reply.error();
            let own = format!("large: status {code}: it does not take this gateway's token");
            assert!(words.contains(&own) && words.contains("set the right token"), "{words}");
            assert!(!words.contains("retry later") && !words.contains("sk-123"), "{words}");
        }
        let ready = get(&c.edge.url, "/readyz").await;
        assert_eq!(ready.status, 200, "another model answers");
        assert!(ready.body.contains(&format!("large: status {code}: it does not")), "{ready:?}");
        let metrics = get(&c.edge.url, "/metrics").await.body;
        let line = "cr2fast_upstream_failures_total{upstream=\"large\",failure=\"token\"}";
        assert!(metrics.contains(line), "{metrics}");
        assert_eq!(get(&c.front.url, "/readyz").await.body, "ready\n", "it is not the device's");
        c.large.play(Play::Json(200, ANSWER.into()));
        assert_eq!(ask(&c.edge.url, &chat("large", "hello")).await.status, 200);
        assert_eq!(get(&c.edge.url, "/readyz").await.body, "ready\n", "mended");
    }
    c.local.play(Play::Json(401, "{}".into()));
    let reply = ask(&c.front.url, &chat("small", "hello")).await;
    assert!(reply.error().contains("device: status 401: it does not take"), "{reply:?}");
    assert!(get(&c.front.url, "/readyz").await.body.contains("device: status 401"));
}
