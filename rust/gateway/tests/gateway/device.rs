//! A device gateway between a client, a local server and an edge.

use std::sync::Arc;

use crate::common::client::{CHAT, ask, chat, get, post, read, send, streamed};
use crate::common::stub::{ANSWER, Play, Stub, WORD};
use crate::common::{World, device};
use serde_json::Value;
use tokio::sync::Notify;

pub fn events(all: &[&str]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// A world, both upstreams, a gateway, an accepted text and a deferred one.
pub async fn setup() -> (World, Stub, Stub, crate::common::Gateway, String, String) {
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
        "{\"model\":\"cr2fast\",\"messages\":[{\"role\":\"user\"}]}".into(),
        "{\"model\":\"cr2fast\",\"messages\":[7]}".into(),
    ] {
        let reply = ask(&gateway.url, &body).await;
        assert_eq!(reply.place().2, "not-text", "{body}");
        assert_eq!(edge.seen().last().unwrap().header("x-cr2fast-embedding"), None);
    }
    let reply = ask(&gateway.url, &chat("cr2fast", &"a ".repeat(1001))).await;
    assert_eq!(reply.place().2, "too-long");
    let much = format!("{{\"max_tokens\": 1000, {}", &chat("cr2fast", &accepted)[1..]);
    assert_eq!(ask(&gateway.url, &much).await.place().2, "too-long");
    // A vocabulary has one token for the first five, and none for the others.
    for (part, times) in [
        ("สวัสดี", 251),
        ("さようなら", 201),
        ("a", 3_001),
        ("aGVsbG8gd29ybGQ", 201),
        ("🙂", 751),
        (" ", 16_016),
        ("\u{200b}", 1_001),
    ] {
        let whole = chat("cr2fast", &part.repeat(times));
        assert_eq!(ask(&gateway.url, &whole).await.place().2, "too-long", "{part}");
        let less = chat("cr2fast", &part.repeat(times - 1));
        let told = post(&gateway.url, "/v1/route", &less, &[]).await.json();
        assert_ne!(told["why"], "too-long", "{part}");
    }
    // Nor has a model room for what tools, their calls and schemas say.
    let words = "a ".repeat(1_001);
    let whole = chat("cr2fast", &accepted);
    let with = |field: &str| format!("{{{field},{}", &whole[1..]);
    let schema = format!("{{\"description\":\"{words}\"}}");
    let shape = format!("{{\"type\":\"json_schema\",\"json_schema\":{schema}}}");
    let call = format!("{{\"function\":{{\"arguments\":\"{words}\"}}}}");
    let turn = format!("[{{\"role\":\"assistant\",\"tool_calls\":[{call}]}},");
    let said = |field: &str, more: &str| {
        format!("{{\"model\":\"cr2fast\",\"{field}\":{accepted:?},{more}}}")
    };
    for (path, body) in [
        (CHAT, with(&format!("\"tools\":[{schema}]"))),
        (CHAT, with(&format!("\"response_format\":{shape}"))),
        (CHAT, whole.replacen('[', &turn, 1)),
        ("/v1/completions", said("prompt", &format!("\"suffix\":\"{words}\""))),
        ("/v1/responses", said("input", &format!("\"tools\":[{schema}]"))),
    ] {
        let reply = post(&gateway.url, path, &body, &[]).await;
        assert_eq!(reply.place().2, "too-long", "{path} {}", &body[..60]);
    }
    assert_eq!(local.count(), 0);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_upstream() {
    let world = World::new();
    let (local, edge) = (Stub::start(Play::Silence).await, Stub::answering().await);
    let gateway = world.start(&device(&local.url, &edge.url)).await;
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
async fn past_the_limit_of_requests_at_once_clients_are_told_to_retry() {
    let world = World::new();
    let notice = Arc::new(Notify::new());
    let local = Stub::start(Play::Wait(Arc::clone(&notice))).await;
    let text = device(&local.url, "http://127.0.0.1:1");
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
    let text = device(&local.url, "http://127.0.0.1:1");
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
