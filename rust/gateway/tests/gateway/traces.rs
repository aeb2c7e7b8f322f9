//! Traces: which one a request belongs to, from the client through device and edge to the model's server.

use crate::common::client::{CHAT, Reply, chat, post};
use crate::common::stub::{Play, Stub};
use crate::common::{World, device, edge};
use serde_json::Value;

pub const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
pub const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
pub const STATE: &str = "rojo=00f067aa0ba902b7";

/// The log's line of an answer.
pub async fn line(world: &World, file: &str, reply: &Reply) -> Value {
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

#[test]
fn a_wrong_section_names_its_line() {
    let world = World::new();
    let file = device("http://127.0.0.1:1", "http://127.0.0.1:1");
    for (section, words) in [
        (
            "endpoint = \"http://a\"\nratio = 1.5\n",
            ":22: traces.ratio: expected a number from 0 to 1",
        ),
        ("endpoint = \"http://a\"\nratio = nan\n", ":22: traces.ratio: expected a number"),
        ("endpoint = \"a\"\n", ":21: traces.endpoint: expected http://HOST:PORT"),
        ("ratio = 0.5\n", "missing field `endpoint`"),
    ] {
        let got = world.config(&format!("{file}[traces]\n{section}")).unwrap_err().to_string();
        assert!(got.contains(words), "{got}");
    }
}

#[cfg(not(feature = "otel"))]
#[test]
fn spans_are_refused_by_a_gateway_without_them() {
    use cr2fast_gateway::App;
    let world = World::new();
    let file = device("http://127.0.0.1:1", "http://127.0.0.1:1");
    let section = "[traces]\nendpoint = \"http://127.0.0.1:4318\"\n";
    let config = world.config(&(file + section)).unwrap();
    for got in [App::describe(&config).unwrap_err(), App::new(&config).unwrap_err()] {
        let words = ":21: traces.endpoint: expected a gateway that was built with the feature otel";
        assert!(got.to_string().contains(words), "{got}");
    }
}
