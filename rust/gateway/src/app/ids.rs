//! Ids of requests that bring none of a device gateway.
//!
//! Out: 122 random bits each, as 32 hexadecimal digits. The system is asked for many at once: one call
//! of it costs as much as ten of these.

use std::sync::{Mutex, PoisonError};

use axum::http::HeaderValue;
use uuid::Builder;

/// Ids that are drawn at once.
const MANY: usize = 64;

static DRAWN: Mutex<Vec<[u8; 16]>> = Mutex::new(Vec::new());

/// The next one.
pub(super) fn next() -> HeaderValue {
    let id = Builder::from_random_bytes(random()).into_uuid();
    let mut digits = [0; 32];
    HeaderValue::from_str(id.simple().encode_lower(&mut digits)).expect("digits")
}

fn random() -> [u8; 16] {
    let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bytes) = drawn.pop() {
        return bytes;
    }
    let mut many = [0; 16 * MANY];
    getrandom::fill(&mut many).expect("the system gives random bytes");
    drawn.extend_from_slice(many.as_chunks::<16>().0);
    drawn.pop().expect("some were drawn")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_many_threads_are_all_different() {
        let each = 10 * MANY + 1;
        let draw = || (0..each).map(|_| next()).collect::<Vec<_>>();
        let all: HashSet<HeaderValue> = std::thread::scope(|scope| {
            let drawing: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            drawing.into_iter().flat_map(|d| d.join().unwrap()).collect()
        });
        assert_eq!(all.len(), 4 * each);
        for id in &all {
            let id = id.to_str().unwrap();
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
            // RFC 9562: version 4.
            assert_eq!(id.as_bytes()[12], b'4');
        }
    }
}
