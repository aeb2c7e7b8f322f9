//! Files that are wrong, and the line that says so.

use std::path::PathBuf;

use crate::common::{ROUTER, World, device, edge};
use cr2fast_gateway::App;

const URL: &str = "http://127.0.0.1:1";

/// The error of a file, checked to its end.
fn error(world: &World, text: &str) -> String {
    match world.config(text) {
        Err(e) => e.to_string(),
        Ok(config) => App::describe(&config).unwrap_err().to_string(),
    }
}

#[test]
fn good_files_say_what_they_would_do() {
    let world = World::new();
    let told = App::describe(&world.config(&device(URL, URL)).unwrap()).unwrap();
    assert!(told.contains("accepts for small at http://127.0.0.1:1"), "{told}");
    let told =
        App::describe(&world.config(&edge(&[("medium", URL), ("own", URL)])).unwrap()).unwrap();
    assert!(told.contains("medium at http://127.0.0.1:1: routed, or by name"), "{told}");
    assert!(told.contains("own at http://127.0.0.1:1: by name only"), "{told}");
}

#[test]
fn each_wrong_setting_names_its_line() {
    let world = World::new();
    let file = device(URL, URL);
    let changed = |from: &str, to: &str| {
        assert!(file.contains(from), "{from}");
        file.replace(from, to)
    };
    for (text, line, words) in [
        (changed("127.0.0.1:0", "127.0.0.1"), 2, "listen: expected ADDRESS:PORT"),
        (
            changed("127.0.0.1:0", "0.0.0.0:80"),
            2,
            "listen: expected a loopback address, or access.token_env",
        ),
        (changed("lam = 1.0", "lam = 0.5"), 6, "nearest 0.1 and 1"),
        (changed("lam = 1.0", "lam = nan"), 6, "lam"),
        (changed("alpha = 0.05", "alpha = 0.5"), 7, "[0.02, 0.05]"),
        (changed("lam = 1.0", "lam = \"1\""), 6, "router.lam: expected a number, got a text"),
        (changed("lam = 1.0", "lam = "), 6, ""),
        (changed("lam = 1.0", "lamb = 1.0"), 6, "unknown field `lamb`, expected one of"),
        (changed("router.safetensors", "none.safetensors"), 4, "router.path: expected a file"),
        (changed("\"router.safe", "\"static.safe"), 4, "router.path: artifact"),
        (changed("\"static.safe", "\"router.safe"), 5, "router.encoder: artifact"),
        (
            changed("context_tokens = 1000", "context_tokens = -1"),
            12,
            "local.context_tokens: expected a whole number from 1 to 1099511627776, got -1",
        ),
        (changed("url = \"http:", "url = \"ftp:"), 10, "expected http://HOST:PORT or https://HOST"),
        (file.clone() + "[tls]\ncert = \"a\"\n", 21, "tls.cert: expected tls.key beside it"),
        (file.clone() + "[tls]\nkey = \"a\"\n", 21, "tls.key: expected tls.cert beside it"),
        (
            file.clone() + "[tls]\ncert = \"none.pem\"\nkey = \"none.key\"\n",
            21,
            "tls.cert: expected certificates in PEM",
        ),
        (file.clone() + "[tls]\nca = \"gateway.toml\"\n", 21, "tls.ca: expected certificates"),
        (file.clone() + "[health]\nevery_ms = 1\n", 20, "unknown field `health`"),
        (
            changed("url = \"http://127.0.0.1:1\"", "url = \"http://a:b@c\""),
            10,
            "local.url: expected http://HOST:PORT",
        ),
        (changed("DEVICE_TOKEN", "NO_TOKEN"), 15, "the environment variable \"NO_TOKEN\""),
        (changed("DEVICE_TOKEN", "SHORT_TOKEN"), 15, "at least 8 visible"),
        (changed("idle_ms = 60000", "idle_ms = 0"), 19, "deadlines.idle_ms: expected milliseconds"),
        (
            changed("idle_ms = 60000", "idle_ms = 99999999999"),
            19,
            "milliseconds from 1 to 86400000",
        ),
        (
            file.clone() + "[limits]\nconcurrency = 0\n",
            21,
            "limits.concurrency: expected a whole number",
        ),
        (file.clone() + "[limits]\nbody = 1\n", 21, "unknown field `body`"),
        (file.clone() + "[breaker]\nmax_open_ms = 1\n", 21, "at least breaker.open_ms"),
        (file.clone() + "[access]\ndevice_token_env = \"DEVICE_TOKEN\"\n", 21, "only an edge"),
        (
            file.clone() + "[log]\npath = \"a\"\nqueue = 0\n",
            22,
            "log.queue: expected a whole number from 1 to",
        ),
    ] {
        let got = error(&world, &text);
        assert!(got.contains(&format!("gateway.toml:{line}: ")), "line {line} of {words:?}: {got}");
        assert!(got.contains(words), "{words:?}: {got}");
        assert!(got.len() < 1_000 && !got.contains("short,"), "{got}");
    }
}

