//! The decision log: one JSON line per request, written off the request's path.
//!
//! In: a [`Line`] per request, grade, shadow and alarm, through a bounded queue; one that finds it full is dropped and
//! counted. Out: lines in a file, written at least every `flush`: so much a kill may lose. A new file
//! begins by size and by age; the old one keeps its name and the time.

mod alarm;
mod file;
mod queue;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use serde::{Serialize, Serializer};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::LogConfig;
use crate::link::Measured;

use queue::Queue;
use writer::{Trouble, Writer};

pub use alarm::AlarmRecord;
pub use file::LogFile;

/// The format of a line.
pub const SCHEMA: &str = "cr2fast.decision_log/1";
/// For a line to be written that somebody waits for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a text that a line carries at most: lines wait in memory while the disk is busy.
const MAX_TEXT: usize = 1 << 16;

/// One request. Null is unmeasured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// `request`.
    pub kind: &'static str,
    /// The request's id.
    pub id: String,
    /// When it came, RFC 3339, UTC.
    pub ts: String,
    /// `chat`, `completion` or `responses`.
    pub endpoint: &'static str,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// λ.
    pub lam: Option<f64>,
    /// α.
    pub alpha: Option<f64>,
    /// The group whose threshold applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Δ̂.
    pub margin: Option<f32>,
    /// τ; "inf" where all is deferred, "-inf" where all is accepted.
    #[serde(serialize_with = "threshold")]
    pub threshold: Option<f32>,
    /// How typical the query is, where atypical ones are deferred.
    pub p_value: Option<f64>,
    /// `device` or `edge`.
    pub place: Option<&'static str>,
    /// The model that answered.
    pub model: Option<String>,
    /// Why it went there.
    pub why: Option<&'static str>,
    /// `answered`, `failed`, `broken` in the middle, `cancelled` by the client, `refused`, `returned`.
    pub outcome: &'static str,
    /// The status sent.
    pub status: u16,
    /// What the call may cost at most.
    pub budget: Option<BudgetRecord>,
    /// L_in by the encoder's tokenizer.
    pub n_input_tokens_estimated: Option<u64>,
    /// L̂_out of the model that answered.
    pub n_output_tokens_estimated: Option<f64>,
    /// L_in as the model counted.
    pub n_input_tokens: Option<u64>,
    /// L_out as the model counted.
    pub n_output_tokens: Option<u64>,
    /// To the first content, s.
    pub ttft_s: Option<f64>,
    /// To the end, s.
    pub total_s: f64,
    /// t of the model that answered, by the cost table.
    pub latency_s_estimated: Option<f64>,
    /// e, by the cost table.
    pub energy_j_estimated: Option<f64>,
    /// d, by the cost table.
    pub usd_estimated: Option<f64>,
    /// The table's prices at the counted tokens.
    pub usd: Option<f64>,
    /// From the counters of the machine that answered, where no other request was in flight.
    pub energy_j_measured: Option<f64>,
    /// What was subtracted from them, W.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_idle_w: Option<f64>,
    /// ξ that the decision and the estimates were made with.
    pub link: Option<LinkRecord>,
    /// Which of its fields were measured.
    pub link_measured: Vec<&'static str>,
    /// At the edge: the models that the selector could choose among.
    pub available: Option<Vec<String>>,
    /// At the edge: seconds by which each of them was priced higher, for its queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queueing_s: Option<BTreeMap<String, f64>>,
    /// Tries of upstreams that failed: name and how.
    pub failed: Vec<(String, &'static str)>,
    /// SHA-256 of the router's file.
    pub router: String,
    /// The probability with which this place was chosen.
    pub propensity: f64,
    /// π, where a shadow was drawn.
    pub shadow: Option<f64>,
    /// The trace that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// e(x), where the configuration asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Vec<f32>>,
    /// What was embedded, where the configuration asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The limits of a call.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BudgetRecord {
    /// s.
    pub latency_s: Option<f64>,
    /// J.
    pub energy_j: Option<f64>,
    /// $.
    pub usd: Option<f64>,
}

/// ξ in a record. Null is neither measured nor in the cost table, which then has no link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LinkRecord {
    /// τ_rtt, s.
    pub rtt_s: Option<f64>,
    /// R_ul, bit/s.
    pub rate_ul_bps: Option<f64>,
    /// R_dl, bit/s.
    pub rate_dl_bps: Option<f64>,
}

impl From<Measured> for LinkRecord {
    fn from(m: Measured) -> Self {
        Self { rtt_s: m.rtt_s, rate_ul_bps: m.rate_ul_bps, rate_dl_bps: m.rate_dl_bps }
    }
}

/// Bytes of what a line has beside its vector and its text, about.
const LINE: usize = 1_024;

/// What is written.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Line {
    /// A request.
    Request(Box<Record>),
    /// A grade.
    Outcome(Box<OutcomeRecord>),
    /// A shadow.
    Shadow(Box<ShadowRecord>),
    /// An alarm.
    Alarm(Box<AlarmRecord>),
}

impl Line {
    /// Bytes that it holds while it waits, about.
    fn bytes(&self) -> usize {
        let Self::Request(record) = self else { return LINE };
        let vector = record.embedding.as_ref().map_or(0, Vec::capacity) * size_of::<f32>();
        let texts = [&record.text, &record.group].into_iter().flatten().map(String::capacity);
        LINE + vector + texts.sum::<usize>()
    }
}

