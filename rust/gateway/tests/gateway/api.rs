//! `/v1/responses` and `/v1/outcomes`.

use crate::common::client::{Reply, get, post, read, send};
use crate::common::stub::{Play, Stub};
use crate::common::{World, device, edge, hurried_edge, lines_of};
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";
const OUTCOMES: &str = "/v1/outcomes";

fn event(kind: &str, more: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":4{more}}}\n\n")
}

fn input(model: &str, text: &str, stream: bool) -> String {
    let parts = json!([{"type": "input_text", "text": text}]);
    json!({"model": model, "stream": stream, "instructions": "be brief", "own": 1.5,
           "input": [{"role": "user", "content": parts}]})
    .to_string()
}

async fn setup() -> (World, Stub, Stub, crate::common::Gateway, String, String) {
    let world = World::new();
    let (local, edge) = (Stub::answering().await, Stub::answering().await);
    let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n";
    let gateway = world.start(&(device(&local.url, &edge.url) + log)).await;
    let (accepted, deferred) = world.texts();
    (world, local, edge, gateway, accepted, deferred)
}

fn lines(world: &World) -> Vec<Value> {
    lines_of(&world.folder.join("decisions.jsonl"))
}

#[tokio::test]
async fn responses_are_routed_and_pass_unchanged() {
    let (world, local, edge, gateway, accepted, deferred) = setup().await;
    let whole = "{ \"object\": \"response\", \"status\":\"completed\", \"error\": null,\n \"output\": [], \"usage\": {\"input_tokens\": 5, \"output_tokens\": 7, \"total_tokens\": 12}}";
    local.play(Play::Json(200, whole.into()));
    let body = input("cr2fast", &accepted, false);
    let reply = post(&gateway.url, RESPONSES, &body, &[]).await;
    assert_eq!((reply.status, reply.place()), (200, ("device", "small", "accepted")));
    assert_eq!(reply.body, whole, "byte for byte");
    let seen = &local.seen()[0];
    assert!(seen.head.starts_with("POST /v1/responses "), "{}", seen.head);
    assert_eq!(seen.body, body.replace("\"cr2fast\"", "\"tiny.gguf\"").as_bytes());
    let created = event("response.created", ",\"response\":{\"status\":\"in_progress\"}");
    let word = event("response.output_text.delta", ",\"delta\":\"w\u{f6}rd\"");
    let done = event(
        "response.completed",
        ",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}",
    );
    let all = [created.clone(), word.clone(), done];
    edge.play(Play::Events(all.to_vec()));
    let streamed = input("cr2fast", &deferred, true);
    let reply = post(&gateway.url, RESPONSES, &streamed, &[]).await;
    assert_eq!((reply.status, reply.place().2), (200, "deferred"));
    assert_eq!(reply.body, all.concat());
    assert!(edge.seen()[0].head.starts_with("POST /v1/responses "));
    // What fails before the first content is answered by the other place.
    local.play(Play::Events(all.to_vec()));
    let hurried = world.start(&hurried_edge(&device(&local.url, &edge.url))).await;
    let failed = event("response.failed", ",\"response\":{\"error\":{\"code\":\"server_error\"}}");
    let incomplete = "{\"object\":\"response\",\"status\":\"failed\",\"error\":{\"code\":\"x\"}}";
    for play in [
        Play::Events(vec![created.clone(), failed]),
        Play::Events(vec![created.clone()]),
        Play::EventsThenSilence(vec![created.clone()]),
        Play::Json(200, incomplete.into()),
    ] {
        edge.play(play.clone());
        let reply = post(&hurried.url, RESPONSES, &streamed, &[]).await;
        assert_eq!((reply.status, reply.place().2), (200, "edge-down"), "{play:?}");
        assert_eq!(reply.body, all.concat());
    }
    // After it nothing is switched: the stream ends in an error event of this API.
    let gateway = world.start(&device(&local.url, &edge.url)).await;
    edge.play(Play::EventsThenCut(vec![created.clone(), word.clone()]));
    let reply = post(&gateway.url, RESPONSES, &streamed, &[]).await;
    let tail = reply.body.strip_prefix(&[created, word].concat()).unwrap();
    let error = tail.strip_prefix("event: error\ndata: ").unwrap();
    let error: Value = serde_json::from_str(error.trim()).unwrap();
    assert_eq!((&error["type"], &error["sequence_number"]), (&json!("error"), &json!(5)));
    assert_eq!(error["code"], "stream_interrupted");
}

#[tokio::test]
async fn a_responses_request_is_decided_by_its_last_user_turn() {
    let (world, local, _edge, gateway, accepted, deferred) = setup().await;
    for text in [&accepted, &deferred] {
        let body = json!({"model": "cr2fast", "input": text}).to_string();
        let told = post(&gateway.url, "/v1/route", &body, &[]).await.json();
        let core = world.core().route_text(text, &world.encoder, false).unwrap();
        assert_eq!(told["margin"].as_f64().map(|x| x as f32), Some(core.margin));
    }
    let kept = json!({"model": "cr2fast", "input": accepted, "previous_response_id": "resp_1"});
    let reply = post(&gateway.url, RESPONSES, &kept.to_string(), &[]).await;
    assert_eq!((reply.status, reply.header("x-cr2fast-refusal")), (400, "state_elsewhere"));
    assert_eq!(local.count(), 0);
    let image = json!({"model": "cr2fast", "input": [
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]});
    let reply = post(&gateway.url, RESPONSES, &image.to_string(), &[]).await;
    assert_eq!(reply.place().2, "not-text");
    let long = json!({"model": "cr2fast", "input": accepted, "max_output_tokens": 1000});
    let reply = post(&gateway.url, RESPONSES, &long.to_string(), &[]).await;
    assert_eq!(reply.place().2, "too-long");
}

