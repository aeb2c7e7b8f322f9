//! Health of the edge's servers, and their queues.

use std::sync::atomic::Ordering;

use crate::common::client::{ask, chat, get, post, send, streamed};
use crate::common::stub::{DONE, Play, Stub, WORD};
use crate::common::{Gateway, Rng, World, edge, lines_of};
use cr2fast_core::{Budget, EdgeSelector, LinkState, Query, Rule};

async fn until_up(gateway: &Gateway, name: &str, up: u8) {
    let line = format!("cr2fast_upstream_up{{upstream=\"{name}\"}} {up}");
    while !get(&gateway.url, "/metrics").await.body.contains(&line) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_says_it_is_not_well_is_passed_over_until_it_is() {
    let world = World::new();
    let (medium, large) = (Stub::answering().await, Stub::answering().await);
    let text = edge(&[("medium", &medium.url), ("large", &large.url)]);
    let text = text.replace("every_ms = 0", "every_ms = 5\ntimeout_ms = 60000\nfailures = 2");
    let gateway = world.start(&text).await;
    medium.well.store(false, Ordering::SeqCst);
    until_up(&gateway, "medium", 0).await;
    for i in 0..8 {
        let reply = ask(&gateway.url, &chat("cr2fast", &"word ".repeat(i))).await;
        assert_eq!((reply.status, reply.place().1), (200, "large"));
    }
    assert_eq!(medium.count(), 0);
    assert_eq!(ask(&gateway.url, &chat("medium", "by name")).await.status, 200);
    // When none is well the question may be the wrong one.
    large.well.store(false, Ordering::SeqCst);
    until_up(&gateway, "large", 0).await;
    assert_eq!(get(&gateway.url, "/readyz").await.status, 503);
    assert_eq!(ask(&gateway.url, &chat("cr2fast", "hello")).await.status, 200);
    medium.well.store(true, Ordering::SeqCst);
    until_up(&gateway, "medium", 1).await;
    for i in 0..8 {
        let reply = ask(&gateway.url, &chat("cr2fast", &"word ".repeat(i))).await;
        assert_eq!(reply.place().1, "medium");
    }
}

#[tokio::test]
async fn a_queue_is_measured_and_told() {
    let world = World::new();
    let (medium, large) = (Stub::answering().await, Stub::answering().await);
    let text = edge(&[("medium", &medium.url), ("large", &large.url)])
        + "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n";
    let gateway = world.start(&text).await;
    let route = async || post(&gateway.url, "/v1/route", &chat("cr2fast", "hello"), &[]).await;
    let told = route().await.json();
    assert_eq!(told["queueing_s"], serde_json::json!({"medium": 0.0, "large": 0.0}));
    large.play(Play::Events(vec![WORD.into(), DONE.into()]));
    assert_eq!(ask(&gateway.url, &streamed("large", "a")).await.status, 200);
    large.play(Play::EventsThenSilence(vec![]));
    let url = gateway.url.clone();
    let held = tokio::spawn(async move {
        send(&url, crate::common::client::CHAT, streamed("large", "a"), &[]).await
    });
    while route().await.json()["queueing_s"]["large"].as_f64() <= Some(0.0) {
        tokio::task::yield_now().await;
    }
    let metrics = get(&gateway.url, "/metrics").await.body;
    let line = "cr2fast_queueing_seconds{model=\"large\"} ";
    let seconds = metrics.lines().find_map(|l| l.strip_prefix(line)?.parse::<f64>().ok());
    assert!(seconds.is_some_and(|s| s > 0.0), "{metrics}");
    large.play(Play::Json(200, crate::common::stub::ANSWER.into()));
    assert_eq!(ask(&gateway.url, &chat("cr2fast", "hello")).await.status, 200);
    held.abort();
    let line = loop {
        let lines = lines_of(&world.folder.join("decisions.jsonl"));
        if let Some(line) = lines.into_iter().find(|line| line["why"] == "deferred") {
            break line;
        }
        tokio::task::yield_now().await;
    };
    assert!(line["queueing_s"]["large"].as_f64() > Some(0.0), "{line}");
    assert_eq!(line["queueing_s"]["medium"], 0.0);
}

#[test]
fn waiting_costs_what_it_takes_and_changes_the_choice() {
    let world = World::new();
    let selector = EdgeSelector::new(&world.router, 20.0, Rule::EdgeOnly).unwrap();
    let embedding = world.encoder.encode(&Rng::new(4).words()).unwrap();
    let state = LinkState { rtt_s: 0.01, rate_ul_bps: 1e7, rate_dl_bps: 1e7 };
    let select = |waiting_s: Option<&[f64]>, available: Option<&[bool]>, budget| {
        selector.select(&Query {
            embedding: &embedding,
            n_input_tokens: 100.0,
            n_output_tokens: Some(&[50.0; 3]),
            state,
            available,
            waiting_s,
            budget,
        })
    };
    let only = |name| [false, name == "medium", name == "large"];
    let idle = select(None, None, Budget::default()).unwrap();
    assert_eq!(select(Some(&[0.0; 3]), None, Budget::default()).unwrap(), idle);
    // The table: shares of a half, T0 = 1 s, E0 = 100 J, P_idle = 0.05 W; the unit is "large", idle.
    let unit = select(None, Some(&only("large")), Budget::default()).unwrap();
    let raw = 0.5 * unit.latency_s.unwrap() + 0.5 * unit.energy_j.unwrap() / 100.0;
    let mut waiting = [0.0; 3];
    waiting[idle.model] = 7.0;
    let own: Vec<bool> = (0..3).map(|k| k == idle.model).collect();
    let later = select(Some(&waiting), Some(&own), Budget::default()).unwrap();
    assert!((later.latency_s.unwrap() - idle.latency_s.unwrap() - 7.0).abs() < 1e-9);
    assert!((later.energy_j.unwrap() - idle.energy_j.unwrap() - 0.35).abs() < 1e-9);
    let added = f64::from(later.cost - idle.cost);
    let expected = (0.5 * 7.0 + 0.5 * 0.35 / 100.0) / raw;
    assert!((added / expected - 1.0).abs() < 1e-5, "{added} for {expected}");
    waiting[idle.model] = 1e4;
    let other = select(Some(&waiting), None, Budget::default()).unwrap();
    assert_ne!(other.model, idle.model);
    // What waits too long is over a budget of time.
    let budget = Budget { latency_s: Some(100.0), ..Budget::default() };
    assert_eq!(select(Some(&waiting), None, budget).unwrap().model, other.model);
    for bad in [&[0.0; 2][..], &[0.0, f64::NAN, 0.0], &[0.0, -1.0, 0.0]] {
        let error = select(Some(bad), None, Budget::default()).unwrap_err().to_string();
        assert!(error.contains("waiting_s"), "{error}");
    }
}
