//! A small world for tests: a fitted router and its encoder in a folder, upstreams that play a part,
//! gateways on loopback.
#![allow(dead_code)] // each test file uses its part

pub mod client;
pub mod meter;
pub mod stub;
pub mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cr2fast_core::{
    Calibration, CostTable, DeviceRouter, EncoderInfo, Gate, GateWeights, LengthPredictor,
    LengthWeights, PSI, Parts, Precision, Router, Seen, StaticEncoder, StaticSettings, Teacher,
    TeacherWeights,
};
use cr2fast_gateway::{App, Config, ConfigError, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub const MODELS: [&str; 3] = ["small", "medium", "large"];
pub const DEVICE_TOKEN: &str = "device-token-of-the-tests";
pub const CLIENT_TOKEN: &str = "client-token-of-the-tests";
pub const ADMIN_TOKEN: &str = "admin-token-of-the-tests";
const D: usize = 8;
const HIDDEN: usize = 8;

/// A small seeded generator (xorshift64*).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.bits() >> 11) % n
    }

    fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        let one = |bits: u64| ((bits >> 40) as f32 / (1_u32 << 23) as f32 - 1.0) * scale;
        (0..n).map(|_| one(self.bits())).collect()
    }

    pub fn words(&mut self) -> String {
        let word = |r: &mut Self| -> String {
            (0..=r.below(4)).map(|_| char::from(b'a' + r.below(26) as u8)).collect()
        };
        (0..=self.below(5)).map(|_| word(self)).collect::<Vec<_>>().join(" ")
    }
}