/// What the other place did with a request.
#[derive(Clone, Debug, Serialize)]
pub struct ShadowRecord {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// `shadow`.
    pub kind: &'static str,
    /// The request's id.
    pub id: String,
    /// When the shadow was sent.
    pub ts: String,
    /// Who was asked.
    pub place: &'static str,
    /// Its model.
    pub model: Option<String>,
    /// `answered` or `failed`.
    pub outcome: &'static str,
    /// How it failed; `busy` where too many were under way.
    pub failure: Option<&'static str>,
    /// L_in as that server counted.
    pub n_input_tokens: Option<u64>,
    /// L_out as that server counted.
    pub n_output_tokens: Option<u64>,
    /// From sending to the first content, s.
    pub first_content_s: Option<f64>,
    /// From sending to the end, s.
    pub total_s: Option<f64>,
    /// SHA-256 of the router's file.
    pub router: String,
    /// π.
    pub propensity: f64,
}

/// How good an answer was.
#[derive(Clone, Debug, Serialize)]
pub struct OutcomeRecord {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// `outcome`.
    pub kind: &'static str,
    /// The request's id.
    pub id: String,
    /// When the grade came.
    pub ts: String,
    /// From 0 to 1.
    pub score: f64,
    /// `answer`, or one of a request's two answers: `device`, `edge`.
    pub place: &'static str,
}

/// Now, as the log writes it.
pub fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// JSON has no infinity.
#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's signature
pub fn threshold<S: Serializer>(x: &Option<f32>, s: S) -> Result<S::Ok, S::Error> {
    match x {
        Some(x) if x.is_infinite() => s.serialize_str(if *x > 0.0 { "inf" } else { "-inf" }),
        x => x.serialize(s),
    }
}

/// What the writer is told.
#[derive(Debug)]
enum Message {
    Line(Line),
    /// A line, and whoever waits to hear whether it is written.
    Awaited(Line, oneshot::Sender<bool>),
    /// The file may have been renamed.
    Reopen,
}

/// The log's end on the request's path.
#[derive(Debug)]
pub struct Log {
    queue: Option<Arc<Queue<Message>>>,
    writer: Option<JoinHandle<()>>,
    dropped: Counter,
    trouble: Trouble,
    embedding: bool,
    texts: bool,
}

impl Log {
    /// Open the file and start the writer; no configuration, no log.
    pub fn start(config: Option<&LogConfig>, dropped: Counter) -> Result<Self, std::io::Error> {
        let trouble = Trouble::default();
        let (embedding, texts) = config.map_or((false, false), |c| (c.embedding, c.texts));
        let Some(config) = config else {
            return Ok(Self { queue: None, writer: None, dropped, trouble, embedding, texts });
        };
        let queue = Arc::new(Queue::new(config.queue, config.queue_bytes));
        let writer = Writer::open(config.clone(), dropped.clone(), trouble.clone())?;
        let lines = Arc::clone(&queue);
        let writer = std::thread::Builder::new()
            .name("decision-log".into())
            .spawn(move || writer.run(&lines))?;
        Ok(Self { queue: Some(queue), writer: Some(writer), dropped, trouble, embedding, texts })
    }

    /// Whether records should carry embeddings.
    pub fn wants_embedding(&self) -> bool {
        self.embedding
    }

    /// What a record may carry of a text: nothing, unless the configuration asks for it.
    pub fn text(&self, text: Option<&str>) -> Option<String> {
        text.filter(|text| self.texts && text.len() <= MAX_TEXT).map(String::from)
    }

    /// Hand over a line; never waits. A full queue drops it.
    pub fn put(&self, line: Line) {
        let Some(queue) = &self.queue else { return };
        let bytes = line.bytes();
        if !queue.put(Message::Line(line), bytes) {
            self.dropped.inc();
        }
    }

    /// Hand over a line that somebody will send again where it is not written, and wait for that; the error
    /// is what came in place of a file that has it. One that comes too late may be written later.
    pub async fn write(&self, line: Line) -> Result<(), String> {
        let Some(queue) = &self.queue else { return Err("no log".into()) };
        let (done, written) = oneshot::channel();
        let bytes = line.bytes();
        if !queue.hurry(Message::Awaited(line, done), bytes) {
            return Err("no room in its queue".into());
        }
        match timeout(PATIENCE, written).await {
            Ok(Ok(true)) => Ok(()),
            Ok(_) => Err(self.trouble().unwrap_or_else(|| "a line that was lost".into())),
            Err(_) => Err(format!("no word of its disk in {PATIENCE:?}")),
        }
    }

    /// What keeps lines from being written, while it does.
    pub fn trouble(&self) -> Option<String> {
        let full = || self.queue.as_ref().is_some_and(|queue| queue.is_full());
        self.trouble.words().or_else(|| full().then(|| "has no room in its queue".into()))
    }

    /// Somebody may have renamed the file. Where the queue is full, the next write finds out.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.put(Message::Reopen, 0);
        }
    }

    /// Whether there is a log.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }
}

impl Drop for Log {
    /// Write what waits.
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.close();
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}
