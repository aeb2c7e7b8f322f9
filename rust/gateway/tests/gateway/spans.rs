//! Spans, as they reach a collector.

use std::collections::BTreeMap;

use crate::common::client::{CHAT, chat, post};
use crate::common::stub::{Play, Stub};
use crate::common::{CLIENT_TOKEN, DEVICE_TOKEN, World, device, edge};
use crate::traces::{PARENT, STATE, TRACE, line};
use cr2fast_gateway::App;

/// A field of a message in protocol buffers.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let end = bytes.iter().position(|b| b & 0x80 == 0).unwrap();
    let (all, rest) = bytes.split_at(end + 1);
    *bytes = rest;
    all.iter().rev().fold(0, |x, b| x << 7 | u64::from(b & 0x7f))
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let long = match tag & 7 {
            0 => {
                all.push((tag >> 3, Field::Number(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)).unwrap(),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (field, rest) = bytes.split_at(long);
        all.push((tag >> 3, Field::Bytes(field)));
        bytes = rest;
    }
    all
}

fn parts(bytes: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(bytes).into_iter().filter_map(move |(n, field)| match field {
        Field::Bytes(part) if n == number => Some(part),
        _ => None,
    })
}

fn text(bytes: &[u8], number: u64) -> String {
    parts(bytes, number).next().map_or(String::new(), |b| String::from_utf8(b.into()).unwrap())
}

fn hex(bytes: &[u8], number: u64) -> String {
    let id = parts(bytes, number).next().unwrap_or_default();
    id.iter().fold(String::new(), |s, b| format!("{s}{b:02x}"))
}

#[derive(Clone, Debug)]
struct Span {
    service: String,
    trace: String,
    id: String,
    parent: String,
    state: String,
    name: String,
    failed: bool,
    /// Those that are text or a whole number; the names of the others.
    attributes: BTreeMap<String, String>,
}

/// Attributes of a resource or a span.
fn attributes(bytes: &[u8], number: u64) -> BTreeMap<String, String> {
    let value = |pair: &[u8]| {
        let any = parts(pair, 2).next().unwrap_or_default();
        match fields(any).into_iter().next() {
            Some((1, Field::Bytes(b))) => String::from_utf8(b.into()).unwrap(),
            Some((3, Field::Number(n))) => n.to_string(),
            _ => String::new(),
        }
    };
    parts(bytes, number).map(|pair| (text(pair, 1), value(pair))).collect()
}

/// What a collector was sent, all of it read.
fn received(collector: &Stub) -> Vec<Span> {
    let mut all = Vec::new();
    for message in collector.seen() {
        assert!(message.head.starts_with("POST /v1/traces HTTP/1.1"), "{}", message.head);
        assert_eq!(message.header("content-type"), Some("application/x-protobuf"));
        for source in parts(&message.body, 1) {
            let resource = attributes(parts(source, 1).next().unwrap(), 1);
            for span in parts(source, 2).flat_map(|scope| parts(scope, 2)) {
                let status = parts(span, 15).next().unwrap_or_default();
                all.push(Span {
                    service: resource["service.name"].clone(),
                    trace: hex(span, 1),
                    id: hex(span, 2),
                    parent: hex(span, 4),
                    state: text(span, 3),
                    name: text(span, 5),
                    failed: fields(status).iter().any(|f| matches!(f, (3, Field::Number(2)))),
                    attributes: attributes(span, 9),
                });
            }
        }
    }
    all
}

fn to(collector: &str, ratio: f64) -> String {
    format!("[traces]\nendpoint = \"{collector}\"\nratio = {ratio}\n")
}

// A stop waits for the last message, which the collector has to take meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_decisions_and_tries_are_one_tree_under_the_clients_span() {
    let world = World::new();
    let (_, deferred) = world.texts();
    let (local, medium) = (Stub::answering().await, Stub::answering().await);
    let collector = Stub::start(Play::Json(200, String::new())).await;
    // The ratio is of traces that begin here: this one's client has decided.
    let traces = to(&collector.url, 0.0);
    let behind = world.start(&(edge(&[("medium", &medium.url)]) + &traces)).await;
    let front = world.start(&(device(&local.url, &behind.url) + &traces)).await;
    let headers = [("traceparent", PARENT), ("tracestate", STATE)];
    let prompt = format!("{deferred} {}", "quite a secret");
    let asked = [&prompt, &deferred].map(|text| chat("cr2fast:alpha=0.02", text));
    let reply = post(&front.url, CHAT, &asked[0], &headers).await;
    assert_eq!(reply.place(), ("edge", "medium", "deferred"));
    let told = medium.seen()[0].header("traceparent").unwrap().to_string();
    medium.play(Play::Cut);
    let failed = post(&front.url, CHAT, &asked[1], &headers).await;
    assert_eq!(failed.place().2, "edge-down");
    front.stop().await;
    behind.stop().await;
    let all = received(&collector);
    let id = reply.header("x-cr2fast-request-id");
    let mut left: Vec<Span> = all.clone();
    let mut take = |parent: &str, name: &str| {
        let at = left.iter().position(|s| s.parent == parent && s.name == name);
        left.swap_remove(at.unwrap_or_else(|| panic!("no {name} under {parent}: {all:#?}")))
    };
    for span in &all {
        assert_eq!((span.trace.as_str(), span.service.as_str()), (TRACE, "cr2fast-gateway"));
        assert_eq!(span.state, STATE);
    }
    for _ in 0..2 {
        let request = take("b7ad6b7169203331", "chat");
        take(&request.id, "decide");
        let asks = take(&request.id, "chat edge");
        let received = take(&asks.id, "chat");
        take(&received.id, "decide");
        let answers = take(&received.id, "chat medium");
        assert_eq!(
            request.attributes["cr2fast.request_id"],
            received.attributes["cr2fast.request_id"]
        );
        assert_eq!(request.attributes["gen_ai.request.model"], "cr2fast");
        assert!(request.attributes.contains_key("cr2fast.margin"));
        if request.attributes["cr2fast.request_id"] == id {
            assert_eq!(told, format!("00-{TRACE}-{}-01", answers.id));
            assert_eq!(request.attributes["cr2fast.why"], "deferred");
            assert_eq!(request.attributes["gen_ai.response.model"], "medium");
            assert_eq!(request.attributes["gen_ai.usage.output_tokens"], "7");
            assert!(!request.failed && !asks.failed && !received.failed && !answers.failed);
        } else {
            assert_eq!(request.attributes["cr2fast.why"], "edge-down");
            assert_eq!(answers.attributes["error.type"], "broken");
            assert_eq!(asks.attributes["error.type"], "refused");
            assert!(!request.failed && asks.failed && received.failed && answers.failed);
            assert!(!take(&request.id, "chat device").failed);
        }
    }
    assert!(left.is_empty(), "{left:#?}");
    let sent: Vec<u8> = collector.seen().into_iter().flat_map(|m| m.body).collect();
    for secret in ["quite a secret", "h\u{e9}", DEVICE_TOKEN, CLIENT_TOKEN] {
        let holds = sent.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!holds, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ratio_decides_where_no_client_has_and_a_trace_is_begun_for_the_log() {
    for (ratio, flags) in [(0.0, "-00"), (1.0, "-01")] {
        let world = World::new();
        let (local, collector) = (Stub::answering().await, Stub::answering().await);
        let log = "[log]\npath = \"device\"\nflush_ms = 1\n";
        let file = device(&local.url, "http://127.0.0.1:1") + log + &to(&collector.url, ratio);
        let told = App::describe(&world.config(&file).unwrap()).unwrap();
        assert!(told.contains(&format!("sends spans of {ratio} of the traces")), "{told}");
        let gateway = world.start(&file).await;
        let reply = post(&gateway.url, CHAT, &chat("small", "a"), &[]).await;
        let trace = line(&world, "device", &reply).await["trace"].as_str().unwrap().to_string();
        let told = local.seen()[0].header("traceparent").unwrap().to_string();
        assert!(told.starts_with(&format!("00-{trace}-")) && told.ends_with(flags), "{told}");
        gateway.stop().await;
        let spans = received(&collector);
        assert_eq!(spans.len(), if ratio > 0.0 { 3 } else { 0 }, "{spans:#?}");
        assert!(spans.iter().all(|span| span.trace == trace));
        let roots = spans.iter().filter(|span| span.parent.is_empty()).count();
        assert_eq!(roots, usize::from(ratio > 0.0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_samples_nothing_is_obeyed() {
    let world = World::new();
    let (local, collector) = (Stub::answering().await, Stub::answering().await);
    let file = device(&local.url, "http://127.0.0.1:1") + &to(&collector.url, 1.0);
    let gateway = world.start(&file).await;
    let parent = PARENT.replace("-01", "-00");
    post(&gateway.url, CHAT, &chat("small", "a"), &[("traceparent", &parent)]).await;
    let told = local.seen()[0].header("traceparent").unwrap().to_string();
    assert!(told.contains(TRACE) && told.ends_with("-00"), "{told}");
    gateway.stop().await;
    assert_eq!(collector.count(), 0);
}

/// Requests, three spans each, that together are more than one message holds, and more than the queue.
const MESSAGE: usize = 200;
const QUEUE: usize = 900;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_or_silent_costs_no_request_anything() {
    let (world, local) = (World::new(), Stub::answering().await);
    let silent = Stub::start(Play::Silence).await;
    for collector in ["http://127.0.0.1:1", &silent.url] {
        let gateway =
            world.start(&(device(&local.url, "http://127.0.0.1:1") + &to(collector, 1.0))).await;
        let mut answered = MESSAGE;
        let many = async |n| {
            for _ in 0..n {
                assert_eq!(post(&gateway.url, CHAT, &chat("small", "a"), &[]).await.status, 200);
            }
        };
        many(MESSAGE).await;
        if collector == silent.url {
            // It has a message and keeps its sender waiting, while the queue fills and requests are answered.
            while silent.count() == 0 {
                tokio::task::yield_now().await;
            }
            many(QUEUE).await;
            answered += QUEUE;
        }
        let text = crate::common::client::get(&gateway.url, "/metrics").await.body;
        let line = "cr2fast_requests_total{place=\"device\",model=\"small\",why=\"direct\",outcome=\"answered\"} ";
        assert!(text.contains(&format!("{line}{answered}\n")), "{text}");
        let lost = async |reason: &str| -> usize {
            let text = crate::common::client::get(&gateway.url, "/metrics").await.body;
            let line = format!("cr2fast_spans_dropped_total{{reason=\"{reason}\"}} ");
            text.lines().find_map(|l| l.strip_prefix(&line)?.parse().ok()).unwrap()
        };
        if collector == silent.url {
            // Three spans of each request ended; a queue is full, and each message took 512 of them at most.
            let most = 3 * answered - 2_048;
            let dropped = lost("queue").await;
            assert!((1..=most).contains(&dropped), "{dropped} of {}", 3 * answered);
        } else {
            while lost("collector").await < 512 {
                tokio::task::yield_now().await;
            }
            assert_eq!(lost("queue").await, 0);
        }
        gateway.stop().await;
    }
}
