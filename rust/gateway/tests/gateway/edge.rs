//! An edge gateway in front of the larger models, and behind a device gateway.

use crate::common::client::{CHAT, ask, chat, get, post, streamed};
use crate::common::stub::{ANSWER, DONE, Play, Stub, WORD};
use crate::common::{CLIENT_TOKEN, DEVICE_TOKEN, Gateway, MODELS, Rng, World, device, edge};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cr2fast_core::{Budget, EdgeSelector, LinkState, Query, Rule};
use sha2::{Digest, Sha256};

struct Setup {
    world: World,
    medium: Stub,
    large: Stub,
    gateway: crate::common::Gateway,
}

async fn setup() -> Setup {
    let world = World::new();
    let (medium, large) = (Stub::answering().await, Stub::answering().await);
    let text = edge(&[("medium", &medium.url), ("large", &large.url)]);
    let gateway = world.start(&text).await;
    Setup { world, medium, large, gateway }
}

/// SHA-256 of a world's router.
fn hash(world: &World) -> String {
    let bytes = std::fs::read(world.folder.join("router.safetensors")).unwrap();
    Sha256::digest(bytes).iter().fold(String::new(), |s, b| format!("{s}{b:02x}"))
}

/// Headers of a device gateway.
fn deferral(world: &World, embedding: &[f32], link: &str) -> Vec<(&'static str, String)> {
    let bytes: Vec<u8> = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
    vec![
        ("authorization", format!("Bearer {DEVICE_TOKEN}")),
        ("x-cr2fast-version", "2".into()),
        ("x-cr2fast-request-id", "0123456789abcdef0123456789abcdef".into()),
        ("x-cr2fast-why", "deferred".into()),
        ("x-cr2fast-encoder", world.encoder.info().sha256.clone()),
        ("x-cr2fast-embedding", STANDARD.encode(bytes)),
        ("x-cr2fast-link", link.into()),
        ("x-cr2fast-router", hash(world)),
    ]
}

fn refs<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    headers.iter().map(|(k, v)| (*k, v.as_str())).collect()
}

#[tokio::test]
async fn the_selector_chooses_by_the_devices_embedding_and_link() {
    let s = setup().await;
    let core = EdgeSelector::new(&s.world.router, 1.0, Rule::EdgeOnly).unwrap();
    let mut rng = Rng::new(5);
    let mut chosen = std::collections::HashSet::new();
    for i in 0..500 {
        let text = rng.words();
        let x = s.world.encoder.encode(&text).unwrap();
        let state = LinkState {
            rtt_s: f64::from(i) / 1e3,
            rate_ul_bps: 1e3 + f64::from(i),
            rate_dl_bps: 1e4,
        };
        let link = format!(
            "rtt_s={};rate_ul_bps={};rate_dl_bps={}",
            state.rtt_s, state.rate_ul_bps, state.rate_dl_bps
        );
        let headers = deferral(&s.world, &x, &link);
        let body = chat("cr2fast", &text);
        let told = post(&s.gateway.url, "/v1/route", &body, &refs(&headers)).await.json();
        let tokens = s.world.encoder.count_tokens(&text) as f64;
        let query = Query {
            embedding: &x,
            n_input_tokens: tokens,
            n_output_tokens: None,
            state,
            available: None,
            waiting_s: None,
            budget: Budget::default(),
        };
        let expected = core.select(&query).unwrap();
        assert_eq!(told["model"], MODELS[expected.model], "{told}");
        assert_eq!(told["utility"].as_f64(), Some(expected.utility));
        assert_eq!(told["cost"].as_f64().map(|c| c as f32), Some(expected.cost));
        assert_eq!(told["id"], "0123456789abcdef0123456789abcdef");
        chosen.insert(expected.model);
    }
    assert_eq!(chosen.len(), 2, "texts that choose either model");
}

