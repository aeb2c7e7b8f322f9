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
