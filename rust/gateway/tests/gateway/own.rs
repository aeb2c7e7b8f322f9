//! What a gateway has for itself: the files that it writes, and its address.

use std::os::unix::fs::symlink;

use crate::common::{World, device, edge};
use cr2fast_gateway::App;

const URL: &str = "http://127.0.0.1:1";

#[test]
fn what_is_written_is_no_other_file_of_the_gateway() {
    let world = World::new();
    let at = |name: &str| world.folder.join(name);
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    std::fs::write(at("cert.pem"), certificate.cert.pem()).unwrap();
    std::fs::write(at("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
    let hash = App::new(&world.config(&device(URL, URL)).unwrap()).unwrap().router_hash();
    let point = format!(
        "{{\"format\": \"cr2fast.point/1\", \"lam\": 1.0, \"alpha\": 0.05, \"router\": \"{hash}\"}}"
    );
    std::fs::write(at("point.json"), point).unwrap();
    let chosen = device(URL, URL).replace("lam = 1.0\nalpha = 0.05\n", "point = \"point.json\"\n");
    let tls = "[tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\nca = \"ca.pem\"\n";
    std::fs::copy(at("cert.pem"), at("ca.pem")).unwrap();
    let file = format!("{chosen}{tls}");
    std::fs::write(at("gateway.toml"), &file).unwrap();
    symlink("router.safetensors", at("link")).unwrap();
    symlink("link", at("link-to-link")).unwrap();
    std::fs::hard_link(at("static.safetensors"), at("hard")).unwrap();
    symlink(".", at("folder")).unwrap();
    let before = std::fs::read(at("router.safetensors")).unwrap();
    for (path, other) in [
        ("router.safetensors", "router.path (line 4)"),
        ("./folder/router.safetensors", "router.path (line 4)"),
        ("link", "router.path (line 4)"),
        ("link-to-link", "router.path (line 4)"),
        ("static.safetensors", "router.encoder (line 5)"),
        ("hard", "router.encoder (line 5)"),
        ("point.json", "router.point (line 6)"),
        ("cert.pem", "tls.cert (line 20)"),
        ("key.pem", "tls.key (line 21)"),
        ("ca.pem", "tls.ca (line 22)"),
        ("gateway.toml", "this configuration"),
    ] {
        for (section, key) in [("[log]\npath", "log.path"), ("[promise]\nstate", "promise.state")] {
            let text = format!("{file}{section} = \"{path}\"\n");
            let got = world.config(&text).unwrap_err().to_string();
            let words = format!("gateway.toml:24: {key}: expected a file of its own");
            assert!(got.contains(&words) && got.contains(other), "{path}: {got}");
        }
    }
    // Both that are written, whether they are there yet or not, and by whatever way.
    symlink("new.jsonl", at("to-new")).unwrap();
    let both = |log: &str, state: &str| {
        let text = format!("{file}[log]\npath = \"{log}\"\n[promise]\nstate = \"{state}\"\n");
        world.config(&text).map_err(|e| e.to_string())
    };
    for (log, state) in [
        ("new.jsonl", "new.jsonl"),
        ("new.jsonl", "./folder/new.jsonl"),
        ("to-new", "new.jsonl"),
        ("new.jsonl", "to-new"),
    ] {
        let got = both(log, state).unwrap_err();
        assert!(got.contains(":24: log.path: expected a file of its own"), "{got}");
        assert!(got.contains("promise.state (line 26)"), "{got}");
    }
    both("new.jsonl", "state.json").unwrap();
    assert_eq!(std::fs::read(at("router.safetensors")).unwrap(), before);
}

#[test]
fn no_server_is_the_gateway_itself() {
    let world = World::new();
    let listens = |text: String| text.replace("127.0.0.1:0", "127.0.0.1:8080");
    let own = "http://localhost:8080";
    let encoder = format!("[encoder]\nurl = \"{own}\"\nmodel = \"m\"\n");
    for (text, line, key) in [
        (device(own, URL), 10, "local.url"),
        (device(URL, "http://127.0.0.1:8080/v1/"), 14, "edge.url"),
        (edge(&[("medium", URL), ("large", own)]), 14, "models.url"),
        (device(URL, URL) + &format!("[energy]\nagent = \"{own}\"\n"), 21, "energy.agent"),
        (device(URL, URL) + &encoder, 21, "encoder.url"),
    ] {
        let got = world.config(&listens(text)).unwrap_err().to_string();
        let words = format!("gateway.toml:{line}: {key}: expected another server than this");
        assert!(got.contains(&words) && got.contains("got 127.0.0.1:8080, where"), "{got}");
    }
    world.config(&listens(device(URL, "http://127.0.0.1:8081"))).unwrap();
}
