//! The built binary, killed as `kill -9` does in the middle of its work.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::client::{ask, chat};
use crate::common::stub::Stub;
use crate::common::{DEVICE_TOKEN, World, device};
use serde_json::Value;

/// The binary on a file, once it serves; its URL.
fn start(file: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cr2fast-gateway"))
        .arg("device")
        .arg(file)
        .env("DEVICE_TOKEN", DEVICE_TOKEN)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    let url =
        said.split_whitespace().find(|word| word.starts_with("http://")).unwrap_or_else(|| {
            panic!("{said}");
        });
    (child, url.trim_end_matches(',').to_string())
}

/// Ids of the lines that are whole, and how many are not.
fn logged(world: &World) -> (Vec<String>, usize) {
    let text = std::fs::read_to_string(world.folder.join("decisions.jsonl")).unwrap_or_default();
    let lines: Vec<Option<Value>> =
        text.lines().map(|line| serde_json::from_str(line).ok()).collect();
    let torn = lines.iter().filter(|line| line.is_none()).count();
    let id = |line: Value| line["id"].as_str().unwrap().to_string();
    (lines.into_iter().flatten().map(id).collect(), torn)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kill_loses_is_the_logs_tail_and_nothing_before_it() {
    let world = World::new();
    let local = Stub::answering().await;
    let file = world.folder.join("gateway.toml");
    let log = "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n";
    std::fs::write(&file, device(&local.url, "http://127.0.0.1:1") + log).unwrap();
    let mut asked: Vec<String> = Vec::new();
    let mut kept = 0;
    for _ in 0..3 {
        let (mut child, url) = start(&file);
        let began = asked.len();
        while logged(&world).0.len() < kept + 20 {
            let reply = ask(&url, &chat("small", "hello")).await;
            assert_eq!(reply.status, 200);
            asked.push(reply.header("x-cr2fast-request-id").to_string());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (ids, torn) = logged(&world);
        // One client asks, so lines are in its order: what is there is a beginning of what was asked.
        let new = &ids[kept..];
        assert_eq!(new, &asked[began..began + new.len()]);
        assert!(torn <= 3);
        kept = ids.len();
    }
}

#[tokio::test]
async fn a_check_and_a_second_start_disturb_no_gateway_that_runs() {
    let world = World::new();
    let local = Stub::answering().await;
    let file = world.folder.join("gateway.toml");
    let more =
        "[log]\npath = \"decisions.jsonl\"\nflush_ms = 1\n[promise]\nstate = \"state.json\"\n";
    let text = device(&local.url, "http://127.0.0.1:1") + more;
    std::fs::write(&file, &text).unwrap();
    let (mut child, url) = start(&file);
    // The file names the port that the system gave.
    let address = url.strip_prefix("http://").unwrap();
    std::fs::write(&file, text.replace("127.0.0.1:0", address)).unwrap();
    // What another router's state, and a line that is being written, look like.
    std::fs::write(world.folder.join("state.json"), OTHERS).unwrap();
    std::fs::write(world.folder.join("decisions.jsonl"), "{\"half\":").unwrap();
    let run = |role: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cr2fast-gateway"));
        let ended =
            command.arg(role).arg(&file).env("DEVICE_TOKEN", DEVICE_TOKEN).output().unwrap();
        let told = [ended.stdout, ended.stderr].map(|said| String::from_utf8(said).unwrap());
        (ended.status.success(), told.concat())
    };
    for _ in 0..3 {
        let (good, told) = run("check");
        assert!(good, "{told}");
        let note =
            format!("note: {address} is in use, perhaps by this gateway, which runs already");
        assert!(told.contains(&note), "{told}");
        let (good, told) = run("device");
        assert!(!good && told.contains(":2: listen: expected an address that is free"), "{told}");
    }
    let read = |name: &str| std::fs::read_to_string(world.folder.join(name)).unwrap();
    assert_eq!(
        (read("state.json").as_str(), read("decisions.jsonl").as_str()),
        (OTHERS, "{\"half\":")
    );
    assert_eq!(ask(&url, &chat("small", "hello")).await.status, 200);
    child.kill().unwrap();
    child.wait().unwrap();
}

const OTHERS: &str = "{\"schema\": \"cr2fast.gateway_promise/1\", \"router\": \"of another time\", \"delta\": 0.01, \"threshold\": \"calibrated\", \"points\": []}";
