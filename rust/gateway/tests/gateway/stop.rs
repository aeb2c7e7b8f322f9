//! A stop: what is in flight has time to end, and is told so where it has not.

use crate::common::client::{CHAT, chat, read, send, streamed};
use crate::common::stub::{Play, ROLE, Stub, WORD};
use crate::common::{World, device, lines_of};
use serde_json::Value;

fn settings(drain_ms: u32) -> String {
    format!("[limits]\ndrain_ms = {drain_ms}\n[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n")
}

async fn lines(world: &World, n: usize) -> Vec<Value> {
    loop {
        let lines = lines_of(&world.folder.join("decisions.jsonl"));
        if lines.len() >= n {
            return lines;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_outlasts_the_time_for_it_is_told_and_logged() {
    let world = World::new();
    let (accepted, deferred) = world.texts();
    let local = Stub::start(Play::EventsThenSilence(vec![ROLE.into(), WORD.into()])).await;
    let edge = Stub::start(Play::Silence).await;
    let text = device(&local.url, &edge.url) + &settings(1);
    let gateway = world.start(&text).await;
    let url = gateway.url.clone();
    let waiting =
        tokio::spawn(
            async move { read(send(&url, CHAT, chat("cr2fast", &deferred), &[]).await).await },
        );
    while edge.count() == 0 {
        tokio::task::yield_now().await;
    }
    let stream = send(&gateway.url, CHAT, streamed("cr2fast", &accepted), &[]).await;
    assert_eq!(stream.status(), 200);
    let reading = tokio::spawn(read(stream));
    gateway.stop().await;
    let (stream, refused) = (reading.await.unwrap(), waiting.await.unwrap());
    assert!(stream.body.starts_with(&[ROLE, WORD].concat()), "{}", stream.body);
    assert!(stream.body.contains("\"code\":\"gateway_stopped\""), "{}", stream.body);
    assert!(stream.body.ends_with("\n\n"), "{}", stream.body);
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(refused.header("x-cr2fast-refusal"), "gateway_stopped");
    let lines = lines(&world, 2).await;
    let said = |stream: bool| {
        let line = lines.iter().find(|l| l["stream"] == stream).unwrap();
        (line["outcome"].as_str().unwrap(), line["status"].as_u64().unwrap())
    };
    assert_eq!((lines.len(), said(true), said(false)), (2, ("broken", 200), ("failed", 503)));
}

#[tokio::test]
async fn what_ends_in_time_is_whole() {
    let world = World::new();
    let notice = std::sync::Arc::new(tokio::sync::Notify::new());
    let local = Stub::start(Play::Wait(notice.clone())).await;
    let text = device(&local.url, "http://127.0.0.1:1");
    let gateway = world.start(&(text + &settings(60_000))).await;
    let (url, accepted) = (gateway.url.clone(), world.texts().0);
    let waiting =
        tokio::spawn(
            async move { read(send(&url, CHAT, chat("cr2fast", &accepted), &[]).await).await },
        );
    while local.count() == 0 {
        tokio::task::yield_now().await;
    }
    let stopping = tokio::spawn(gateway.stop());
    notice.notify_one();
    assert_eq!(waiting.await.unwrap().status, 200);
    stopping.await.unwrap();
    assert_eq!(lines(&world, 1).await[0]["outcome"], "answered");
}
