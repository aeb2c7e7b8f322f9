//! Counters under a test's control: a powercap tree, and a meter agent on a thread of its own.

use std::fs::{create_dir_all, write};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::World;

/// So wide that no test's interval is too long for it.
pub const RANGE_UJ: u64 = 1_000_000_000_000_000;

/// A zone of a tree.
pub fn zone(root: &Path, folder: &str, name: &str, uj: u64) -> PathBuf {
    let at = root.join(folder);
    create_dir_all(&at).unwrap();
    write(at.join("name"), format!("{name}\n")).unwrap();
    write(at.join("max_energy_range_uj"), format!("{RANGE_UJ}\n")).unwrap();
    spend(&at, uj);
    at
}

/// Set a counter.
pub fn spend(zone: &Path, uj: u64) {
    // As the kernel shows it: whole at every moment.
    let new = zone.join("new");
    write(&new, format!("{uj}\n")).unwrap();
    std::fs::rename(new, zone.join("energy_uj")).unwrap();
}

/// A package just below its wrap, its memory, and what must not be counted.
pub fn tree(world: &World) -> (PathBuf, PathBuf, PathBuf) {
    let root = world.folder.join("powercap");
    let package = zone(&root, "intel-rapl:0", "package-0", RANGE_UJ - 3_000_000);
    zone(&root, "intel-rapl:0:0", "core", 7);
    let dram = zone(&root, "intel-rapl:0:1", "dram", 0);
    zone(&root, "intel-rapl:1", "psys", 5);
    zone(&root, "intel-rapl-mmio:0", "package-0", 5);
    std::fs::create_dir(root.join("intel-rapl")).unwrap();
    (root, package, dram)
}

/// An agent.
#[derive(Clone)]
pub struct Agent {
    pub url: String,
    /// Status and body of the next answers.
    pub says: Arc<Mutex<(u16, Value)>>,
    /// The heads of what was asked.
    pub seen: Arc<Mutex<Vec<String>>>,
}

/// What an agent says: two domains of the total, one beside it.
pub fn energy(session: &str, cpu: Value, dram: Value) -> Value {
    let domain = |name: &str, in_total| json!({"name": name, "kind": "cpu", "source": "rapl", "in_total": in_total, "estimated": false});
    json!({
        "schema": "cr2fast.agent/1", "host": "box", "host_id": "0", "session": session,
        "poll_s": 0.02,
        "domains": [domain("package-0", true), domain("psys", false), domain("dram-0", true)],
        "joules": [cpu, 1e9, dram], "age_s": 0.001, "fault_count": 0, "faults": [],
    })
}

impl Agent {
    pub fn start(says: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let agent = Self { url, says: Arc::new(Mutex::new((200, says))), seen: Arc::default() };
        let serving = agent.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.connection(stream));
            }
        });
        agent
    }

    pub fn say(&self, status: u16, body: Value) {
        *self.says.lock().unwrap() = (status, body);
    }

    fn connection(&self, stream: std::net::TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut out = stream;
        loop {
            let head: Vec<String> =
                lines.by_ref().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
            if head.is_empty() {
                return;
            }
            self.seen.lock().unwrap().push(head.join("\n"));
            let (status, body) = self.says.lock().unwrap().clone();
            let body = body.to_string();
            let long = body.len();
            let reply = format!("HTTP/1.1 {status} Agent\r\ncontent-length: {long}\r\n\r\n{body}");
            if out.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    }
}
