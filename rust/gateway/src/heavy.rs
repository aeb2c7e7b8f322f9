//! Work that takes long, away from the threads that serve.
//!
//! In: work. Out: what it gives. At most half of the machine's cores do such work at once, and the rest of
//! it waits in turn: a client that sends megabytes of text, or a body of a million brackets, keeps other
//! such clients waiting and not those who ask briefly.

use std::sync::LazyLock;
use std::thread::available_parallelism;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Bytes of a body, or of its texts, that are worth the way to another thread: a tenth of a millisecond
/// of work, or up to one where they are chosen to be dear.
pub const LONG: usize = 1 << 12;

static ROOM: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Semaphore::new((cores / 2).max(1))
});

/// Do it there; none where it panics.
pub async fn away<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let room = ROOM.acquire().await.ok()?;
    let work = move || {
        // Held to the work's end, whether or not anybody still waits for it.
        let _room = room;
        work()
    };
    spawn_blocking(work).await.ok()
}

/// Drop a value there: what holds many pieces takes long to take apart.
pub fn drop_away<T: Send + 'static>(value: T) {
    // Outside of any runtime nobody waits.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn_blocking(move || drop(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_is_done_in_turn_and_others_are_served_meanwhile() {
        let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let receiver = Arc::new(std::sync::Mutex::new(receiver));
        let cores = available_parallelism().map_or(1, usize::from);
        let all: Vec<_> = (0..4 * cores)
            .map(|i| {
                let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
                let receiver = Arc::clone(&receiver);
                tokio::spawn(away(move || {
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    receiver.lock().unwrap().recv().unwrap();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    i
                }))
            })
            .collect();
        // This thread is free while the work waits for its word.
        for _ in 0..4 * cores {
            tokio::task::yield_now().await;
            sender.send(()).unwrap();
        }
        for (i, one) in all.into_iter().enumerate() {
            assert_eq!(one.await.unwrap(), Some(i));
        }
        assert!((1..=(cores / 2).max(1)).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(away(|| panic!("work that fails")).await, None::<()>);
        assert_eq!(away(|| 1).await, Some(1), "its room is free again");
    }
}
