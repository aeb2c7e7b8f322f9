//! Shadows: the other place's answer, for comparison.

use std::sync::Arc;

use crate::common::client::{CHAT, ask, chat, get, post, streamed};
use crate::common::stub::{ANSWER, DONE, Play, Stub, WORD};
use crate::common::{World, device, edge, hurried_edge};
use serde_json::{Value, json};
use tokio::sync::Notify;

const LOG: &str = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n";

async fn setup(probability: &str) -> (World, Stub, Stub, crate::common::Gateway) {
    let world = World::new();
    let (local, edge) = (Stub::answering().await, Stub::answering().await);
    let shadow = format!("[shadow]\nprobability = {probability}\n");
    let gateway = world.start(&(device(&local.url, &edge.url) + LOG + &shadow)).await;
    (world, local, edge, gateway)
}

/// The lines of a log, once `n` of them are shadows.
async fn lines(world: &World, n: usize) -> Vec<Value> {
    loop {
        let path = world.folder.join("decisions.jsonl");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if lines.iter().filter(|l| l["kind"] == "shadow").count() >= n {
            return lines;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn both_answers_and_the_probability_are_logged() {
    let (world, local, edge, gateway) = setup("1.0").await;
    let (accepted, deferred) = world.texts();
    let first = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    assert_eq!((first.status, first.place().2), (200, "accepted"));
    lines(&world, 1).await;
    let seen = &edge.seen()[0];
    assert_eq!(seen.header("x-cr2fast-why"), Some("shadow"));
    assert_eq!(seen.body, chat("cr2fast", &accepted).as_bytes());
    assert_eq!(seen.header("x-cr2fast-request-id"), Some(first.header("x-cr2fast-request-id")));
    edge.play(Play::Events(vec![WORD.into(), DONE.into()]));
    local.play(Play::Events(vec![
        WORD.into(),
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n".into(),
        DONE.into(),
    ]));
    let second = post(&gateway.url, CHAT, &streamed("cr2fast", &deferred), &[]).await;
    assert_eq!((second.status, second.place().2), (200, "deferred"));
    let lines = lines(&world, 2).await;
    let shadows: Vec<&Value> = lines.iter().filter(|l| l["kind"] == "shadow").collect();
    for (shadow, reply) in shadows.iter().zip([&first, &second]) {
        assert_eq!(shadow["id"], reply.header("x-cr2fast-request-id"));
        assert_eq!((&shadow["outcome"], &shadow["propensity"]), (&json!("answered"), &json!(1.0)));
        assert!(shadow["first_content_s"].as_f64() <= shadow["total_s"].as_f64());
    }
    assert_eq!((&shadows[0]["place"], &shadows[0]["n_output_tokens"]), (&json!("edge"), &json!(7)));
    assert_eq!((&shadows[1]["place"], &shadows[1]["model"]), (&json!("device"), &json!("small")));
    assert_eq!(shadows[1]["n_output_tokens"], 4);
    let requests = lines.iter().filter(|l| l["kind"] == "request");
    assert!(requests.clone().count() == 2 && requests.into_iter().all(|l| l["shadow"] == 1.0));
}

#[tokio::test]
async fn a_shadow_waits_for_the_answer_and_no_answer_for_a_shadow() {
    let world = World::new();
    let (local, edge) = (Stub::answering().await, Stub::answering().await);
    let file = hurried_edge(&device(&local.url, &edge.url));
    let gateway = world.start(&(file + LOG + "[shadow]\nprobability = 1.0\n")).await;
    let (accepted, _) = world.texts();
    let notice = Arc::new(Notify::new());
    local.play(Play::Wait(Arc::clone(&notice)));
    edge.play(Play::Silence);
    let (url, body) = (gateway.url.clone(), chat("cr2fast", &accepted));
    let client = tokio::spawn(async move { ask(&url, &body).await });
    while local.count() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(edge.count(), 0, "not before the answer");
    notice.notify_one();
    assert_eq!(client.await.unwrap().body, ANSWER, "whatever the shadow does");
    let lines = lines(&world, 1).await;
    let shadow = lines.iter().find(|l| l["kind"] == "shadow").unwrap();
    assert_eq!((&shadow["outcome"], &shadow["failure"]), (&json!("failed"), &json!("deadline")));
    assert_eq!((&shadow["model"], &shadow["n_output_tokens"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn failing_shadows_open_no_breaker() {
    let (world, _local, edge, gateway) = setup("1.0").await;
    let (accepted, deferred) = world.texts();
    edge.play(Play::Cut);
    for n in 1..=8 {
        ask(&gateway.url, &chat("cr2fast", &accepted)).await;
        lines(&world, n).await;
    }
    assert_eq!(edge.count(), 8);
    edge.play(Play::Json(200, ANSWER.into()));
    let reply = ask(&gateway.url, &chat("cr2fast", &deferred)).await;
    assert_eq!(reply.place().2, "deferred");
    let metrics = get(&gateway.url, "/metrics").await.body;
    assert!(metrics.contains("cr2fast_upstream_up{upstream=\"edge\"} 1"), "{metrics}");
}

#[tokio::test]
async fn what_stage_one_did_not_decide_has_no_shadow() {
    let (world, local, edge, gateway) = setup("1.0").await;
    let (accepted, _) = world.texts();
    ask(&gateway.url, &chat("small", &accepted)).await;
    ask(&gateway.url, &chat("large", &accepted)).await;
    let limit = [("x-cr2fast-max-usd", "1000")];
    post(&gateway.url, CHAT, &chat("cr2fast", &accepted), &limit).await;
    ask(&gateway.url, &chat("cr2fast", &"a ".repeat(1001))).await;
    local.play(Play::Cut);
    assert_eq!(ask(&gateway.url, &chat("cr2fast", &accepted)).await.place().2, "device-down");
    local.play(Play::Json(200, ANSWER.into()));
    ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    let lines = lines(&world, 1).await;
    let drawn: Vec<bool> =
        lines.iter().filter(|l| l["kind"] == "request").map(|l| !l["shadow"].is_null()).collect();
    assert_eq!(drawn, [false, false, false, false, false, true]);
    assert_eq!(lines.iter().filter(|l| l["kind"] == "shadow").count(), 1);
    assert_eq!(edge.count(), 4);
}

#[tokio::test]
async fn an_edge_leaves_a_shadow_to_the_devices_log() {
    let (front, behind) = (World::new(), World::new());
    let (local, medium) = (Stub::answering().await, Stub::answering().await);
    let log = "[log]\npath = \"edge.jsonl\"\nflush_ms = 1\n";
    let edge = behind.start(&(edge(&[("medium", &medium.url)]) + log)).await;
    let text = device(&local.url, &edge.url) + LOG + "[shadow]\nprobability = 1.0\n";
    let gateway = front.start(&text).await;
    let (accepted, deferred) = front.texts();
    ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    let shadow = lines(&front, 1).await.into_iter().find(|l| l["kind"] == "shadow").unwrap();
    assert_eq!((&shadow["model"], &shadow["outcome"]), (&json!("medium"), &json!("answered")));
    ask(&gateway.url, &chat("cr2fast", &deferred)).await;
    edge.stop().await;
    let told = loop {
        let text = std::fs::read_to_string(behind.folder.join("edge.jsonl")).unwrap();
        if text.ends_with('\n') {
            break text;
        }
        tokio::task::yield_now().await;
    };
    let whys: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["why"].clone())
        .collect();
    assert_eq!(whys, [json!("deferred")]);
}