#[test]
fn an_edges_file_is_held_against_the_router() {
    let world = World::new();
    for (text, words) in [
        (
            edge(&[("other", URL)]),
            "at least one of the router's edge models [\"medium\", \"large\"]",
        ),
        (edge(&[("medium", URL), ("medium", URL)]), "each name once"),
        (edge(&[("cr2fast:x", URL)]), "a model's name"),
        (
            format!("fallback = \"small\"\n{}", edge(&[("medium", URL)])),
            "one of the names in [[models]]",
        ),
        (
            format!("fallback = \"own\"\n{}", edge(&[("medium", URL), ("own", URL)])),
            "one of the edge models",
        ),
        (
            format!("not_text = \"x\"\n{}", edge(&[("medium", URL)])),
            "not_text: expected one of the names",
        ),
        (format!("models = []\n{ROUTER}"), "models: expected at least one"),
        (
            edge(&[("medium", URL)]) + "token_env = \"DEVICE_TOKEN\"\n",
            "another token than the clients'",
        ),
        (
            edge(&[("medium", URL)]) + "admin_token_env = \"DEVICE_TOKEN\"\n",
            "another token than the clients' and the devices'",
        ),
        (
            edge(&[("medium", URL)]).replace("every_ms = 0", "every_ms = 1\ntimeout_ms = 0"),
            "health.timeout_ms: expected milliseconds",
        ),
        (
            edge(&[("medium", URL)]).replace("every_ms = 0", "failures = 0"),
            "health.failures: expected a whole number",
        ),
        (
            edge(&[("medium", URL)]).replace("\n\n[dead", "\nhealth_path = \"health\"\n[dead"),
            "models.health_path: expected a path",
        ),
        (ROUTER.to_string(), "a device's file, with [local] and [edge], or an edge's"),
        (String::new(), "got neither"),
        (device(URL, URL).replace("[local]", "[locl]"), ":9: locl: no such section or setting"),
        (
            edge(&[("medium", URL)]).replace("[[models]]", "[[model]]"),
            ":9: model: no such section or setting; expected a device's file, with [local]",
        ),
        (
            device(URL, URL).replace("[local]", "[shadow]"),
            "and [edge], or an edge's, with [[models]]; got [edge] without [local]",
        ),
        (
            device(URL, URL) + "[promise]\n[[models]]\nname = \"medium\"\n",
            ":21: models: expected a device's file, with [local] and [edge], or an edge's, with [[models]]; got both",
        ),
    ] {
        let got = error(&world, &text);
        assert!(got.contains(words), "{words:?}: {got}");
    }
}

