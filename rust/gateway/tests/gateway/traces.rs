//! Traces: which one a request belongs to, from the client through device and edge to the model's server.

use crate::common::client::{CHAT, Reply, chat, post};
use crate::common::stub::{Play, Stub};
use crate::common::{World, device, edge};
use serde_json::Value;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const STATE: &str = "rojo=00f067aa0ba902b7";

/// The log's line of an answer.
async fn line(world: &World, file: &str, reply: &Reply) -> Value {
    let id = reply.header("x-cr2fast-request-id");
    loop {
        let text = std::fs::read_to_string(world.folder.join(file)).unwrap_or_default();
        let mut lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        if let Some(line) = lines.find(|l| l["id"] == id) {
            return line;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_clients_trace_reaches_whoever_is_asked_and_both_logs() {
    let world = World::new();
    let (accepted, deferred) = world.texts();
    let (local, medium) = (Stub::answering().await, Stub::answering().await);
    let log = |name: &str| format!("[log]\npath = \"{name}\"\nflush_ms = 1\n");
    let behind = edge(&[("medium", &medium.url)]).replace("[access]", &(log("edge") + "[access]"));
    let behind = world.start(&behind).await;
    let front = world.start(&(device(&local.url, &behind.url) + &log("device"))).await;
    let headers = [("traceparent", PARENT), ("tracestate", STATE), ("user-agent", "secret")];
    let reply = post(&front.url, CHAT, &chat("cr2fast", &accepted), &headers).await;
    assert_eq!(reply.place().0, "device");
    let seen = local.seen().remove(0);
    let got = (seen.header("traceparent"), seen.header("tracestate"), seen.header("user-agent"));
    assert_eq!(got, (Some(PARENT), Some(STATE), None));
    assert_eq!(line(&world, "device", &reply).await["trace"], TRACE);
    let reply = post(&front.url, CHAT, &chat("cr2fast", &deferred), &headers).await;
    assert_eq!(reply.place().0, "edge");
    let seen = medium.seen().remove(0);
    assert_eq!(
        (seen.header("traceparent"), seen.header("tracestate")),
        (Some(PARENT), Some(STATE))
    );
    for file in ["device", "edge"] {
        assert_eq!(line(&world, file, &reply).await["trace"], TRACE, "{file}");
    }
    // The one that is asked after a failure is told too.
    medium.play(Play::Cut);
    let reply = post(&front.url, CHAT, &chat("cr2fast", &deferred), &headers).await;
    assert_eq!(reply.place().2, "edge-down");
    assert_eq!(local.seen()[1].header("traceparent"), Some(PARENT));
}

#[tokio::test]
async fn a_malformed_trace_is_ignored_and_none_is_made_up() {
    let world = World::new();
    let local = Stub::answering().await;
    let log = "[log]\npath = \"device\"\nflush_ms = 1\n";
    let front = world.start(&(device(&local.url, "http://127.0.0.1:1") + log)).await;
    let bad = [("traceparent", "00-0-0-01"), ("tracestate", STATE)];
    for headers in [&bad[..], &[]] {
        let reply = post(&front.url, CHAT, &chat("small", "a"), headers).await;
        assert_eq!(reply.status, 200);
        assert!(line(&world, "device", &reply).await.get("trace").is_none());
    }
    for seen in local.seen() {
        assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (None, None));
    }
}

#[cfg(not(feature = "otel"))]
#[tokio::test]
async fn spans_are_refused_by_a_gateway_without_them() {
    use cr2fast_gateway::App;
    let world = World::new();
    let file = device("http://127.0.0.1:1", "http://127.0.0.1:1");
    let with = |section: &str| world.config(&format!("{file}[traces]\n{section}"));
    let config = with("endpoint = \"http://127.0.0.1:4318\"\n").unwrap();
    for got in [App::describe(&config).unwrap_err(), App::new(&config).unwrap_err()] {
        let words = ":21: traces.endpoint: expected a gateway that was built with the feature otel";
        assert!(got.to_string().contains(words), "{got}");
    }
    for (section, words) in [
        (
            "endpoint = \"http://a\"\nratio = 1.5\n",
            ":22: traces.ratio: expected a number from 0 to 1",
        ),
        ("endpoint = \"http://a\"\nratio = nan\n", ":22: traces.ratio: expected a number"),
        ("endpoint = \"a\"\n", ":21: traces.endpoint: expected http://HOST:PORT"),
        ("ratio = 0.5\n", "missing field `endpoint`"),
    ] {
        let got = with(section).unwrap_err().to_string();
        assert!(got.contains(words), "{got}");
    }
}

/// With a collector that plays a part.
#[cfg(feature = "otel")]
mod spans {
    use super::{CHAT, PARENT, Play, STATE, Stub, TRACE, World, chat, device, line, post};

    fn holds(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|w| w == part)
    }

    fn hex(text: &str) -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2).map(|p| std::str::from_utf8(p).unwrap());
        pairs.map(|p| u8::from_str_radix(p, 16).unwrap()).collect()
    }

    fn file(local: &Stub, collector: &str, ratio: f64) -> String {
        let log = "[log]\npath = \"device\"\nflush_ms = 1\n";
        let traces = format!("[traces]\nendpoint = \"{collector}\"\nratio = {ratio}\n");
        device(&local.url, "http://127.0.0.1:1") + log + &traces
    }

    // A stop waits for the last message, which the collector has to take meanwhile.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_its_decision_and_its_tries_are_spans_of_the_clients_trace() {
        let world = World::new();
        let (_, deferred) = world.texts();
        let (local, collector) = (Stub::answering().await, Stub::answering().await);
        let gateway = world.start(&file(&local, &collector.url, 0.0)).await;
        let prompt = format!("{deferred} {deferred}");
        let prompt = if prompt.len() > 8 { prompt } else { deferred };
        let headers = [("traceparent", PARENT), ("tracestate", STATE)];
        let reply = post(&gateway.url, CHAT, &chat("cr2fast", &prompt), &headers).await;
        assert_eq!((reply.status, reply.place().0), (200, "device"));
        assert_eq!(line(&world, "device", &reply).await["trace"], TRACE);
        let seen = local.seen().remove(0);
        let told = seen.header("traceparent").unwrap().to_string();
        assert_eq!(seen.header("tracestate"), Some(STATE));
        gateway.stop().await;
        let sent = collector.seen();
        assert!(!sent.is_empty() && sent[0].head.starts_with("POST /v1/traces HTTP/1.1"));
        assert_eq!(sent[0].header("content-type"), Some("application/x-protobuf"));
        let all: Vec<u8> = sent.iter().flat_map(|s| s.body.clone()).collect();
        let (why, span) = (reply.place().2.to_string(), told.split('-').nth(2).unwrap());
        assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-01"), "{told}");
        assert!(!told.contains("b7ad6b7169203331"), "the try's span, not the client's: {told}");
        for part in [
            hex(TRACE),
            hex("b7ad6b7169203331"),
            hex(span),
            b"cr2fast-gateway".to_vec(),
            b"decide".to_vec(),
            b"chat device".to_vec(),
            b"gen_ai.response.model".to_vec(),
            b"cr2fast.margin".to_vec(),
            why.into_bytes(),
        ] {
            assert!(holds(&all, &part), "{:?}", String::from_utf8_lossy(&part));
        }
        let bearer = crate::common::DEVICE_TOKEN.as_bytes();
        assert!(!holds(&all, bearer), "no secret");
        assert!(prompt.len() < 5 || !holds(&all, prompt.as_bytes()), "no prompt");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_ratio_decides_where_no_client_has_and_a_trace_is_begun_for_the_log() {
        for (ratio, flags) in [(0.0, "-00"), (1.0, "-01")] {
            let world = World::new();
            let (local, collector) = (Stub::answering().await, Stub::answering().await);
            let gateway = world.start(&file(&local, &collector.url, ratio)).await;
            let reply = post(&gateway.url, CHAT, &chat("small", "a"), &[]).await;
            let trace = line(&world, "device", &reply).await["trace"].as_str().unwrap().to_string();
            let told = local.seen()[0].header("traceparent").unwrap().to_string();
            assert!(told.starts_with(&format!("00-{trace}-")) && told.ends_with(flags), "{told}");
            gateway.stop().await;
            assert_eq!(collector.count() > 0, ratio > 0.0);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_collector_that_is_dead_or_silent_costs_no_request_anything() {
        let silent = Stub::start(Play::Silence).await;
        for collector in ["http://127.0.0.1:1", &silent.url] {
            let world = World::new();
            let local = Stub::answering().await;
            let gateway = world.start(&file(&local, collector, 1.0)).await;
            // More than the queue holds.
            for _ in 0..1_500 {
                assert_eq!(post(&gateway.url, CHAT, &chat("small", "a"), &[]).await.status, 200);
            }
            gateway.stop().await;
        }
    }
}
