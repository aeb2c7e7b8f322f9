//! An embeddings endpoint: what of its section is wrong. How it serves is the contract tests' matter.

use crate::common::{World, device, edge};
use cr2fast_gateway::App;

const URL: &str = "http://127.0.0.1:1";
const FILE: &str = "encoder = \"static.safetensors\"\n";
const SECTION: &str = "[encoder]\nurl = \"http://127.0.0.1:1\"\nmodel = \"m\"\n";

fn error(world: &World, text: &str) -> String {
    match world.config(text) {
        Err(e) => e.to_string(),
        Ok(config) => App::describe(&config).unwrap_err().to_string(),
    }
}

#[test]
fn what_is_wrong_with_the_section_is_said() {
    let world = World::new();
    let file = device(URL, URL);
    let with = |section: &str| format!("{}{section}", file.replace(FILE, ""));
    for (text, words) in [
        (file.replace(FILE, ""), "or a section [encoder] with an endpoint's url, got neither"),
        (format!("{file}{SECTION}"), "router.encoder: expected none beside [encoder]"),
        (with(&SECTION.replace("http:", "ftp:")), "encoder.url: expected http://HOST:PORT"),
        (
            with(&SECTION.replace("\"m\"", "\"\"")),
            "encoder.model: expected what the endpoint calls",
        ),
        (with(&format!("{SECTION}timeout_ms = 0\n")), "encoder.timeout_ms: expected milliseconds"),
        (with(&format!("{SECTION}token_env = \"NONE\"\n")), "encoder.token_env: expected"),
        (with(&format!("{SECTION}tokens = 1\n")), "unknown field `tokens`"),
        (with(SECTION), "router.with_probes(encoder).save(path)"),
        (
            format!("{}{SECTION}", edge(&[("medium", URL)]).replace(FILE, "")),
            "encoder.url: expected not_text beside it",
        ),
    ] {
        let told = error(&world, &text);
        assert!(told.contains(words), "{words}: {told}");
        assert!(told.starts_with(&format!("{}/gateway.toml:", world.folder.display())), "{told}");
    }
}
