//! The thread that writes the log.
//!
//! In: messages from the queue. Out: lines in the file, in batches; a count of those that are lost; what keeps
//! them from being written, while it does; and word to whoever waits for a line.

use std::io::Error;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

use super::queue::Queue;
use super::{Line, LogFile, Message};
use crate::config::LogConfig;

/// Bytes of one write, about.
const BATCH: usize = 1 << 16;

/// What keeps lines from being written, while it does.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// The words, while there are some.
    pub fn words(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, words: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }
}

/// The thread that writes.
pub struct Writer {
    config: LogConfig,
    dropped: Counter,
    file: LogFile,
    batch: Vec<u8>,
    /// Who waits for a line of the batch.
    waiting: Vec<oneshot::Sender<bool>>,
    trouble: Trouble,
}

impl Writer {
    /// Open the file.
    pub fn open(config: LogConfig, dropped: Counter, trouble: Trouble) -> Result<Self, Error> {
        let file = LogFile::open(&config.path.value)?;
        let (batch, waiting) = (Vec::with_capacity(2 * BATCH), Vec::new());
        Ok(Self { config, dropped, file, batch, waiting, trouble })
    }

    /// Until the queue is closed.
    pub fn run(mut self, queue: &Queue<Message>) {
        let mut messages = Vec::new();
        let mut more = true;
        while more {
            more = queue.take(self.config.flush, &mut messages);
            for message in messages.drain(..) {
                match message {
                    Message::Line(line) => drop(self.add(&line)),
                    Message::Awaited(line, done) => match self.add(&line) {
                        Ok(()) => self.waiting.push(done),
                        Err(_) => drop(done),
                    },
                    Message::Reopen => self.file.follow(),
                }
                if self.batch.len() >= BATCH {
                    self.write();
                }
            }
            self.write();
        }
    }

    /// Put a record into the batch; one that the file has no room for begins a new file.
    fn add(&mut self, record: &Line) -> Result<(), serde_json::Error> {
        let before = self.batch.len();
        if let Err(e) = serde_json::to_writer(&mut self.batch, record) {
            self.dropped.inc();
            self.batch.truncate(before);
            return Err(e);
        }
        self.batch.push(b'\n');
        let most = self.config.max_bytes;
        if self.file.is_full(self.batch.len(), most) && (self.file.is_begun() || before > 0) {
            let line = self.batch.split_off(before);
            self.write();
            // What was written may have gone to a file that somebody else has begun.
            if self.file.is_full(line.len(), most) && self.file.is_begun() {
                self.file.rotate();
            }
            self.batch = line;
        }
        Ok(())
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.file.follow();
        if self.file.is_old(self.config.max_age) {
            self.file.rotate();
        }
        let lost = self.file.write(&self.batch);
        self.dropped.inc_by(lost);
        self.batch.clear();
        let words = self.file.trouble().unwrap_or("is a file without a name");
        self.trouble.set((lost > 0).then(|| words.into()));
        // Which of a batch are lost, its end tells; who hears of a loss sends a line once more.
        for done in self.waiting.drain(..) {
            let _ = done.send(lost == 0);
        }
    }
}
