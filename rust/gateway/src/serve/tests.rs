//! How a connection begins, by a clock of the test's own.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, advance, sleep};

use super::guard::{First, Guard, Most, Reading, Slot};

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
const HEADER: Duration = Duration::from_secs(30);
const BODY: Duration = Duration::from_secs(5);

/// What the door makes of pieces, each sent after so many seconds, and how long that takes; with the
/// time from the head on.
async fn heard(pieces: &[(u64, &'static [u8])]) -> (First, Duration, Option<Duration>) {
    let (ours, mut theirs): (DuplexStream, DuplexStream) = duplex(1 << 16);
    let most = Most { header_bytes: 8_192, body_bytes: 100 };
    let mut guard = Guard::new(ours, Reading::new(most, Slot::default()));
    let pieces = pieces.to_vec();
    let begun = Instant::now();
    let client = tokio::spawn(async move {
        for (seconds, piece) in pieces {
            sleep(Duration::from_secs(seconds)).await;
            if theirs.write_all(piece).await.is_err() {
                return;
            }
        }
        sleep(Duration::from_secs(1_000_000)).await; // open, and silent
    });
    let first = guard.first(HEADER, BODY).await;
    client.abort();
    let headed = guard.into_parts().1.headed();
    (first, begun.elapsed(), headed.map(|at| at.elapsed()))
}

#[tokio::test(start_paused = true)]
async fn a_bodys_time_begins_where_its_head_ends() {
    let seconds = Duration::from_secs;
    advance(seconds(1)).await;
    // All of it at once, or each in its time.
    assert_eq!(heard(&[(0, HEAD), (0, b"abcd")]).await.0, First::Request);
    let (first, took, _) = heard(&[(29, HEAD), (4, b"abcd")]).await;
    assert_eq!((first, took.as_secs()), (First::Request, 33));
    // A head that does not come, or not whole; an empty line before one is none.
    for begin in [&b""[..], b"POST /", b"\r\n", b"\r\n\r\n", b"\r\nPOST /"] {
        let (first, took, headed) = heard(&[(0, begin)]).await;
        assert_eq!((first, took.as_secs(), headed), (First::Nothing, 30, None), "{begin:?}");
    }
    // A body that does not come is let in when its time is over, and not when a head's would be.
    for begin in [&b""[..], b"a", b"abc"] {
        let (first, took, headed) = heard(&[(2, HEAD), (1, begin)]).await;
        assert_eq!((first, took.as_secs()), (First::Request, 7), "{begin:?}");
        assert_eq!(headed.unwrap().as_secs(), 5, "whoever refuses it knows since when it is due");
    }
}