#[tokio::test]
async fn clients_without_a_device_are_answered_too() {
    let s = setup().await;
    let reply = ask(&s.gateway.url, &chat("cr2fast", "hello")).await;
    assert_eq!((reply.status, reply.place().0, reply.place().2), (200, "edge", "deferred"));
    assert_eq!(reply.body, ANSWER);
    let reply = ask(&s.gateway.url, &chat("large", "hello")).await;
    assert_eq!(reply.place(), ("edge", "large", "direct"));
    let body = s.large.seen().last().unwrap().body.clone();
    assert_eq!(body, chat("large", "hello").as_bytes());
    assert_eq!(ask(&s.gateway.url, &chat("small", "hello")).await.status, 404);
    let image = "{\"model\":\"cr2fast\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]}";
    let reply = ask(&s.gateway.url, image).await;
    assert_eq!(reply.status, 422);
    assert!(reply.error().contains("not_text"), "{}", reply.error());
    let text = format!(
        "not_text = \"large\"\n{}",
        edge(&[("medium", &s.medium.url), ("large", &s.large.url)])
    );
    let gateway = s.world.start(&text).await;
    assert_eq!(ask(&gateway.url, image).await.place(), ("edge", "large", "not-text"));
}

#[tokio::test]
async fn a_model_that_fails_is_replaced_by_the_next_best() {
    let s = setup().await;
    s.medium.play(Play::Json(500, "{}".into()));
    for i in 0..8 {
        let reply = ask(&s.gateway.url, &chat("cr2fast", &"word ".repeat(i))).await;
        assert_eq!((reply.status, reply.place().1), (200, "large"));
    }
    s.large.play(Play::Cut);
    let reply = ask(&s.gateway.url, &chat("cr2fast", "a")).await;
    assert!((502..=503).contains(&reply.status), "{reply:?}");
    assert!(reply.error().contains("large: a connection that broke"), "{}", reply.error());
}

#[tokio::test]
async fn one_fixed_model_takes_everything_where_the_file_says_so() {
    let s = setup().await;
    let models = edge(&[("medium", &s.medium.url), ("large", &s.large.url)]);
    let gateway = s.world.start(&format!("fallback = \"large\"\n{models}")).await;
    for text in ["a", "b c", "hello there"] {
        assert_eq!(ask(&gateway.url, &chat("cr2fast", text)).await.place().1, "large");
    }
    assert_eq!(s.medium.count(), 0);
}

#[tokio::test]
async fn nobody_poses_as_a_device_and_a_device_is_not_believed_blindly() {
    let s = setup().await;
    let x = vec![0.5; 8];
    let good = deferral(&s.world, &x, "rtt_s=0.01");
    let at = async |headers: &[(&'static str, String)]| {
        post(&s.gateway.url, CHAT, &chat("cr2fast", "hello"), &refs(headers)).await
    };
    assert_eq!(at(&good).await.status, 200);
    for token in [None, Some("Bearer other"), Some(DEVICE_TOKEN)] {
        let mut headers = good.clone();
        headers.remove(0);
        headers.extend(token.map(|t| ("authorization", t.to_string())));
        let reply = at(&headers).await;
        assert_eq!(reply.status, 403, "{}", reply.body);
        assert!(!reply.body.contains("other") && !reply.body.contains(DEVICE_TOKEN));
    }
    let long = "x".repeat(30_000);
    for (at_header, value) in [
        (1, "1"),
        (7, "0000"),
        (2, "../../etc"),
        (3, "because"),
        (4, "0000"),
        (5, "AAAA"),
        (5, "AADAfwAAwH8AAMB/AADAfwAAwH8AAMB/AADAfwAAwH8="), // eight NaN
        (5, &long),
        (6, "rtt_s=-1"),
        (6, "rtt_s=inf"),
        (6, "rate_ul_bps=0"),
    ] {
        let mut headers = good.clone();
        headers[at_header].1 = value.into();
        let reply = at(&headers).await;
        assert_eq!(reply.status, 421, "{value}: {}", reply.body);
        assert!(reply.body.len() < 1_000);
    }
}

#[tokio::test]
async fn a_token_opens_the_door_and_no_answer_shows_it() {
    let s = setup().await;
    let models = edge(&[("medium", &s.medium.url), ("large", &s.large.url)]);
    let gateway = s.world.start(&format!("{models}token_env = \"CLIENT_TOKEN\"\n")).await;
    let with = format!("Bearer {CLIENT_TOKEN}");
    let body = chat("cr2fast", "hello");
    for path in ["/v1/models", "/metrics"] {
        assert_eq!(get(&gateway.url, path).await.status, 401);
    }
    assert_eq!(get(&gateway.url, "/healthz").await.status, 200);
    let reply = ask(&gateway.url, &body).await;
    assert_eq!((reply.status, reply.header("www-authenticate")), (401, "Bearer"));
    for wrong in [CLIENT_TOKEN, "Bearer", "Basic abc", "Bearer x"] {
        let reply = post(&gateway.url, CHAT, &body, &[("authorization", wrong)]).await;
        assert_eq!(reply.status, 401, "{wrong}");
        assert!(!reply.body.contains(CLIENT_TOKEN));
    }
    let reply = post(&gateway.url, CHAT, &body, &[("authorization", &with)]).await;
    assert_eq!(reply.status, 200);
    let seen = [s.medium.seen(), s.large.seen()].concat();
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|r| !r.head.contains(CLIENT_TOKEN)), "the token stays here");
    let reply = post(&gateway.url, "/v1/route", &body, &[("authorization", &with)]).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn device_and_edge_together() {
    let s = setup().await;
    let local = Stub::answering().await;
    let front = s.world.start(&device(&local.url, &s.gateway.url)).await;
    let (_, deferred) = s.world.texts();
    for _ in 0..20 {
        let reply = ask(&front.url, &chat("cr2fast", &deferred)).await;
        assert_eq!((reply.status, reply.place().0, reply.place().2), (200, "edge", "deferred"));
        assert!(["medium", "large"].contains(&reply.place().1));
        assert_eq!(reply.body, ANSWER);
    }
    for stub in [&s.medium, &s.large] {
        stub.play(Play::Events(vec![WORD.into(), DONE.into()]));
    }
    let reply = ask(&front.url, &streamed("cr2fast", &deferred)).await;
    assert_eq!(reply.body, [WORD, DONE].concat());
    s.large.play(Play::Json(200, ANSWER.into()));
    let reply = ask(&front.url, &chat("large", "hello")).await;
    assert_eq!(reply.place(), ("edge", "large", "direct"));
    // The edge stops: the device answers. Nobody else is given the port meanwhile.
    let address = s.gateway.url.strip_prefix("http://").unwrap().parse().unwrap();
    s.gateway.stop().await;
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind(address).unwrap();
    let reply = ask(&front.url, &chat("cr2fast", &deferred)).await;
    assert_eq!((reply.status, reply.place()), (200, ("device", "small", "edge-down")));
}