/// A folder with a router and its encoder; gone with the value.
pub struct World {
    pub folder: PathBuf,
    pub router: Router,
    pub encoder: StaticEncoder,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn encoder(seed: u64) -> StaticEncoder {
    let letters = || ('a'..='z').map(String::from);
    let mut tokens: Vec<String> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into();
    tokens.extend(letters());
    tokens.extend(letters().map(|c| format!("##{c}")));
    let settings = StaticSettings {
        id: "test".into(),
        source_id: "none".into(),
        source_sha256: "0".repeat(64),
        max_tokens: 64,
        truncation: "head-tail".into(),
        record: "{}".into(),
    };
    let vectors = Rng::new(seed).vec(tokens.len() * D, 1.0);
    StaticEncoder::new(settings, tokens.join("\n"), &vectors, D).unwrap()
}

pub fn router(info: &EncoderInfo, threshold: f32) -> Router {
    let link = serde_json::json!({"kind": "empirical", "bits_per_input_token": 32, "bits_per_output_token": 32,
            "samples": [{"rate_ul_bps": 1e7, "rate_dl_bps": 4e7, "rtt_s": 0.018},
                        {"rate_ul_bps": 1e5, "rate_dl_bps": 4e5, "rtt_s": 0.2}]});
    router_of(info, threshold, &link)
}

/// The same, with another section `link` of its cost table.
pub fn router_of(info: &EncoderInfo, threshold: f32, link: &serde_json::Value) -> Router {
    let r = &mut Rng::new(3);
    let m = MODELS.len();
    let gate = GateWeights {
        d: D,
        hidden: HIDDEN,
        ln_weight: vec![1.0; D],
        ln_bias: vec![0.0; D],
        w1: r.vec(HIDDEN * D, 1.0),
        b1: r.vec(HIDDEN, 0.1),
        film_weight: r.vec(2 * HIDDEN * PSI, 0.2),
        film_bias: r.vec(2 * HIDDEN, 1.0),
        w2: r.vec(HIDDEN, 1.0),
        b2: 0.0,
        eta_t: -2.25,
        link: None,
    };
    let teacher = TeacherWeights {
        models: m,
        d: D,
        hidden: HIDDEN,
        ln_weight: vec![1.0; m * D],
        ln_bias: vec![0.0; m * D],
        w1: r.vec(m * HIDDEN * D, 1.0),
        b1: r.vec(m * HIDDEN, 0.1),
        w2: r.vec(m * HIDDEN, 1.0),
        b2: r.vec(m, 0.1),
    };
    let length = LengthWeights {
        models: m,
        d: D,
        weight: r.vec(m * D, 0.1),
        scalars: [0.1, 3.0, 0.2, 500.0].repeat(m),
    };
    let model = |name: &str, tier: &str, beta: f64, usd: f64| {
        serde_json::json!({"name": name, "tier": tier, "tau0_s": 0.0, "beta_pre_s": beta / 20.0,
            "beta_dec_s": beta, "phi_pre": "linear", "phi_dec": "linear", "p_active_w": 100.0,
            "usd_per_input_token": usd / 10.0, "usd_per_output_token": usd})
    };
    let table = serde_json::json!({
        "schema": "cr2fast.cost_table/2", "name": "test", "source": "estimated", "note": "test",
        "shares": {"latency": 0.5, "energy": 0.5, "price": 0.0},
        "reference_model": "large",
        "normalizers": {"T0_s": 1.0, "E0_j": 100.0, "D0_usd": null, "definition": "test"},
        "link": link,
        "ue": {"p_tx_w": 1.2, "p_rx_w": 0.9, "p_idle_w": 0.05},
        "models": [model("small", "device", 0.01, 0.0), model("medium", "edge", 0.02, 1e-5),
                   model("large", "edge", 0.03, 2e-5)]
    });
    let parts = Parts {
        features: None,
        encoder: info.clone(),
        gate: Gate::new(gate).unwrap(),
        teacher: Teacher::new(teacher).unwrap(),
        length: LengthPredictor::new(length).unwrap(),
        costs: CostTable::from_json(&table.to_string()).unwrap(),
        training: r#"{"config": {"lam_low": 0.1, "lam_high": 20.0, "lengths": "predicted"}}"#
            .into(),
        trained_on: Seen::default(),
        precision: Precision::default(),
        typicality: None,
    };
    let calibration = Calibration {
        lams: vec![0.1, 1.0, 20.0],
        alphas: vec![0.02, 0.05],
        thresholds: [f32::INFINITY, threshold].repeat(3),
        n: 1000,
        judge: "teacher".into(),
        lengths: "predicted".into(),
        delta: None,
        quantiles: vec![],
        length_factors: vec![20.0, 2.0, 3.0],
        typicality: vec![],
        defer_atypical: None,
        groups: None,
        queries: Seen::default(),
    };
    Router::new(parts).unwrap().with_calibration(calibration).unwrap()
}

impl World {
    pub fn new() -> Self {
        // A process of the same number may have left its own.
        let folder = std::env::temp_dir().join(format!("cr2fast-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let encoder = encoder(1);
        let router = router(encoder.info(), 0.0);
        router.save(&folder.join("router.safetensors")).unwrap();
        encoder.save(&folder.join("static.safetensors")).unwrap();
        Self { folder, router, encoder }
    }

    pub fn core(&self) -> DeviceRouter {
        DeviceRouter::new(&self.router, 1.0, 0.05).unwrap()
    }

    /// A text that is accepted, and one that is deferred.
    pub fn texts(&self) -> (String, String) {
        let (core, mut rng) = (self.core(), Rng::new(9));
        let texts: Vec<String> = (0..200).map(|_| rng.words()).collect();
        let find = |local| {
            let is = |t: &&String| core.route_text(t, &self.encoder, false).unwrap().local == local;
            texts.iter().find(is).unwrap().clone()
        };
        (find(true), find(false))
    }

    pub fn config(&self, text: &str) -> Result<Config, ConfigError> {
        let env = |name: &str| match name {
            "DEVICE_TOKEN" | "CR2FAST_DEVICE_TOKEN" => Some(DEVICE_TOKEN.to_string()),
            "CLIENT_TOKEN" | "CR2FAST_TOKEN" => Some(CLIENT_TOKEN.to_string()),
            "CR2FAST_ADMIN_TOKEN" => Some(ADMIN_TOKEN.to_string()),
            "SHORT_TOKEN" => Some("short".to_string()),
            _ => None,
        };
        Config::parse(&self.folder.join("gateway.toml"), text, &env)
    }

    pub async fn start(&self, text: &str) -> Gateway {
        let config = self.config(text).unwrap_or_else(|e| panic!("{e}"));
        Gateway::start(&config).await
    }
}

/// The `[router]` that every file has.
pub const ROUTER: &str = r#"
listen = "127.0.0.1:0"
[router]
path = "router.safetensors"
encoder = "static.safetensors"
lam = 1.0
alpha = 0.05
"#;

/// A device's file, with deadlines that no machine is too busy for.
pub fn device(local: &str, edge: &str) -> String {
    format!(
        "{ROUTER}\n[local]\nurl = \"{local}\"\nmodel = \"tiny.gguf\"\ncontext_tokens = 1000\n\
         [edge]\nurl = \"{edge}\"\ntoken_env = \"DEVICE_TOKEN\"\n\
         [deadlines]\nfirst_content_ms = 60000\nanswer_ms = 60000\nidle_ms = 60000\n"
    )
}

/// A device's file that soon gives its edge up, which is to be silent.
pub fn hurried_edge(file: &str) -> String {
    file.replacen("[edge]\n", &format!("[edge]\n{SOON}"), 1)
}

/// The same of its local server.
pub fn hurried_local(file: &str) -> String {
    file.replacen("[local]\n", &format!("[local]\n{SOON}"), 1)
}

const SOON: &str = "first_content_ms = 50\nanswer_ms = 50\n";

/// An edge's file.
pub fn edge(models: &[(&str, &str)]) -> String {
    let models: Vec<String> = models
        .iter()
        .map(|(name, url)| format!("[[models]]\nname = \"{name}\"\nurl = \"{url}/v1\"\n"))
        .collect();
    format!(
        "{ROUTER}\n{}\n[deadlines]\nfirst_content_ms = 60000\nanswer_ms = 60000\nidle_ms = 60000\n\
         [health]\nevery_ms = 0\n[access]\ndevice_token_env = \"DEVICE_TOKEN\"\n",
        models.concat()
    )
}

/// The lines of a log that are there whole: a reader may see half of what is being written.
pub fn lines_of(log: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A gateway that runs until dropped.
pub struct Gateway {
    pub url: String,
    pub app: Arc<App>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl Gateway {
    pub async fn start(config: &Config) -> Self {
        let app = App::new(config).unwrap_or_else(|e| panic!("{e}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, Arc::clone(&app), async {
            let _ = stopped.await;
        }));
        Self { url, app, stop: Some(stop), served: Some(served) }
    }

    /// Stop and wait until all is written.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.served.take().unwrap().await.unwrap();
    }
}
