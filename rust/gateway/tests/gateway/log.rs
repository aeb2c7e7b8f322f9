//! The decision log: one line per request, without the prompt unless that is asked for.

use crate::common::client::{ask, chat, get, post, send, streamed};
use crate::common::stub::{DONE, Play, ROLE, Stub, WORD};
use crate::common::{World, device, lines_of};
use cr2fast_gateway::App;
use serde_json::{Value, json};

fn lines(world: &World) -> Vec<Value> {
    lines_of(&world.folder.join("decisions.jsonl"))
}

#[tokio::test]
async fn every_way_a_request_ends_is_one_line() {
    let world = World::new();
    let (local, edge) = (Stub::answering().await, Stub::answering().await);
    let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\nembedding = true\n";
    let gateway = world.start(&(device(&local.url, &edge.url) + log)).await;
    let (accepted, deferred) = world.texts();
    let first = ask(&gateway.url, &chat("cr2fast", &accepted)).await;
    edge.play(Play::Json(500, "{}".into()));
    ask(&gateway.url, &chat("cr2fast:lam=0.1", &deferred)).await;
    local.play(Play::EventsThenCut(vec![ROLE.into(), WORD.into()]));
    ask(&gateway.url, &streamed("small", "a")).await;
    local.play(Play::Events(vec![
        WORD.into(),
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n".into(),
        DONE.into(),
    ]));
    ask(&gateway.url, &streamed("small", "a")).await;
    local.play(Play::EventsThenSilence(vec![WORD.into()]));
    drop(send(&gateway.url, crate::common::client::CHAT, streamed("small", "a"), &[]).await);
    local.left.notified().await;
    local.play(Play::Cut);
    ask(&gateway.url, &chat("small", "a")).await;
    ask(&gateway.url, &chat("nobody", "a")).await;
    gateway.stop().await;
    while lines(&world).len() < 7 {
        tokio::task::yield_now().await;
    }
    let lines = lines(&world);
    let told: Vec<_> = lines
        .iter()
        .map(|l| (l["outcome"].as_str().unwrap(), l["why"].as_str(), l["status"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("answered", Some("accepted"), 200),
            ("answered", Some("edge-down"), 200),
            ("broken", Some("direct"), 200),
            ("answered", Some("direct"), 200),
            ("cancelled", Some("direct"), 200),
            ("failed", Some("direct"), 502),
            ("refused", None, 404),
        ]
    );
    let l = &lines[0];
    assert_eq!(l["schema"], "cr2fast.decision_log/1");
    assert_eq!(l["id"], first.header("x-cr2fast-request-id"));
    assert_eq!(
        l["margin"].as_f64().map(|x| (x as f32).to_string()).as_deref(),
        Some(first.header("x-cr2fast-margin"))
    );
    assert_eq!((l["n_input_tokens"].as_u64(), l["n_output_tokens"].as_u64()), (Some(5), Some(7)));
    assert_eq!((l["place"].as_str(), l["model"].as_str()), (Some("device"), Some("small")));
    assert_eq!(l["embedding"].as_array().unwrap().len(), 8);
    assert!(l["ttft_s"].as_f64().unwrap() <= l["total_s"].as_f64().unwrap());
    assert_eq!(lines[1]["failed"], serde_json::json!([["edge", "status"]]));
    assert_eq!(lines[3]["n_output_tokens"], 4);
    assert_eq!(lines[2]["n_output_tokens"], Value::Null);
    let text = std::fs::read_to_string(world.folder.join("decisions.jsonl")).unwrap();
    for prompt in [accepted, deferred] {
        // What is random in a log is of hexadecimal digits: it holds none of these by chance.
        assert!(prompt.contains(|c: char| !c.is_ascii_hexdigit()), "{prompt}");
        assert!(!text.contains(&prompt), "{prompt}: {text}");
    }
}

#[tokio::test]
async fn a_new_file_begins_by_size_and_no_line_is_lost() {
    let world = World::new();
    let local = Stub::answering().await;
    std::fs::write(world.folder.join("decisions.jsonl"), "{\"cut\":").unwrap();
    let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\nmax_bytes = 2000\n";
    let gateway = world.start(&(device(&local.url, "http://127.0.0.1:1") + log)).await;
    for _ in 0..40 {
        ask(&gateway.url, &chat("small", "a")).await;
    }
    let metrics = get(&gateway.url, "/metrics").await.body;
    assert!(metrics.contains("cr2fast_log_dropped_total 0"), "{metrics}");
    gateway.stop().await;
    let read = || {
        let files = std::fs::read_dir(&world.folder).unwrap().map(|f| f.unwrap().path());
        let logs = files.filter(|f| f.to_string_lossy().contains("decisions"));
        // One may have been renamed since it was seen.
        logs.map(|f| std::fs::read_to_string(f).unwrap_or_default()).collect::<Vec<_>>()
    };
    let whole = |files: &[String]| {
        let lines = files.iter().flat_map(|f| f.lines());
        lines.filter(|l| serde_json::from_str::<Value>(l).is_ok()).count()
    };
    while whole(&read()) < 40 {
        tokio::task::yield_now().await;
    }
    let files = read();
    assert!(files.len() > 3, "{} files", files.len());
    assert!(files.iter().all(|f| f.len() <= 2000));
    let cut = files.iter().flat_map(|f| f.lines()).filter(|l| *l == "{\"cut\":").count();
    assert_eq!(cut, 1, "what a kill cut short stays by itself");
}

#[tokio::test]
async fn a_full_disk_costs_records_and_nothing_else() {
    let world = World::new();
    let local = Stub::answering().await;
    let log = "[log]\npath = \"/dev/full\"\nflush_ms = 1\n";
    let gateway = world.start(&(device(&local.url, "http://127.0.0.1:1") + log)).await;
    loop {
        assert_eq!(ask(&gateway.url, &chat("small", "a")).await.status, 200);
        let metrics = get(&gateway.url, "/metrics").await.body;
        if !metrics.contains("cr2fast_log_dropped_total 0") {
            break;
        }
    }
}

#[tokio::test]
async fn a_file_that_is_moved_away_or_removed_is_begun_anew() {
    let world = World::new();
    let local = Stub::answering().await;
    let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n";
    let gateway = world.start(&(device(&local.url, "http://127.0.0.1:1") + log)).await;
    let (path, moved) = (world.folder.join("decisions.jsonl"), world.folder.join("moved"));
    let ids = |path: &std::path::Path| -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.map(|line| line["id"].as_str().unwrap().to_string()).collect()
    };
    let asked = async |path: &std::path::Path| {
        let reply = ask(&gateway.url, &chat("small", "a")).await;
        let id = reply.header("x-cr2fast-request-id").to_string();
        while !ids(path).contains(&id) {
            tokio::task::yield_now().await;
        }
        id
    };
    let first = asked(&path).await;
    std::fs::rename(&path, &moved).unwrap();
    let second = asked(&path).await;
    assert_eq!((ids(&moved), ids(&path)), (vec![first], vec![second]));
    std::fs::remove_file(&path).unwrap();
    let third = asked(&path).await;
    assert_eq!(ids(&path), [third]);
    // Another file at the path is gone on with, and one that was cut is no longer full.
    std::fs::write(&moved, "{\"id\":\"other\"}\n").unwrap();
    std::fs::rename(&moved, &path).unwrap();
    let fourth = asked(&path).await;
    assert_eq!(ids(&path), ["other".to_string(), fourth]);
    // Without a request, a reload opens it: the file may be compressed at once.
    std::fs::rename(&path, &moved).unwrap();
    let app = std::sync::Arc::clone(&gateway.app);
    let _ = tokio::task::spawn_blocking(move || app.reload()).await.unwrap();
    while !path.exists() {
        tokio::task::yield_now().await;
    }
    // A folder that is gone takes none: they are counted, and come again with the folder.
    std::fs::remove_file(&path).unwrap();
    let folder = world.folder.with_extension("away");
    std::fs::rename(&world.folder, &folder).unwrap();
    loop {
        assert_eq!(ask(&gateway.url, &chat("small", "a")).await.status, 200);
        let metrics = get(&gateway.url, "/metrics").await.body;
        if !metrics.contains("cr2fast_log_dropped_total 0") {
            break;
        }
    }
    std::fs::rename(&folder, &world.folder).unwrap();
    asked(&path).await;
}