#[tokio::test]
async fn an_edge_with_another_encoder_is_no_edge() {
    let s = setup().await;
    let other = World::new();
    let encoder = crate::common::encoder(2);
    encoder.save(&other.folder.join("static.safetensors")).unwrap();
    crate::common::router(encoder.info(), 0.0)
        .save(&other.folder.join("router.safetensors"))
        .unwrap();
    let local = Stub::answering().await;
    let front = other.start(&device(&local.url, &s.gateway.url)).await;
    let body = chat("cr2fast:alpha=0.02", "hello"); // deferred, whatever the margin
    let reply = ask(&front.url, &body).await;
    assert_eq!((reply.status, reply.place().2), (200, "edge-down"));
    assert_eq!((s.medium.count(), s.large.count()), (0, 0));
}

#[tokio::test]
async fn another_router_at_the_edge_is_told_and_stops_nothing() {
    let s = setup().await;
    let other = World::new();
    crate::common::router(s.world.encoder.info(), 0.25)
        .save(&other.folder.join("router.safetensors"))
        .unwrap();
    let (ours, theirs) = (hash(&other), hash(&s.world));
    let local = Stub::answering().await;
    let text =
        device(&local.url, &s.gateway.url) + "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n";
    let front = other.start(&text).await;
    let reply = ask(&front.url, &chat("cr2fast:alpha=0.02", "hello")).await;
    assert_eq!((reply.status, reply.place()), (200, ("device", "small", "edge-down")));
    let metrics = get(&front.url, "/metrics").await.body;
    let line = "cr2fast_upstream_failures_total{upstream=\"edge\",failure=\"other-router\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    let ready = get(&front.url, "/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(ready.body.contains(&ours) && ready.body.contains(&theirs), "{}", ready.body);
    // Only the edge can answer these: it does, by its own router.
    let reply = ask(&front.url, &chat("cr2fast", &"a ".repeat(1001))).await;
    assert_eq!((reply.status, reply.place().0, reply.place().2), (200, "edge", "too-long"));
    let reply = ask(&front.url, &chat("large", "hello")).await;
    assert_eq!((reply.status, reply.place()), (200, ("edge", "large", "direct")));
    let log = || std::fs::read_to_string(other.folder.join("decisions.jsonl")).unwrap_or_default();
    while log().lines().count() < 3 {
        tokio::task::yield_now().await;
    }
    assert!(log().contains("[\"edge\",\"other-router\"]"), "{}", log());
    // The edge's reload comes first, the device's after it: then all is well again.
    local.play(Play::Cut);
    assert_eq!(ask(&front.url, &chat("cr2fast:alpha=0.02", "hello")).await.status, 502);
    std::fs::copy(
        other.folder.join("router.safetensors"),
        s.world.folder.join("router.safetensors"),
    )
    .unwrap();
    let models = edge(&[("medium", &s.medium.url), ("large", &s.large.url)]);
    let renewed = s.world.start(&models).await;
    let front = other.start(&device(&local.url, &renewed.url)).await;
    let reply = ask(&front.url, &chat("cr2fast:alpha=0.02", "hello")).await;
    assert_eq!((reply.status, reply.place().2), (200, "deferred"));
    assert_eq!(get(&front.url, "/readyz").await.body, "ready\n");
}

