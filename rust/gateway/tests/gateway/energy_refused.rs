//! Counters that cannot be read are refused before anything starts.

use crate::common::meter::{Agent, energy, tree};
use crate::common::tls::{Authority, before};
use crate::common::{World, device};
use cr2fast_gateway::App;
use serde_json::{Value, json};

const URL: &str = "http://127.0.0.1:1";

/// The error of a file, by the check and by a start.
fn error(world: &World, text: &str) -> String {
    let config = match world.config(text) {
        Err(e) => return e.to_string(),
        Ok(config) => config,
    };
    let told = App::describe(&config).unwrap_err().to_string();
    assert_eq!(App::new(&config).unwrap_err().to_string(), told);
    told
}

#[test]
fn counters_that_cannot_be_read_are_refused_by_the_check_and_at_the_start() {
    let world = World::new();
    let (root, package, _) = tree(&world);
    let at = |section: &str| format!("{}[energy]\n{section}", device(URL, URL));
    let good = at("powercap = \"powercap\"\nidle_w = 2.5\n");
    let told = App::describe(&world.config(&good).unwrap()).unwrap();
    let words =
        "measures joules of device by package-0 (intel-rapl:0), dram (intel-rapl:0:1), less 2.5 W";
    assert!(told.contains(words), "{told}");
    for (section, line, words) in [
        ("", 20, "energy: expected powercap"),
        (
            "powercap = \"powercap\"\nagent = \"http://a\"\n",
            21,
            "either this or energy.agent, got both",
        ),
        ("powercap = \"powercap\"\ntoken_env = \"CLIENT_TOKEN\"\n", 22, "energy.agent beside it"),
        ("powercap = \"none\"\n", 21, "energy.powercap: expected energy counters that can be read"),
        (
            "powercap = \"powercap\"\nidle_w = 0.0\n",
            22,
            "energy.idle_w: expected a number from 0.001",
        ),
        (
            "powercap = \"powercap\"\nidle_w = nan\n",
            22,
            "energy.idle_w: expected a number from 0.001",
        ),
        ("powercap = \"powercap\"\ntolerance = -1.0\n", 22, "energy.tolerance: expected a number"),
        ("powercap = \"powercap\"\nevery_ms = 0\n", 22, "energy.every_ms: expected milliseconds"),
        ("powercap = \"powercap\"\nmodels = [\"small\"]\n", 22, "a device measures its one model"),
        ("agent = \"ftp://a\"\n", 21, "energy.agent: expected http://HOST:PORT"),
        (
            "agent = \"http://127.0.0.1:1\"\n",
            21,
            "got: no connection; start `cr2fast-profile agent`",
        ),
        ("watts = 1\n", 21, "unknown field `watts`"),
    ] {
        let got = error(&world, &at(section));
        assert!(
            got.contains(&format!("gateway.toml:{line}: ")) && got.contains(words),
            "{section}: {got}"
        );
    }
    let tree = at("powercap = \"powercap\"\n");
    std::fs::write(package.join("max_energy_range_uj"), "262143328850\n").unwrap();
    let seldom = at("powercap = \"powercap\"\nevery_ms = 86400000\n");
    assert!(
        error(&world, &seldom).contains("within 262 s; set energy.every_ms to a quarter"),
        "{}",
        error(&world, &seldom)
    );
    std::fs::write(package.join("energy_uj"), "many\n").unwrap();
    assert!(error(&world, &tree).contains("a whole number of microjoules, got \"many\""));
    std::fs::remove_file(package.join("energy_uj")).unwrap();
    assert!(error(&world, &tree).contains("cannot be read"));
    std::fs::write(package.join("name"), "package-0-die-1\n").unwrap();
    assert!(error(&world, &tree).contains("one of several dies"));
    std::fs::remove_dir_all(root.join("intel-rapl:0")).unwrap();
    assert!(error(&world, &tree).contains("no package's zone"));
}

