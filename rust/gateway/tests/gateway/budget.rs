//! Limits of a call, groups, and the rule that may send a request back: the same on device and edge.

use crate::common::client::{CHAT, ask, chat, post};
use crate::common::stub::Stub;
use crate::common::{MODELS, Rng, World, device, edge};
use cr2fast_core::{Budget, Call, Error, LinkState, Rule, TwoStage};

const LIMITS: [&str; 3] =
    ["x-cr2fast-max-latency-ms", "x-cr2fast-max-energy-j", "x-cr2fast-max-usd"];

/// Random limits around what the models take, as headers and as the core has them.
fn limits(rng: &mut Rng) -> (Vec<(&'static str, String)>, Budget) {
    let mut headers = Vec::new();
    let mut one = |name: &'static str, scale: f64| {
        let value = (rng.below(2) == 0).then(|| scale * (rng.below(1_000) as f64 + 1.0));
        headers.extend(value.map(|value| (name, value.to_string())));
        value
    };
    let budget = Budget {
        latency_s: one(LIMITS[0], 10.0).map(|ms| ms / 1e3),
        energy_j: one(LIMITS[1], 1.0),
        usd: one(LIMITS[2], 1e-5),
    };
    (headers, budget)
}

fn refs<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    headers.iter().map(|(k, v)| (*k, v.as_str())).collect()
}

#[tokio::test]
async fn a_device_decides_within_limits_as_the_core_does() {
    let world = World::new();
    let gateway = world.start(&device("http://127.0.0.1:1", "http://127.0.0.1:1")).await;
    let core = TwoStage::new(&world.router, 1.0, 0.05, Rule::EdgeOnly).unwrap();
    let mut rng = Rng::new(21);
    let mut ways = std::collections::BTreeMap::new();
    for _ in 0..1_000 {
        let text = rng.words();
        let (headers, budget) = limits(&mut rng);
        let reply = post(&gateway.url, "/v1/route", &chat("cr2fast", &text), &refs(&headers)).await;
        let (x, n) = (world.encoder.encode(&text).unwrap(), world.encoder.count_tokens(&text));
        let call = Call { budget, ..Call::default() };
        let told = match core.route(&x, n as f64, &call) {
            Err(Error::Budget { nearest, .. }) => {
                assert_eq!(reply.status, 422, "{}", reply.body);
                assert_eq!(reply.header("x-cr2fast-refusal"), "budget");
                assert!(reply.error().contains(&nearest), "{}", reply.error());
                "unmet"
            }
            Err(e) => panic!("{e}"),
            Ok(choice) => {
                let told = reply.json();
                assert_eq!(told["expected_model"], MODELS[choice.model], "{told}");
                assert_eq!(told["place"], if choice.model == 0 { "device" } else { "edge" });
                let estimate = core.estimate(choice.model, &x, n as f64, None).unwrap();
                assert_eq!(told["latency_s_estimated"].as_f64(), estimate.latency_s);
                assert_eq!(told["energy_j_estimated"].as_f64(), estimate.energy_j);
                assert_eq!(told["usd_estimated"].as_f64(), estimate.usd);
                match (choice.decision.local, choice.model) {
                    (true, 0) => "accepted",
                    (false, 0) => "kept",
                    (true, _) => "moved",
                    (false, _) => "deferred",
                }
            }
        };
        if told != "unmet" {
            let why = if ["kept", "moved"].contains(&told) { "budget" } else { told };
            assert_eq!(reply.json()["why"], why);
        }
        *ways.entry(told).or_insert(0) += 1;
    }
    assert_eq!(ways.len(), 5, "every way was gone: {ways:?}");
}