async fn grade(url: &str, body: &Value) -> Reply {
    post(url, OUTCOMES, &body.to_string(), &[]).await
}

#[tokio::test]
async fn grades_are_lines_of_the_log() {
    let (world, _local, _edge, gateway, accepted, _) = setup().await;
    let body = crate::common::client::chat("cr2fast", &accepted);
    let reply = crate::common::client::ask(&gateway.url, &body).await;
    let id = reply.header("x-cr2fast-request-id").to_string();
    let other = "f".repeat(32);
    for (body, status, word) in [
        (json!({"id": id, "score": 0.5}), 200, "kept"),
        (json!({"id": id, "score": 0.5}), 200, "repeated"),
        (json!({"id": id, "score": 1}), 200, "revised"),
        (json!({"id": id, "score": 0, "place": "device"}), 200, "kept"),
        (json!({"id": other, "score": 0.25}), 202, "unknown"),
    ] {
        let reply = grade(&gateway.url, &body).await;
        assert_eq!((reply.status, &reply.json()["status"]), (status, &json!(word)), "{body}");
    }
    // The edge was never asked.
    let reply = grade(&gateway.url, &json!({"id": id, "score": 0, "place": "edge"})).await;
    assert_eq!((reply.status, reply.header("x-cr2fast-refusal")), (409, "not_shadowed"));
    assert!(reply.error().contains("only the device was asked"), "{}", reply.error());
    for body in [
        json!({"id": id}),
        json!({"score": 1}),
        json!({"id": id, "score": 1.5}),
        json!({"id": id, "score": -0.1}),
        json!({"id": id, "score": "1"}),
        json!({"id": id, "score": null}),
        json!({"id": id, "score": 1, "answer": "x"}),
        json!({"id": id, "score": 1, "place": "moon"}),
        json!({"id": "../../etc", "score": 1}),
        json!({"id": id.to_uppercase() + "0", "score": 1}),
        json!({"id": "g".repeat(32), "score": 1}),
        json!([id, 1]),
        json!("x".repeat(90_000)),
    ] {
        let reply = grade(&gateway.url, &body).await;
        assert_eq!((reply.status, reply.header("x-cr2fast-refusal")), (400, "outcome"));
        assert!(reply.body.len() < 500, "{}", reply.body);
    }
    let nan =
        post(&gateway.url, OUTCOMES, &format!("{{\"id\":\"{id}\",\"score\":NaN}}"), &[]).await;
    assert_eq!(nan.status, 400);
    let twice = format!("{{\"id\":\"{id}\",\"score\":1,\"score\":0}}");
    assert_eq!(post(&gateway.url, OUTCOMES, &twice, &[]).await.status, 400);
    assert_eq!(read(send(&gateway.url, OUTCOMES, "", &[]).await).await.status, 405);
    gateway.stop().await;
    while lines(&world).len() < 6 {
        tokio::task::yield_now().await;
    }
    let told: Vec<_> = lines(&world)
        .iter()
        .filter(|l| l["kind"] == "outcome")
        .map(|l| (l["id"].clone(), l["score"].as_f64().unwrap(), l["place"].clone()))
        .collect();
    let expected = [
        (json!(id), 0.5, json!("answer")),
        (json!(id), 0.5, json!("answer")),
        (json!(id), 1.0, json!("answer")),
        (json!(id), 0.0, json!("device")),
        (json!(other), 0.25, json!("answer")),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_gateway_without_a_log_takes_no_grades_and_one_with_a_token_no_strangers() {
    let world = World::new();
    let stub = Stub::answering().await;
    let gateway = world.start(&device(&stub.url, &stub.url)).await;
    let body = json!({"id": "0".repeat(32), "score": 1});
    let reply = grade(&gateway.url, &body).await;
    assert_eq!((reply.status, reply.header("x-cr2fast-refusal")), (501, "no_log"));
    let guarded = edge(&[("medium", &stub.url)]) + "token_env = \"CLIENT_TOKEN\"\n";
    let gateway = world.start(&guarded).await;
    assert_eq!(grade(&gateway.url, &body).await.status, 401);
    assert_eq!(get(&gateway.url, "/healthz").await.status, 200);
}

#[tokio::test]
async fn a_grade_of_a_place_needs_an_answer_of_that_place() {
    let world = World::new();
    let (local, edge_stub) = (Stub::answering().await, Stub::answering().await);
    let text = device(&local.url, &edge_stub.url)
        + "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n[shadow]\nprobability = 1.0\n";
    let gateway = world.start(&text).await;
    let (accepted, deferred) = world.texts();
    let id = async |body: &str| {
        let reply = crate::common::client::ask(&gateway.url, body).await;
        reply.header("x-cr2fast-request-id").to_string()
    };
    // A shadow was sent: either place has an answer. A named model has none.
    for text in [&accepted, &deferred] {
        let id = id(&crate::common::client::chat("cr2fast", text)).await;
        for place in ["answer", "device", "edge"] {
            let body = json!({"id": id, "score": 1, "place": place});
            assert_eq!(grade(&gateway.url, &body).await.status, 200, "{place}");
        }
    }
    local.play(Play::Cut);
    for (model, fits) in [("large", &["answer", "edge"][..]), ("small", &["answer"][..])] {
        let id = id(&crate::common::client::chat(model, "a")).await;
        for place in ["answer", "device", "edge"] {
            let body = json!({"id": id, "score": 1, "place": place});
            let status = if fits.contains(&place) { 200 } else { 409 };
            assert_eq!(grade(&gateway.url, &body).await.status, status, "{model} {place}");
        }
    }
}
