//! Every number of a file has bounds, and a number that is out of them, or none, names its line, its
//! setting, the range and what came.

use std::collections::BTreeSet;

use crate::common::{World, device, edge};

const URL: &str = "http://127.0.0.1:1";

/// A setting, and what it may be.
struct Setting {
    section: &'static str,
    name: &'static str,
    whole: bool,
    /// In its error.
    range: &'static str,
    good: [&'static str; 2],
    bad: [&'static str; 2],
}

const fn whole(
    section: &'static str,
    name: &'static str,
    range: &'static str,
    good: [&'static str; 2],
    bad: [&'static str; 2],
) -> Setting {
    Setting { section, name, whole: true, range, good, bad }
}

const fn real(
    section: &'static str,
    name: &'static str,
    range: &'static str,
    good: [&'static str; 2],
    bad: [&'static str; 2],
) -> Setting {
    Setting { section, name, whole: false, range, good, bad }
}

const fn ms(section: &'static str, name: &'static str) -> Setting {
    whole(section, name, "milliseconds from 1 to 86400000", ["1", "86400000"], ["0", "86400001"])
}

const SHARED: [Setting; 27] = [
    ms("deadlines", "connect_ms"),
    ms("deadlines", "first_content_ms"),
    ms("deadlines", "answer_ms"),
    ms("deadlines", "idle_ms"),
    whole("limits", "threads", "from 1 to 256", ["1", "256"], ["0", "257"]),
    whole("limits", "concurrency", "from 1 to 1048576", ["1", "1048576"], ["0", "1048577"]),
    whole("limits", "connections", "from 1 to 1048576", ["1", "1048576"], ["0", "1048577"]),
    whole("limits", "body_bytes", "from 1 to 1073741824", ["1", "1073741824"], ["0", "1073741825"]),
    whole("limits", "header_bytes", "8192 to 1048576", ["8192", "1048576"], ["8191", "1048577"]),
    whole("limits", "answer_bytes", "1 to 1073741824", ["1", "1073741824"], ["0", "1073741825"]),
    ms("limits", "header_ms"),
    ms("limits", "body_ms"),
    ms("limits", "write_ms"),
    ms("limits", "drain_ms"),
    whole("breaker", "failures", "from 1 to 1000000", ["1", "1000000"], ["0", "1000001"]),
    ms("breaker", "open_ms"),
    ms("breaker", "max_open_ms"),
    ms("log", "flush_ms"),
    whole("log", "queue", "from 1 to 16777216", ["1", "16777216"], ["0", "16777217"]),
    whole(
        "log",
        "queue_bytes",
        "from 1048576 to 1099511627776",
        ["1048576", "1099511627776"],
        ["1048575", "1099511627777"],
    ),
    whole(
        "log",
        "max_bytes",
        "from 1024 to 1125899906842624",
        ["1024", "1125899906842624"],
        ["1023", "1125899906842625"],
    ),
    whole("log", "max_age_h", "from 1 to 1000000", ["1", "1000000"], ["0", "1000001"]),
    real("energy", "idle_w", "from 0.001 to 100000", ["0.001", "100000"], ["0.0", "100000.1"]),
    ms("energy", "every_ms"),
    real("energy", "tolerance", "from 0.0001 to 1", ["0.0001", "1"], ["0.0", "1.001"]),
    real("traces", "ratio", "from 0 to 1", ["0", "1.0"], ["-0.001", "1.001"]),
    ms("encoder", "timeout_ms"),
];

const DEVICE: [Setting; 11] = [
    whole("local", "context_tokens", "1 to 1099511627776", ["1", "9000"], ["0", "1099511627777"]),
    ms("local", "first_content_ms"),
    ms("local", "answer_ms"),
    ms("edge", "first_content_ms"),
    ms("edge", "answer_ms"),
    real("shadow", "probability", "from 1e-6 to 1", ["1e-6", "1"], ["0.0", "1.1"]),
    whole("shadow", "at_once", "from 1 to 1024", ["1", "1024"], ["0", "1025"]),
    real("promise", "delta", "from 1e-12 to 0.999", ["1e-12", "0.999"], ["0.0", "1.0"]),
    real("promise", "step", "from 1e-6 to 0.999", ["1e-6", "0.999"], ["0.0", "1.0"]),
    ms("promise", "save_ms"),
    whole("promise", "queue", "from 1 to 1048576", ["1", "1048576"], ["0", "1048577"]),
];

const WINDOW: Setting =
    whole("promise", "window", "100 to 1099511627776", ["100", "1000"], ["99", "1099511627777"]);

const EDGE: [Setting; 6] = [
    whole("models", "context_tokens", "1 to 1099511627776", ["1", "9000"], ["0", "1099511627777"]),
    ms("models", "first_content_ms"),
    ms("models", "answer_ms"),
    whole("health", "every_ms", "milliseconds from 1", ["0", "86400000"], ["-1", "86400001"]),
    ms("health", "timeout_ms"),
    whole("health", "failures", "from 1 to 1000000", ["1", "1000000"], ["0", "1000001"]),
];

/// A file with a setting at the start of its section, and the line that it stands on.
fn with(file: &str, s: &Setting, value: &str) -> (String, usize) {
    let header =
        if s.section == "models" { "[[models]]".into() } else { format!("[{}]", s.section) };
    let needed = match s.section {
        "log" => "path = \"a\"\n",
        "energy" => "powercap = \"p\"\n",
        "traces" => "endpoint = \"http://127.0.0.1:1\"\n",
        "encoder" => "url = \"http://127.0.0.1:1\"\nmodel = \"m\"\n",
        "shadow" if s.name != "probability" => "probability = 0.5\n",
        _ => "",
    };
    let mut file = file.to_string();
    if s.section == "encoder" {
        file = file.replace("encoder = \"static.safetensors\"\n", "");
        file = file.replacen("\nlisten", "\nnot_text = \"edge\"\nlisten", 1);
    }
    let line = format!("{} = {value}\n", s.name);
    let file = match file.find(&header) {
        Some(at) => {
            let at = at + header.len() + 1;
            let (before, after) = file.split_at(at);
            let rest: String = after
                .split_inclusive('\n')
                .scan(false, |ended, l| {
                    *ended |= l.starts_with('[');
                    Some(if !*ended && l.starts_with(&format!("{} =", s.name)) { "" } else { l })
                })
                .collect();
            format!("{before}{line}{rest}")
        }
        None => format!("{file}{header}\n{line}{needed}"),
    };
    let at = file.find(&header).unwrap();
    let at = at + file[at..].find(&format!("\n{line}")).unwrap() + 1;
    let number = 1 + file[..at].matches('\n').count();
    (file, number)
}

fn check(world: &World, file: &str, s: &Setting) {
    let name = format!("{}.{}", s.section, s.name);
    for good in s.good {
        let (text, _) = with(file, s, good);
        // The breaker's two bound each other.
        let text = match s.name {
            "open_ms" => text.replace("open_ms = 86400000", "max_open_ms = 86400000"),
            "max_open_ms" => text.replace("max_open_ms = 1\n", "open_ms = 1\nmax_open_ms = 1\n"),
            _ => text,
        };
        world.config(&text).unwrap_or_else(|e| panic!("{name} = {good}: {e}"));
    }
    let expected = if s.whole { "expected a whole number" } else { "expected a number" };
    let huge = if s.whole { "9223372036854775807" } else { "1.7e308" };
    let others = ["nan", "inf", "-inf", "-1.5"].map(|x| (x, !s.whole));
    let types = [("\"s3same\"", false), ("true", false), ("[1]", false), ("{ a = 1 }", false)];
    let bad = s.bad.into_iter().chain(["-1", "-9223372036854775808", huge]).map(|x| (x, true));
    for (value, ranged) in bad.chain(others).chain(types).chain([("99999999999999999999", false)]) {
        let (text, line) = with(file, s, value);
        let got = world.config(&text).map(drop).expect_err(&format!("{name} = {value}"));
        let got = got.to_string();
        let words = format!("gateway.toml:{line}: {name}: ");
        assert!(got.contains(&words), "{words}: {got}");
        assert!(!got.contains("s3same") && got.len() < 400, "{got}");
        if ranged {
            assert!(got.contains(s.range), "{} of {value}: {got}", s.range);
        } else if value != "99999999999999999999" {
            assert!(got.contains(expected), "{value}: {got}");
        }
    }
}

#[test]
fn every_number_is_held_against_its_bounds() {
    let world = World::new();
    let (front, behind) = (device(URL, URL), edge(&[("medium", URL)]));
    for s in SHARED.iter().chain(&DEVICE).chain([&WINDOW]) {
        check(&world, &front, s);
    }
    for s in SHARED.iter().filter(|s| s.section != "encoder").chain(&EDGE) {
        check(&world, &behind, s);
    }
}

#[test]
fn no_number_of_a_file_is_left_out_here() {
    let sources = [
        include_str!("../../src/config/file.rs"),
        include_str!("../../src/config/encoder.rs"),
        include_str!("../../src/config/energy.rs"),
        include_str!("../../src/config/operations.rs"),
        include_str!("../../src/config/promise.rs"),
        include_str!("../../src/config/traces.rs"),
    ];
    let mut names = BTreeSet::new();
    for line in sources.iter().flat_map(|source| source.lines()) {
        let line = line.trim().trim_start_matches("pub ");
        let field =
            line.split_once(": ").filter(|(name, _)| !name.contains('$')).filter(|(_, of)| {
                of.ends_with(',') && (of.contains("Spanned<i64>") || of.contains("Spanned<f64>"))
            });
        let macros = line.split_once(" = ").filter(|(_, value)| {
            value.ends_with(',') && value.starts_with(|c: char| c.is_ascii_digit())
        });
        names.extend(field.or(macros).map(|(name, _)| name));
    }
    // Those are bounded by the router's grid.
    for other in ["lam", "alpha"] {
        assert!(names.remove(other), "{other}: {names:?}");
    }
    let all = SHARED.iter().chain(&DEVICE).chain(&EDGE).chain([&WINDOW]);
    let here: BTreeSet<&str> = all.map(|s| s.name).collect();
    assert_eq!(names, here);
}

#[test]
fn a_point_is_one_of_the_grid_and_nothing_else() {
    let world = World::new();
    let file = device(URL, URL);
    for (setting, line) in [("lam = 1.0", 6), ("alpha = 0.05", 7)] {
        let name = setting.split(' ').next().unwrap();
        for value in ["nan", "inf", "-inf", "0.0", "-0.0", "-1", "1e308", "5e-324", "0.3"] {
            let text = file.replace(setting, &format!("{name} = {value}"));
            let got = cr2fast_gateway::App::describe(&world.config(&text).unwrap()).unwrap_err();
            let got = got.to_string();
            assert!(got.contains(&format!("gateway.toml:{line}: router")), "{value}: {got}");
            assert!(got.contains(name) && got.len() < 400, "{value}: {got}");
        }
    }
}

#[test]
fn what_is_of_another_type_names_its_setting() {
    let world = World::new();
    let (front, behind) = (device(URL, URL), edge(&[("medium", URL)]));
    for (text, words) in [
        (
            front.replace("lam = 1.0", "lam = \"1\""),
            ":6: router.lam: expected a number, got a text",
        ),
        (
            front.replace("\"127.0.0.1:0\"", "8080"),
            ":2: listen: expected a text in quotes, got 8080",
        ),
        (
            front.replace("\"router.safetensors\"", "7"),
            ":4: router.path: expected a text in quotes",
        ),
        (front.replace("\"http://127.0.0.1:1\"\nm", "[]\nm"), ":10: local.url: expected a text"),
        (format!("not_text = 3{front}"), ":1: not_text: "),
        (front.replace("\"DEVICE_TOKEN\"", "{ a = 1 }"), ":15: edge.token_env: expected a text"),
        (
            front.clone() + "[log]\npath = \"a\"\nembedding = 1\n",
            ":22: log.embedding: expected true or false, got 1",
        ),
        (
            front.clone() + "[log]\npath = \"a\"\ntexts = \"yes\"\n",
            ":22: log.texts: expected true or false, got a text",
        ),
        (front.clone() + "[promise]\nthreshold = 1\n", ":21: promise.threshold: "),
        (
            front.clone() + "[promise]\nthreshold = \"fast\"\n",
            ":21: promise.threshold: unknown variant `fast`",
        ),
        (front.clone() + "[energy]\nmodels = 1\n", ":21: energy.models: expected a list, got 1"),
        (
            format!(
                "router = 5
{}",
                front
                    .split_once(
                        "

"
                    )
                    .unwrap()
                    .1
            ),
            ":1: router: expected a section, got 5",
        ),
        (
            front.replace("[local]", "[[local]]"),
            ":9: local: expected a section, [local], got a list",
        ),
        (behind.replace("[[models]]", "[models]"), ": models: expected a list, got a section"),
        (
            behind.replace("name = \"medium\"", "name = 5"),
            ": models.name: expected a text in quotes, got 5",
        ),
        (behind.clone() + "rule = 1\n", ": access: unknown field `rule`"),
        (front.replace("url = \"http://127.0.0.1:1\"\nt", "t"), ": edge: missing field `url`"),
        (front.clone() + "[shadow]\nat_once = 1\n", ":20: shadow: missing field `probability`"),
        (front.clone() + "[log]\nflush_ms = 1\n", ":20: log: missing field `path`"),
        (front.clone() + "[tls]\ncert = 1979-05-27\n", ":21: tls.cert: expected a text in quotes"),
        (
            front.clone() + &format!("[tls]\n{} = 1\n", "x".repeat(100_000)),
            ":21: tls: unknown field `xxx",
        ),
        (front.replace("lam = 1.0", "lam = 1.0\nlam = 2.0"), ": duplicate key"),
    ] {
        let got = world.config(&text).map(drop).expect_err(words).to_string();
        assert!(got.contains("gateway.toml:") && got.contains(words), "{words}: {got}");
        assert!(got.len() < 800, "{got}");
    }
}
