//! Measured joules: a number only where the counters can have moved for one request alone.

use std::sync::Arc;

use crate::common::client::{Reply, ask, chat, get};
use crate::common::meter::{Agent, energy, spend, tree};
use crate::common::stub::{Play, Stub};
use crate::common::{Gateway, World, device, edge, lines_of};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const URL: &str = "http://127.0.0.1:1";
const POWERCAP: &str = "powercap = \"powercap\"\n";
/// No reading but those of requests.
const REST: &str = "every_ms = 86400000\n";

/// A gateway for which no request is too short.
async fn patient(world: &World, text: &str, idle_w: Option<f64>) -> Gateway {
    let mut config = world.config(text).unwrap_or_else(|e| panic!("{e}"));
    let energy = config.energy.as_mut().unwrap();
    (energy.tolerance, energy.idle_w) = (f64::INFINITY, idle_w);
    Gateway::start(&config).await
}

/// A gateway, its counters, and a server that answers when told to.
struct Metered {
    world: World,
    gateway: Gateway,
    local: Stub,
    edge: Stub,
    answer: Arc<Notify>,
}

impl Metered {
    async fn start(world: World, section: &str) -> Self {
        Self::start_with(world, "", section, None).await
    }

    async fn start_with(world: World, more: &str, section: &str, idle_w: Option<f64>) -> Self {
        let answer = Arc::new(Notify::new());
        let local = Stub::start(Play::Wait(Arc::clone(&answer))).await;
        let edge = Stub::answering().await;
        let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n";
        let file = device(&local.url, &edge.url);
        let text = format!("{file}{log}{more}[energy]\n{section}{REST}");
        let gateway = patient(&world, &text, idle_w).await;
        let metered = Self { world, gateway, local, edge, answer };
        // The first reading is the interval's.
        metered.readings("good", 1).await;
        metered
    }

    async fn metric(&self, line: &str) -> u64 {
        let text = get(&self.gateway.url, "/metrics").await.body;
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        value.unwrap_or(0)
    }

    async fn readings(&self, result: &str, n: u64) {
        let line = format!("cr2fast_energy_readings_total{{result=\"{result}\"}}");
        while self.metric(&line).await < n {
            tokio::task::yield_now().await;
        }
    }

    async fn without(&self, reason: &str) -> u64 {
        self.metric(&format!("cr2fast_energy_unmeasured_total{{reason=\"{reason}\"}}")).await
    }

    /// Send a request for the local model, and wait until its server has it.
    async fn begin(&self) -> JoinHandle<Reply> {
        let (url, n) = (self.gateway.url.clone(), self.local.count());
        let asked = tokio::spawn(async move { ask(&url, &chat("small", "a")).await });
        while self.local.count() == n {
            tokio::task::yield_now().await;
        }
        asked
    }

    /// Have one answered, and give its line of the log.
    async fn end(&self, asked: JoinHandle<Reply>) -> Value {
        self.answer.notify_one();
        let reply = asked.await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        self.line(&reply).await
    }