#[test]
fn what_is_odd_and_no_error_is_a_note() {
    let world = World::new();
    let file = device(URL, URL) + "[log]\npath = \"decisions.jsonl\"\n";
    let told = |text: &str| App::describe(&world.config(text).unwrap()).unwrap();
    assert!(told(&file).contains("note: port 0 is any that is free"));
    assert!(!told(&file).contains("open, perhaps this one"));
    let app = App::new(&world.config(&file).unwrap()).unwrap();
    for _ in 0..2 {
        assert!(told(&file).contains("decisions.jsonl open, perhaps this one"), "{}", told(&file));
    }
    drop(app);
    assert!(!told(&file).contains("open, perhaps this one"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(!told(&file.replace("127.0.0.1:0", &free.to_string())).contains("port 0"));
    // Errors of the system are in words.
    let got = error(&world, &file.replace("decisions.jsonl", "none/decisions.jsonl"));
    assert!(got.contains("No such file or directory") && !got.contains("os error"), "{got}");
}

#[test]
fn a_router_of_another_encoder_is_refused() {
    let world = World::new();
    crate::common::encoder(2).save(&world.folder.join("static.safetensors")).unwrap();
    let got = error(&world, &device(URL, URL));
    assert!(got.contains(":5: router.encoder: encoder: the router was fitted on"), "{got}");
}

#[test]
fn what_would_keep_it_from_starting_is_refused_by_the_check_and_named_by_its_line() {
    let world = World::new();
    let file = device(URL, URL);
    let logged = |path: &str| format!("{file}[log]\npath = \"{path}\"\n");
    std::fs::create_dir(world.folder.join("folder")).unwrap();
    std::fs::write(world.folder.join("file"), "").unwrap();
    for (text, line, words) in [
        (logged("none/decisions.jsonl"), 21, "log.path: expected a file that can be appended to"),
        (logged("folder"), 21, "log.path: expected a file that can be appended to"),
        (logged("file/decisions.jsonl"), 21, "log.path: expected a file that can be appended to"),
        (logged("/proc/decisions.jsonl"), 21, "log.path: expected a file that can be appended to"),
    ] {
        let got = error(&world, &text);
        assert!(got.contains(&format!("gateway.toml:{line}: {words}")), "{got}");
        // The same words where it is run.
        assert_eq!(App::new(&world.config(&text).unwrap()).unwrap_err().to_string(), got);
    }
    // An address of nobody here.
    let elsewhere = file.replace("127.0.0.1:0", "192.0.2.1:80");
    let elsewhere = elsewhere + "[access]\ntoken_env = \"CLIENT_TOKEN\"\n";
    let got = error(&world, &elsewhere);
    assert!(got.contains("gateway.toml:2: listen: expected an address that is free"), "{got}");
    // A check leaves nothing behind, and nothing changed.
    std::fs::write(world.folder.join("torn"), "{\"cut\":").unwrap();
    std::os::unix::fs::symlink("linked", world.folder.join("link")).unwrap();
    std::os::unix::fs::symlink("none/linked", world.folder.join("astray")).unwrap();
    let before = files(&world);
    for path in ["decisions.jsonl", "torn", "link"] {
        App::describe(&world.config(&logged(path)).unwrap()).unwrap();
    }
    let got = error(&world, &logged("astray"));
    assert!(got.contains("21: log.path: expected a file that can be appended to"), "{got}");
    assert_eq!(files(&world), before);
}

/// What is in a world's folder.
fn files(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(&world.folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> =
        entries.map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default())).collect();
    all.sort();
    all
}

#[test]
fn a_token_that_others_are_shown_opens_no_door_of_another() {
    let world = World::new();
    let front = device(URL, URL);
    let local = |name: &str| front.replace("[edge]", &format!("token_env = \"{name}\"\n[edge]"));
    let access =
        |text: String, of: &str, name: &str| format!("{text}[access]\n{of} = \"{name}\"\n");
    let behind = edge(&[("medium", URL)]);
    let server =
        |name: &str| behind.replacen("\n\n[dead", &format!("\ntoken_env = \"{name}\"\n[dead"), 1);
    for (text, words) in [
        (
            access(front.clone(), "token_env", "DEVICE_TOKEN"),
            ":15: edge.token_env: expected another token than access.token_env, whose clients could pose",
        ),
        (
            access(front.clone(), "admin_token_env", "DEVICE_TOKEN"),
            ":15: edge.token_env: expected another token than access.admin_token_env",
        ),
        (
            local("CR2FAST_DEVICE_TOKEN"),
            ":13: local.token_env: expected another token than the device gateways'",
        ),
        (
            access(local("CR2FAST_ADMIN_TOKEN"), "admin_token_env", "CR2FAST_ADMIN_TOKEN"),
            ":13: local.token_env: expected another token than access.admin_token_env",
        ),
        (
            server("DEVICE_TOKEN"),
            "models.token_env: expected another token than the device gateways'",
        ),
        (
            server("CR2FAST_ADMIN_TOKEN") + "admin_token_env = \"CR2FAST_ADMIN_TOKEN\"\n",
            "models.token_env: expected another token than access.admin_token_env",
        ),
    ] {
        let got = error(&world, &text);
        assert!(got.contains(words), "{words:?}: {got}");
    }
    for good in [
        access(local("CLIENT_TOKEN"), "token_env", "CLIENT_TOKEN"),
        server("CLIENT_TOKEN") + "token_env = \"CLIENT_TOKEN\"\n",
    ] {
        App::describe(&world.config(&good).unwrap()).unwrap();
    }
}

#[test]
fn no_error_shows_what_may_be_a_secret() {
    let world = World::new();
    let file = device(URL, URL);
    let secret = "s3same";
    let as_path = |path: &str| file.replace("router.safetensors", path);
    for text in [
        file.replace("http://127.0.0.1:1", "http://user:s3same@host"),
        file.replace("http://127.0.0.1:1", "http://s3same@host:80"),
        file.replace("http://127.0.0.1:1", "https://host/v1?key=s3same"),
        file.replace("http://127.0.0.1:1", "https://host/v1#s3same"),
        file.replace("http://127.0.0.1:1", "ftp://user:s3same@host"),
        file.replace("127.0.0.1:0", "http://user:s3same@127.0.0.1:0"),
        file.replace("DEVICE_TOKEN", "sk-s3same"),
        file.replace("DEVICE_TOKEN", "s3same_and_more"),
        as_path("https://user:s3same@host/router.safetensors"),
        file.clone() + "[log]\npath = \"https://user:s3same@host/log\"\n",
        file.clone() + "[tls]\nca = \"https://user:s3same@host/ca\"\n",
        file.clone() + "[access]\ntoken = \"s3same\"\n",
        file.clone() + "[log]\npath = \"a\"\nqueue = \"http://user:s3same@host\"\n",
        edge(&[("medium", URL)])
            .replace("\n\n[dead", "\nhealth_path = \"health?key=s3same\"\n[dead"),
    ] {
        let got = error(&world, &text);
        assert!(got.contains("gateway.toml:") && !got.contains(secret), "{got}");
    }
    for (url, got) in [
        (
            "http://127.0.0.1:1/?key=s3same",
            "nothing after them, got http://127.0.0.1:1/ and more after ? or #",
        ),
        ("http://", "got http://"),
    ] {
        let told = error(&world, &file.replacen("http://127.0.0.1:1", url, 1));
        assert!(told.contains(got) && !told.contains(secret), "{told}");
    }
    for port in ["0", "65536", "", "x"] {
        let got = error(&world, &file.replace("127.0.0.1:1", &format!("127.0.0.1:{port}")));
        assert!(got.contains("local.url: expected http://HOST:PORT"), "{port}: {got}");
    }
}
