//! The files that deployments begin with: examples that pass, a dashboard of metrics that are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::client::{ask, chat, get, streamed};
use crate::common::stub::{DONE, Play, Stub, WORD};
use crate::common::tls::Authority;
use crate::common::{World, edge};
use cr2fast_gateway::App;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

#[test]
fn the_example_files_and_those_of_the_readme_pass_the_check() {
    let world = World::new();
    let authority = Authority::new(&world.folder);
    authority.issue("edge", &world.folder.join("edge.pem"), &world.folder.join("edge.key"));
    let readme = std::fs::read_to_string(folder().join("../README.md")).unwrap();
    let blocks = readme.split("```toml\n").skip(1).map(|b| b.split("```").next().unwrap());
    let mut files: Vec<String> = blocks.map(String::from).collect();
    assert_eq!(files.len(), 2, "the README shows a device's file and an edge's");
    files.extend(["device.toml", "edge.toml"].map(read));
    for text in files {
        let config = world.config(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        App::describe(&config).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|w| w.starts_with("cr2fast_")).map(String::from).collect()
}

#[tokio::test]
async fn every_metric_of_the_dashboard_is_exported() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut shown = BTreeSet::new();
    for target in panels.iter().flat_map(|p| p["targets"].as_array().unwrap()) {
        shown.extend(names(target["expr"].as_str().unwrap()));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        shown.extend(names(variable["definition"].as_str().unwrap_or("")));
    }
    assert!(shown.len() > 8, "{shown:?}");
    // One of everything: an answer, a failure, a refusal, a wait, a reload.
    let world = World::new();
    let (medium, large) = (Stub::answering().await, Stub::start(Play::Cut).await);
    let text = edge(&[("medium", &medium.url), ("large", &large.url)]);
    let file = world.folder.join("gateway.toml");
    std::fs::write(&file, text.replace("device_token_env = \"DEVICE_TOKEN\"", "")).unwrap();
    let gateway = world.start(&text).await;
    medium.play(Play::Events(vec![WORD.into(), DONE.into()]));
    assert_eq!(ask(&gateway.url, &streamed("medium", "a")).await.status, 200);
    assert_eq!(ask(&gateway.url, &chat("large", "a")).await.status, 502);
    assert_eq!(ask(&gateway.url, "no body").await.status, 400);
    let app = std::sync::Arc::clone(&gateway.app);
    tokio::task::spawn_blocking(move || app.reload()).await.unwrap().unwrap();
    // Only a build that sends spans loses some.
    let lost = vec![("reason", "queue".to_string())];
    gateway.app.metrics.spans_dropped.get_or_create(&lost).inc();
    let exported = names(&get(&gateway.url, "/metrics").await.body);
    let missing: Vec<&String> = shown.difference(&exported).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}; exported: {exported:?}");
}