#[tokio::test]
async fn the_text_that_is_embedded_is_written_only_where_the_file_asks_for_it() {
    let local = Stub::answering().await;
    for (more, told) in [("", false), ("texts = false\n", false), ("texts = true\n", true)] {
        let world = World::new();
        let log = format!("[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n{more}");
        let file = device(&local.url, "http://127.0.0.1:1") + &log;
        let warned = App::warnings(&world.config(&file).unwrap()).join("\n");
        assert_eq!(warned.contains("log.texts: prompts are written to "), told, "{warned}");
        let gateway = world.start(&file).await;
        let long = "zzz".repeat((1 << 16) / 3 + 1);
        let turns =
            r#"{"role": "system", "content": "rules"}, {"role": "user", "content": "w\u00f6rd\n"}"#;
        let chat_of = |turns: &str| format!("{{\"model\": \"small\", \"messages\": [{turns}]}}");
        for body in [chat_of(turns), chat("small", &long)] {
            let reply = ask(&gateway.url, &body).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
        }
        gateway.stop().await;
        while lines(&world).len() < 2 {
            tokio::task::yield_now().await;
        }
        let lines = lines(&world);
        let text = lines[0].get("text").and_then(Value::as_str);
        assert_eq!(text, told.then_some("w\u{f6}rd\n"));
        assert!(lines[1].get("text").is_none(), "too long");
        let whole = std::fs::read_to_string(world.folder.join("decisions.jsonl")).unwrap();
        assert!(!whole.contains("rules") && !whole.contains("zzz"), "{whole}");
    }
}

