//! Decisions on their way to be labelled.
//!
//! In: decisions, from the requests' path. Out: the same, to the one thread that labels. So many may wait
//! as the file says, and so many bytes of their vectors; more are dropped and counted.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Decided, Gauges};

/// Bytes that may wait: a disk that is stuck while the state is saved keeps the worker.
const MOST_BYTES: usize = 1 << 25;

/// What the worker is told.
pub enum Work {
    /// A decision, and the room that it takes.
    Label(Box<Decided>, OwnedSemaphorePermit),
    /// Say when all before it is counted.
    Flush(oneshot::Sender<()>),
    /// Write the state, and end.
    Stop,
}

/// The queue's end on the requests' path.
#[derive(Clone, Debug)]
pub struct Queue {
    pub work: SyncSender<Work>,
    room: Arc<Semaphore>,
    pub gauges: Gauges,
}

impl Queue {
    /// Before a worker.
    pub fn new(work: SyncSender<Work>, gauges: Gauges) -> Self {
        Self { work, room: Arc::new(Semaphore::new(MOST_BYTES)), gauges }
    }

    /// Hand over a decision; never waits.
    pub fn put(&self, decided: Decided) {
        let bytes = size_of::<Decided>() + size_of::<f32>() * decided.embedding.capacity();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).ok();
        let put = room.map(|room| self.work.try_send(Work::Label(Box::new(decided), room)));
        if !matches!(put, Some(Ok(()))) {
            self.gauges.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::config::{OnAlarm, Threshold};
    use crate::link::Measured;
    use crate::promise::Judge;
    use crate::promise::point::{Known, Place, Point, Rules};

    #[derive(Debug)]
    struct Nobody;

    impl Judge for Nobody {
        fn router(&self) -> &'static str {
            "none"
        }

        fn prefers_edge(
            &self,
            _: f64,
            _: (&[f32], u64),
            _: Measured,
            _: u64,
        ) -> cr2fast_core::Result<bool> {
            Ok(false)
        }

        fn place(&self, _: &Place) -> Result<Known, String> {
            Err("nowhere".into())
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let rules = Rules {
            delta: 0.01,
            threshold: Threshold::Calibrated,
            on_alarm: OnAlarm::Report,
            step: 0.1,
            window: None,
        };
        let place = Place { lam: 1.0, alpha: 0.1, group: None };
        let known = Known { place, calibrated: 0.0, range: None };
        let counted = rules.begin(&known).unwrap();
        let point = Arc::new(Point::new(known, counted, &rules));
        let decided = |wide: usize| Decided {
            id: "0".into(),
            judge: Arc::new(Nobody),
            point: Arc::clone(&point),
            margin: (0.0, 0.0),
            local: true,
            embedding: vec![0.0; wide],
            input_tokens: 1,
            measured: Measured::default(),
        };
        // Seven of 4 MiB, and not an eighth: each has some bytes beside.
        for (wide, room, taken) in [(1, 3, 3), (1 << 20, 100, 7), (1 << 23, 100, 0)] {
            let (work, waiting) = sync_channel(room);
            let queue = Queue::new(work, Gauges::default());
            for _ in 0..10 {
                queue.put(decided(wide));
            }
            assert_eq!(queue.gauges.dropped.get(), 10 - taken, "{wide}");
            // What was taken out leaves its room to others.
            if taken > 0 {
                drop(waiting.recv().unwrap());
                queue.put(decided(wide));
                assert_eq!(queue.gauges.dropped.get(), 10 - taken, "{wide}");
            }
        }
    }
}