    async fn line(&self, reply: &Reply) -> Value {
        let id = reply.header("x-cr2fast-request-id");
        loop {
            let text = std::fs::read_to_string(self.world.folder.join("decisions.jsonl"));
            let text = text.unwrap_or_default();
            let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            if let Some(line) = lines.into_iter().find(|l| l["id"] == id) {
                return line;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn is(line: &Value, joules: f64) {
    let got = line["energy_j_measured"].as_f64().unwrap_or(f64::NAN);
    assert!((got - joules).abs() < 1e-6, "{got} J, expected {joules}: {line}");
}

#[tokio::test]
async fn a_request_alone_has_the_joules_that_the_counters_moved_by() {
    let world = World::new();
    let (root, package, dram) = tree(&world);
    let m = Metered::start(world, POWERCAP).await;
    let asked = m.begin().await;
    m.readings("good", 2).await;
    // 5 J across the wrap, and 1 J of memory; core, psys and the other control type do not count.
    spend(&package, 2_000_000);
    spend(&dram, 1_000_000);
    for other in ["intel-rapl:0:0", "intel-rapl:1", "intel-rapl-mmio:0"] {
        spend(&root.join(other), 50_000_000);
    }
    let line = m.end(asked).await;
    is(&line, 6.0);
    assert!(line.get("energy_idle_w").is_none(), "nothing was subtracted: {line}");
    // What was spent between two requests is nobody's.
    m.readings("good", 3).await;
    spend(&package, 20_000_000);
    let asked = m.begin().await;
    m.readings("good", 4).await;
    is(&m.end(asked).await, 0.0);
    assert_eq!(m.without("shared").await + m.without("lost").await, 0);
}

#[tokio::test]
async fn requests_at_once_have_none_and_one_after_them_has_its_own() {
    let world = World::new();
    let (_, package, _) = tree(&world);
    let m = Metered::start(world, POWERCAP).await;
    // The first is joined by a second, which outlives it.
    let (first, second) = (m.begin().await, m.begin().await);
    m.answer.notify_one();
    m.answer.notify_one();
    for asked in [first, second] {
        let line = m.line(&asked.await.unwrap()).await;
        assert_eq!(
            (&line["energy_j_measured"], &line["outcome"]),
            (&Value::Null, &json!("answered"))
        );
    }
    assert_eq!(m.without("shared").await, 2);
    let before = m.metric("cr2fast_energy_readings_total{result=\"good\"}").await;
    let asked = m.begin().await;
    m.readings("good", before + 1).await;
    spend(&package, 1_500_000);
    is(&m.end(asked).await, 4.5);
}

#[tokio::test]
async fn what_another_machine_answers_or_tried_to_answer_has_none() {
    let world = World::new();
    tree(&world);
    let (_, deferred) = world.texts();
    let breaker = "[breaker]\nfailures = 1\nopen_ms = 86400000\nmax_open_ms = 86400000\n";
    let m = Metered::start_with(world, breaker, POWERCAP, None).await;
    let line = m.line(&ask(&m.gateway.url, &chat("cr2fast", &deferred)).await).await;
    assert_eq!((&line["place"], &line["energy_j_measured"]), (&json!("edge"), &Value::Null));
    // The edge has worked for it too before the device answered.
    m.edge.play(Play::Json(500, "{}".into()));
    m.answer.notify_one();
    let line = m.line(&ask(&m.gateway.url, &chat("cr2fast", &deferred)).await).await;
    assert_eq!((&line["place"], &line["energy_j_measured"]), (&json!("device"), &Value::Null));
    assert_eq!(m.without("elsewhere").await, 2);
    // Its breaker is open now: it is left alone, and the device works for itself.
    m.answer.notify_one();
    let line = m.line(&ask(&m.gateway.url, &chat("cr2fast", &deferred)).await).await;
    assert_eq!(line["failed"], json!([["edge", "breaker-open"]]));
    is(&line, 0.0);
    // Nobody was asked: no measurement is missing.
    assert_eq!(ask(&m.gateway.url, &chat("nobody", "a")).await.status, 404);
    assert_eq!(m.without("elsewhere").await + m.without("shared").await, 2);
}

#[tokio::test]
async fn a_shadow_on_the_device_shares_its_joules() {
    let world = World::new();
    tree(&world);
    let (_, deferred) = world.texts();
    let shadow = "[shadow]\nprobability = 1.0\n";
    let m = Metered::start_with(world, shadow, POWERCAP, None).await;
    let reply = ask(&m.gateway.url, &chat("cr2fast", &deferred)).await;
    assert_eq!(reply.place().0, "edge");
    while m.local.count() == 0 {
        tokio::task::yield_now().await;
    }
    let asked = m.begin().await;
    m.answer.notify_one();
    let line = m.end(asked).await;
    assert_eq!(line["energy_j_measured"], Value::Null);
    assert_eq!(m.without("shared").await, 1);
}

#[tokio::test]
async fn counters_that_stop_give_none_and_are_told_and_may_come_again() {
    let world = World::new();
    let (_, package, _) = tree(&world);
    let m = Metered::start(world, POWERCAP).await;
    let asked = m.begin().await;
    m.readings("good", 2).await;
    std::fs::rename(package.join("energy_uj"), package.join("gone")).unwrap();
    let line = m.end(asked).await;
    assert_eq!((&line["energy_j_measured"], &line["outcome"]), (&Value::Null, &json!("answered")));
    assert_eq!(
        (
            m.without("lost").await,
            m.metric("cr2fast_energy_readings_total{result=\"failed\"}").await
        ),
        (1, 1)
    );
    // Back again, and set back while a request was on its way: no number either.
    spend(&package, 100_000_000);
    let asked = m.begin().await;
    m.readings("good", 3).await;
    spend(&package, 99_000_000);
    assert_eq!(m.end(asked).await["energy_j_measured"], Value::Null);
    assert_eq!(
        (
            m.without("lost").await,
            m.metric("cr2fast_energy_readings_total{result=\"reset\"}").await
        ),
        (2, 1)
    );
    let asked = m.begin().await;
    m.readings("good", 4).await;
    spend(&package, 101_500_000);
    is(&m.end(asked).await, 2.5);
}

#[tokio::test]
async fn idle_watts_are_subtracted_only_where_they_are_configured_and_never_below_zero() {
    for (idle_w, measured) in [(1e-9, true), (1e12, false)] {
        let world = World::new();
        let (_, package, _) = tree(&world);
        let m = Metered::start_with(world, "", POWERCAP, Some(idle_w)).await;
        let asked = m.begin().await;
        m.readings("good", 2).await;
        spend(&package, 2_000_000);
        let line = m.end(asked).await;
        if measured {
            is(&line, 5.0);
            assert_eq!(line["energy_idle_w"], json!(1e-9));
        } else {
            assert_eq!(line["energy_j_measured"], Value::Null);
            assert!(line.get("energy_idle_w").is_none(), "{line}");
            assert_eq!(m.without("below-idle").await, 1);
        }
    }
}

#[tokio::test]
async fn a_request_shorter_than_its_readings_are_exact_has_none() {
    let world = World::new();
    tree(&world);
    let local = Stub::answering().await;
    // One ten-thousandth of the span: the counters' own tick is more.
    let more = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n[energy]\npowercap = \"powercap\"\ntolerance = 0.0001\n";
    let gateway = world.start(&(device(&local.url, URL) + more)).await;
    assert_eq!(ask(&gateway.url, &chat("small", "a")).await.status, 200);
    let inexact = "cr2fast_energy_unmeasured_total{reason=\"inexact\"} 1";
    while !get(&gateway.url, "/metrics").await.body.contains(inexact) {
        tokio::task::yield_now().await;
    }
    gateway.stop().await;
    let text = std::fs::read_to_string(world.folder.join("decisions.jsonl")).unwrap();
    assert!(text.contains("\"energy_j_measured\":null"), "{text}");
}

#[tokio::test]
async fn an_agent_is_a_meter_of_another_host() {
    let world = World::new();
    let agent = Agent::start(energy("a", json!(10.0), json!(1.0)));
    let section = format!("agent = \"{}\"\ntoken_env = \"CLIENT_TOKEN\"\n", agent.url);
    let m = Metered::start(world, &section).await;
    let asked = m.begin().await;
    m.readings("good", 2).await;
    agent.say(200, energy("a", json!(14.0), json!(1.25)));
    is(&m.end(asked).await, 4.25);
    let head = agent.seen.lock().unwrap().last().unwrap().clone();
    assert!(head.starts_with("GET /energy HTTP/1.1"), "{head}");
    let bearer = format!("authorization: bearer {}", crate::common::CLIENT_TOKEN);
    assert!(head.to_lowercase().contains(&bearer), "{head}");
    // Started anew, without trust in a reading, with another fault, as another meter, or silent.
    let lost = [
        (200, energy("b", json!(0.5), json!(0.0))),
        (200, energy("b", Value::Null, json!(0.0))),
        (
            200,
            json!({"schema": "cr2fast.agent/1", "unavailable": {"source": "rapl", "reason": "lost", "detail": "d", "remedy": "r"}}),
        ),
        (200, json!({"schema": "other"})),
        (500, json!({})),
    ];
    for (i, (status, body)) in lost.into_iter().enumerate() {
        let readings = m.metric("cr2fast_energy_readings_total{result=\"good\"}").await;
        agent.say(200, energy("a", json!(20.0), json!(2.0)));
        let resets = m.metric("cr2fast_energy_readings_total{result=\"reset\"}").await;
        let asked = m.begin().await;
        // Either follows on, or begins anew.
        while m.metric("cr2fast_energy_readings_total{result=\"good\"}").await
            + m.metric("cr2fast_energy_readings_total{result=\"reset\"}").await
            == readings + resets
        {
            tokio::task::yield_now().await;
        }
        agent.say(status, body);
        assert_eq!(m.end(asked).await["energy_j_measured"], Value::Null, "{i}");
        assert_eq!(m.without("lost").await, 1 + i as u64, "{i}");
    }
}

#[tokio::test]
async fn an_edge_counts_the_models_of_one_machine() {
    let world = World::new();
    tree(&world);
    let (medium, large) = (Stub::answering().await, Stub::answering().await);
    let file = edge(&[("medium", &medium.url), ("large", &large.url)]);
    let more = format!(
        "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n[energy]\npowercap = \"powercap\"\nmodels = [\"large\"]\n{REST}"
    );
    let gateway = patient(&world, &(file + &more), None).await;
    for model in ["medium", "large"] {
        assert_eq!(ask(&gateway.url, &chat(model, "a")).await.status, 200);
    }
    let lines = || lines_of(&world.folder.join("decisions.jsonl"));
    while lines().len() < 2 {
        tokio::task::yield_now().await;
    }
    let of = |model: &str| lines().into_iter().find(|l| l["model"] == model).unwrap();
    assert_eq!(of("medium")["energy_j_measured"], Value::Null);
    is(&of("large"), 0.0);
}