#[tokio::test]
async fn a_disk_that_is_stuck_holds_no_more_memory_than_the_file_says() {
    const ASKED: usize = 60;
    let world = World::new();
    let local = Stub::answering().await;
    // A pipe that nobody reads is a disk that takes no more after 64 KiB, and waits.
    let pipe = world.folder.join("decisions.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let log =
        "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\ntexts = true\nqueue_bytes = 1048576\n";
    let gateway = world.start(&(device(&local.url, "http://127.0.0.1:1") + log)).await;
    let text = "a ".repeat(30_000);
    for _ in 0..ASKED {
        assert_eq!(ask(&gateway.url, &chat("small", &text)).await.status, 200);
    }
    let metrics = get(&gateway.url, "/metrics").await.body;
    let dropped = metrics.lines().find_map(|l| l.strip_prefix("cr2fast_log_dropped_total "));
    let dropped: usize = dropped.unwrap().parse().unwrap();
    // 17 of 60 KiB are a MiB; one more is in the pipe, and one is half in it.
    assert!(dropped >= ASKED - 19, "{dropped} of {ASKED}");
    let reader = std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap());
    gateway.stop().await;
    let written = reader.join().unwrap();
    assert_eq!(written.lines().count() + dropped, ASKED);
    assert!(written.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[tokio::test]
async fn where_no_link_is_none_is_told() {
    let world = World::new();
    let without = crate::common::router_of(world.encoder.info(), 0.0, &json!({"kind": "none"}));
    without.save(&world.folder.join("router.safetensors")).unwrap();
    let local = Stub::answering().await;
    let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n";
    let gateway = world.start(&(device(&local.url, "http://127.0.0.1:1") + log)).await;
    let none = json!({"rtt_s": null, "rate_ul_bps": null, "rate_dl_bps": null});
    let told = post(&gateway.url, "/v1/route", &chat("cr2fast", "hello"), &[]).await.json();
    assert_eq!((&told["link"], &told["link_measured"]), (&none, &json!([])));
    assert!(told["latency_s_estimated"].as_f64() > Some(0.0), "{told}");
    assert_eq!(ask(&gateway.url, &chat("cr2fast", "hello")).await.status, 200);
    gateway.stop().await;
    while lines(&world).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(lines(&world)[0]["link"], none);
}