#[tokio::test]
async fn an_edge_keeps_limits_too_and_what_it_cannot_keep_the_device_does() {
    let world = World::new();
    let (medium, large) = (Stub::answering().await, Stub::answering().await);
    let local = Stub::answering().await;
    let behind = world.start(&edge(&[("medium", &medium.url), ("large", &large.url)])).await;
    let front = world.start(&device(&local.url, &behind.url)).await;
    let (_, deferred) = world.texts();
    let at = async |url: &str, limit: (&str, &str)| {
        post(url, CHAT, &chat("cr2fast", &deferred), &[limit]).await
    };
    // Dollars: the device's model costs none.
    let reply = at(&behind.url, (LIMITS[2], "0")).await;
    assert_eq!((reply.status, reply.header("x-cr2fast-refusal")), (422, "budget"));
    assert!(reply.error().contains("max_usd=0"), "{}", reply.error());
    let reply = at(&front.url, (LIMITS[2], "0")).await;
    assert_eq!((reply.status, reply.place()), (200, ("device", "small", "budget")));
    assert_eq!((medium.count(), large.count()), (0, 0));
    let reply = at(&front.url, (LIMITS[2], "1000")).await;
    assert_eq!((reply.status, reply.place().2), (200, "deferred"));
    // An edge without the model that keeps the limit: it says so, and the device answers.
    let only = world.start(&edge(&[("large", &large.url)])).await;
    let front = world.start(&device(&local.url, &only.url)).await;
    let medium_usd = {
        let x = world.encoder.encode(&deferred).unwrap();
        let n = world.encoder.count_tokens(&deferred) as f64;
        let core = TwoStage::new(&world.router, 1.0, 0.05, Rule::EdgeOnly).unwrap();
        let within = |usd: f64| {
            let budget = Budget { usd: Some(usd), ..Budget::default() };
            core.route(&x, n, &Call { budget, ..Call::default() }).unwrap().model == 1
        };
        (1..10_000).map(|i| f64::from(i) * 1e-4).find(|usd| within(*usd)).unwrap().to_string()
    };
    let asked = large.count();
    let reply = at(&front.url, (LIMITS[2], &medium_usd)).await;
    assert_eq!((reply.status, reply.place()), (200, ("device", "small", "budget")));
    assert_eq!(large.count(), asked);
    // A limit that nobody keeps.
    let reply = at(&front.url, (LIMITS[0], "0.001")).await;
    assert_eq!(reply.status, 422);
    assert!(reply.error().contains("the nearest is"), "{}", reply.error());
}

#[tokio::test]
async fn a_word_that_the_vocabulary_lacks_costs_by_its_length() {
    let world = World::new();
    let gateway = world.start(&device("http://127.0.0.1:1", "http://127.0.0.1:1")).await;
    let core = TwoStage::new(&world.router, 1.0, 0.05, Rule::EdgeOnly).unwrap();
    let at = async |text: &str, usd: f64| {
        let limit = (LIMITS[2], &*usd.to_string());
        post(&gateway.url, "/v1/route", &chat("cr2fast", text), &[limit]).await.json()
    };
    let mut rng = Rng::new(5);
    // One unknown word each, so one embedding.
    let (short, long) = std::iter::repeat_with(|| rng.words())
        .map(|words| (format!("{words} ก"), format!("{words} {}", "ก".repeat(900))))
        .find(|(short, _)| !world.core().route_text(short, &world.encoder, false).unwrap().local)
        .unwrap();
    assert_eq!(world.encoder.encode(&short).unwrap(), world.encoder.encode(&long).unwrap());
    let free = at(&short, 1e6).await;
    let costly = at(&long, 1e6).await;
    assert_eq!((&free["why"], &costly["why"]), (&"deferred".into(), &"deferred".into()));
    let tokens = |told: &serde_json::Value| told["n_input_tokens_estimated"].as_u64().unwrap();
    assert_eq!(tokens(&free), world.encoder.count_tokens(&short) as u64);
    assert_eq!(tokens(&costly), tokens(&free) + 899);
    let x = world.encoder.encode(&short).unwrap();
    let route = |n: u64, usd: f64| {
        let call =
            Call { budget: Budget { usd: Some(usd), ..Budget::default() }, ..Call::default() };
        core.route(&x, n as f64, &call).unwrap().model
    };
    let limits = (-20..10).map(|power| 2_f64.powi(power));
    let usd = limits.into_iter().find(|usd| route(tokens(&free), *usd) > 0).unwrap();
    assert_eq!(at(&short, usd).await["place"], "edge");
    let kept = at(&long, usd).await;
    assert_eq!((&kept["place"], &kept["why"]), (&"device".into(), &"budget".into()));
}

#[tokio::test]
async fn limits_that_mean_nothing_are_refused() {
    let world = World::new();
    let gateway = world.start(&device("http://127.0.0.1:1", "http://127.0.0.1:1")).await;
    let at = async |body: &str, limit: (&str, &str)| post(&gateway.url, CHAT, body, &[limit]).await;
    let routed = chat("cr2fast", "hello");
    for value in ["-1", "NaN", "inf", "cheap", ""] {
        for header in LIMITS {
            let reply = at(&routed, (header, value)).await;
            assert_eq!(reply.status, 400, "{header}: {value}");
            assert!(reply.error().starts_with(header), "{}", reply.error());
        }
    }
    let reply = at(&chat("small", "hello"), (LIMITS[2], "1")).await;
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("names its model"), "{}", reply.error());
    let image = "{\"model\":\"cr2fast\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}";
    assert_eq!(at(image, (LIMITS[2], "1")).await.status, 422);
    assert_eq!(at(&routed, ("x-cr2fast-max-eur", "1")).await.status, 400);
}

