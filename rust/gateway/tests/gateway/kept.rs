//! A grade is said to be kept once it is written, and `/readyz` says where the log takes nothing.

use crate::common::client::{Reply, ask, chat, get, post};
use crate::common::stub::Stub;
use crate::common::{Gateway, World, device, lines_of};
use serde_json::json;

async fn grade(gateway: &Gateway, id: &str) -> Reply {
    let body = json!({"id": id, "score": 0.5}).to_string();
    post(&gateway.url, "/v1/outcomes", &body, &[]).await
}

async fn ready(gateway: &Gateway) -> String {
    let reply = get(&gateway.url, "/readyz").await;
    assert_eq!(reply.status, 200, "requests are answered all the same");
    reply.body
}

#[tokio::test]
async fn no_grade_is_kept_by_a_disk_that_is_full() {
    let world = World::new();
    let local = Stub::answering().await;
    let path = world.folder.join("decisions.jsonl");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    // Lines gather for an hour: a grade waits for none of them.
    let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 3600000\n";
    let gateway = world.start(&(device(&local.url, "http://127.0.0.1:1") + log)).await;
    let reply = ask(&gateway.url, &chat("small", "a")).await;
    let id = reply.header("x-cr2fast-request-id").to_string();
    assert_eq!((reply.status, ready(&gateway).await.as_str()), (200, "ready\n"), "not known yet");
    for _ in 0..3 {
        let reply = grade(&gateway, &id).await;
        let told = (reply.status, reply.header("x-cr2fast-refusal"), reply.header("retry-after"));
        assert_eq!(told, (503, "log_full", "1"), "{}", reply.body);
        assert!(reply.error().contains("takes no records: No space left"), "{}", reply.error());
        let told = ready(&gateway).await;
        assert!(told.starts_with("ready\nthe decision log takes no records: No space"), "{told}");
    }
    let metrics = get(&gateway.url, "/metrics").await.body;
    assert!(metrics.contains("cr2fast_log_dropped_total 4\n"), "{metrics}");
    // A disk with room: the grade is the request's first, and it is there when the answer says so.
    std::fs::remove_file(&path).unwrap();
    for (n, status) in [(1, "kept"), (2, "repeated")] {
        let reply = grade(&gateway, &id).await;
        assert_eq!((reply.status, reply.json()["status"].as_str()), (200, Some(status)));
        let lines = lines_of(&path);
        assert_eq!(lines.iter().filter(|l| l["kind"] == "outcome").count(), n);
    }
    assert_eq!(ready(&gateway).await, "ready\n");
}

#[tokio::test]
async fn no_grade_is_kept_by_a_queue_that_is_full() {
    let world = World::new();
    let local = Stub::answering().await;
    // A pipe that nobody reads is a disk that takes no more after 64 KiB, and waits.
    let pipe = world.folder.join("decisions.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\ntexts = true\nqueue = 1\n";
    let gateway = world.start(&(device(&local.url, "http://127.0.0.1:1") + log)).await;
    let text = "a ".repeat(20_000);
    let (mut asked, mut kept) = (0, 0);
    // One in the pipe, one half in it, one that waits.
    while kept < 3 || !ready(&gateway).await.contains("the decision log has no room in its queue") {
        assert_eq!(ask(&gateway.url, &chat("small", &text)).await.status, 200);
        asked += 1;
        let metrics = get(&gateway.url, "/metrics").await.body;
        let dropped = metrics.lines().find_map(|l| l.strip_prefix("cr2fast_log_dropped_total "));
        kept = asked - dropped.unwrap().parse::<u32>().unwrap();
    }
    let id = "0123456789abcdef0123456789abcdef";
    let reply = grade(&gateway, id).await;
    assert_eq!((reply.status, reply.header("x-cr2fast-refusal")), (503, "log_full"));
    let reader = std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap());
    while grade(&gateway, id).await.status != 202 {
        tokio::task::yield_now().await;
    }
    gateway.stop().await;
    assert!(reader.join().unwrap().lines().any(|line| line.contains(id)));
}