#[test]
fn an_agent_that_measures_nothing_is_refused() {
    let world = World::new();
    let agent = Agent::start(json!({}));
    let file = format!("{}[energy]\nagent = \"{}\"\n", device(URL, URL), agent.url);
    let mut constant = energy("a", json!(1.0), json!(1.0));
    constant["domains"][2]["estimated"] = json!(true);
    let mut beside = energy("a", json!(1.0), json!(1.0));
    for i in [0, 2] {
        beside["domains"][i]["in_total"] = json!(false);
    }
    let unavailable = json!({"schema": "cr2fast.agent/1", "host": "box", "unavailable":
        {"source": "rapl", "reason": "permission", "detail": "may be read by root only", "remedy": "run as root"}});
    for (status, body, words) in [
        (200, constant, "its dram-0 is an estimate"),
        (200, beside, "it measures nothing"),
        (200, unavailable, "its host has no meter: may be read by root only; run as root"),
        (200, energy("a", Value::Null, json!(1.0)), "it does not trust package-0"),
        (200, json!({"schema": "cr2fast.agent/2"}), "no answer of a meter agent"),
        (200, json!([1]), "no answer of a meter agent"),
        (401, json!({}), "status 401: energy.token_env"),
        (503, json!({}), "status 503"),
    ] {
        agent.say(status, body);
        let got = error(&world, &file);
        assert!(
            got.contains(":21: energy.agent: expected energy counters") && got.contains(words),
            "{got}"
        );
    }
    // An agent over https has something before it that speaks TLS.
    let authority = Authority::new(&world.folder);
    let (cert, key) = (world.folder.join("agent.pem"), world.folder.join("agent.key"));
    let secure = agent.url.replace("http:", "https:");
    let https =
        |url: &str, more: &str| format!("{}[energy]\nagent = \"{url}\"\n{more}", device(URL, URL));
    let ca = "[tls]\nca = \"ca.pem\"\n";
    let got = error(&world, &https(&secure, ca));
    let words = format!("no TLS: an agent speaks plain HTTP; write {} where", agent.url);
    assert!(got.contains(":21: energy.agent") && got.contains(&words), "{got}");
    authority.issue("example.org", &cert, &key);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let other = runtime.block_on(before(&agent.url, &cert, &key));
    let got = error(&world, &https(&other, ca));
    assert!(got.contains("a certificate that is not trusted for this name; name its"), "{got}");
    let got = error(&world, &https("https://127.0.0.1:1", ca));
    assert!(got.contains("got: no connection; start `cr2fast-profile agent` there"), "{got}");
    authority.issue("127.0.0.1", &cert, &key);
    let good = runtime.block_on(before(&agent.url, &cert, &key));
    agent.say(200, energy("a", json!(1.0), json!(1.0)));
    App::describe(&world.config(&https(&good, ca)).unwrap()).unwrap();
    // A token given to the agent opens no other door, and goes over a network with a warning.
    let far = "[energy]\nagent = \"http://10.0.0.1:1\"\ntoken_env = \"CLIENT_TOKEN\"\n";
    let config = world.config(&(device(URL, URL) + far)).unwrap();
    assert!(
        App::warnings(&config).iter().any(|w| w.contains("the token for meter goes unencrypted"))
    );
    let same = far.replace("CLIENT_TOKEN", "DEVICE_TOKEN");
    let got = world.config(&(device(URL, URL) + &same)).unwrap_err().to_string();
    assert!(got.contains("energy.token_env: expected another token"), "{got}");
}

#[test]
fn counters_of_this_host_for_a_model_elsewhere_are_warned_of() {
    let world = World::new();
    tree(&world);
    let section = "[energy]\npowercap = \"powercap\"\n";
    let warnings = |local: &str| {
        let config = world.config(&(device(local, URL) + section)).unwrap();
        App::warnings(&config).join("\n")
    };
    assert_eq!(warnings(URL), "");
    assert!(warnings("http://10.0.0.1:1").contains("energy.powercap counts this host"));
}