#[tokio::test]
async fn by_the_inclusive_rule_the_edge_may_send_a_request_back() {
    let world = World::new();
    let (medium, large) = (Stub::answering().await, Stub::answering().await);
    let local = Stub::answering().await;
    let models = edge(&[("medium", &medium.url), ("large", &large.url)]);
    let behind = world.start(&format!("rule = \"inclusive\"\n{models}")).await;
    let front = world.start(&device(&local.url, &behind.url)).await;
    let core = cr2fast_core::EdgeSelector::new(&world.router, 20.0, Rule::Inclusive).unwrap();
    let mut rng = Rng::new(31);
    let mut back = 0;
    for _ in 0..40 {
        let text = rng.words();
        let x = world.encoder.encode(&text).unwrap();
        // At α = 0.02 all is deferred.
        let reply = ask(&front.url, &chat("cr2fast:lam=20,alpha=0.02", &text)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let best = |state: LinkState| {
            let query = cr2fast_core::Query {
                embedding: &x,
                n_input_tokens: world.encoder.count_tokens(&text) as f64,
                n_output_tokens: None,
                state,
                available: None,
                waiting_s: None,
                budget: Budget::default(),
            };
            core.select(&query).unwrap().model
        };
        // The link's state is measured by and by, between these two: the choice is the same at both.
        let fast = LinkState { rtt_s: 0.0, rate_ul_bps: 1e12, rate_dl_bps: 1e12 };
        if best(core.typical()) == 0 && best(fast) == 0 {
            assert_eq!(reply.place(), ("device", "small", "returned"));
            back += 1;
        }
        assert!(["returned", "deferred"].contains(&reply.place().2));
    }
    assert!(back > 0 && local.count() >= back);
    // A client of the edge has no device to send it back to: an edge model answers.
    let reply = ask(&behind.url, &chat("cr2fast:lam=20", "a b c")).await;
    assert_eq!((reply.status, reply.place().0), (200, "edge"));
    // Where the device then fails, the edge is asked again, and keeps it.
    local.play(crate::common::stub::Play::Cut);
    let reply = ask(&front.url, &chat("cr2fast:lam=20,alpha=0.02", "a b c")).await;
    assert_eq!((reply.status, reply.place().0), (200, "edge"));
    let both = format!("rule = \"inclusive\"\nfallback = \"medium\"\n{models}");
    assert!(world.config(&both).unwrap_err().to_string().contains("no fallback beside"));
}

#[tokio::test]
async fn each_group_has_its_threshold_and_unknown_ones_defer() {
    let (world, edge) = (World::new(), Stub::answering().await);
    let (accepted, _) = world.texts();
    let mut calibration = world.router.calibration().unwrap().clone();
    let cells = calibration.thresholds.len();
    calibration.groups = Some(cr2fast_core::Groups {
        names: vec!["chat".into(), "m\u{f6}bel".into()],
        counts: vec![500, 500],
        thresholds: [vec![f32::NEG_INFINITY; cells], vec![f32::INFINITY; cells]].concat(),
        pooled: false,
    });
    let grouped = world.router.with_calibration(calibration).unwrap();
    grouped.save(&world.folder.join("router.safetensors")).unwrap();
    let local = Stub::answering().await;
    let gateway = world.start(&device(&local.url, &edge.url)).await;
    let at = async |url: &str, group: &str| {
        post(url, CHAT, &chat("cr2fast", &accepted), &[("x-cr2fast-group", group)]).await
    };
    for (group, why, threshold) in
        [("chat", "accepted", "-inf"), ("m\u{f6}bel", "deferred", "inf"), ("x", "deferred", "inf")]
    {
        let reply = at(&gateway.url, group).await;
        assert_eq!((reply.status, reply.place().2), (200, why), "{group}");
        assert_eq!(reply.header("x-cr2fast-threshold"), threshold);
    }
    assert_eq!(ask(&gateway.url, &chat("cr2fast", &accepted)).await.place().2, "deferred");
    assert_eq!(at(&gateway.url, &"x".repeat(201)).await.status, 400);
    let plain = World::new();
    let gateway = plain.start(&device(&local.url, &edge.url)).await;
    let behind = plain.start(&crate::common::edge(&[("medium", &edge.url)])).await;
    for url in [&gateway.url, &behind.url] {
        let reply = at(url, "chat").await;
        assert_eq!(reply.status, 400);
        assert!(reply.error().contains("calibrated without groups"), "{}", reply.error());
    }
}