#[tokio::test]
async fn an_edge_of_another_version_is_no_edge() {
    let world = World::new();
    let (local, edge) = (Stub::answering().await, Stub::answering().await);
    for (status, code) in [(421, "other_version"), (421, "device_header"), (400, "unknown_header")]
    {
        let gateway = world.start(&device(&local.url, &edge.url)).await;
        let body = "{\"error\":{\"message\":\"x-cr2fast-version: expected \\\"3\\\"\"}}";
        edge.play(Play::Raw(
            format!("HTTP/1.1 {status} X\r\nx-cr2fast-refusal: {code}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        ));
        let reply = ask(&gateway.url, &chat("cr2fast:alpha=0.02", "hello")).await;
        assert_eq!((reply.status, reply.place().2), (200, "edge-down"), "{code}");
        let ready = get(&gateway.url, "/readyz").await.body;
        assert!(ready.contains("other-version") && ready.contains(code), "{ready}");
    }
    let gateway = world.start(&device(&local.url, &edge.url)).await;
    edge.play(Play::Raw(
        format!(
            "HTTP/1.1 200 OK\r\nx-cr2fast-version: 3\r\ncontent-length: {}\r\n\r\n{ANSWER}",
            ANSWER.len()
        )
        .into_bytes(),
    ));
    let reply = ask(&gateway.url, &chat("cr2fast:alpha=0.02", "hello")).await;
    assert_eq!((reply.status, reply.place().2), (200, "edge-down"));
}

#[tokio::test]
async fn an_edge_that_keeps_refusing_is_left_alone_for_what_the_device_can_answer() {
    let (local, edge) = (Stub::answering().await, Stub::answering().await);
    let refusal = |head: &str| {
        Play::Raw(format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes())
    };
    let world = World::new();
    let start = async |open_ms: u32| {
        let breaker = "[breaker]\nfailures = 2\n";
        let times = format!("open_ms = {open_ms}\nmax_open_ms = {open_ms}\n");
        world.start(&(device(&local.url, &edge.url) + breaker + &times)).await
    };
    let why = async |gateway: &Gateway, model: &str| {
        ask(&gateway.url, &chat(model, "hello")).await.place().2.to_string()
    };
    let deferred = "cr2fast:alpha=0.02"; // whatever the margin
    for head in ["421 X\r\nx-cr2fast-refusal: other_router", "401 X"] {
        edge.play(refusal(head));
        let (gateway, before) = (start(86_400_000).await, edge.count());
        for _ in 0..5 {
            assert_eq!(why(&gateway, deferred).await, "edge-down", "{head}");
        }
        assert_eq!(edge.count(), before + 2, "{head}");
        let metrics = get(&gateway.url, "/metrics").await.body;
        let line = "cr2fast_upstream_failures_total{upstream=\"edge\",failure=\"breaker-open\"} 3";
        assert!(metrics.contains(line), "{metrics}");
        assert!(get(&gateway.url, "/readyz").await.body.contains("the edge refuses this device"));
        // Only the edge can answer this one: it is asked.
        why(&gateway, "large").await;
        assert_eq!(edge.count(), before + 3, "{head}");
        // It is tried again when its time is over.
        let gateway = start(1).await;
        assert_eq!(why(&gateway, deferred).await, "edge-down");
        edge.play(Play::Json(200, ANSWER.into()));
        while why(&gateway, deferred).await == "edge-down" {}
        assert_eq!(get(&gateway.url, "/readyz").await.body, "ready\n");
    }
}
