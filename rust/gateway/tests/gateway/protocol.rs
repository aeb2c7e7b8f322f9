//! What HTTP asks of a server, beside what keeps hostile clients away.

use crate::common::client::{CHAT, chat};
use crate::common::stub::Stub;
use crate::common::{World, device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// All that comes back for these bytes; the end of what is sent is shown where it `ends`.
async fn raw(url: &str, bytes: &str, ends: bool) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    if ends {
        stream.shutdown().await.unwrap();
    }
    let mut out = Vec::new();
    let _ = stream.read_to_end(&mut out).await;
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test]
async fn a_host_is_asked_for_and_an_expectation_is_met_or_refused() {
    let world = World::new();
    let local = Stub::answering().await;
    let gateway = world.start(&device(&local.url, "http://127.0.0.1:1")).await;
    for (head, status, words) in [
        ("HTTP/1.1\r\n", "400", "host: expected it once in HTTP/1.1, got none"),
        ("HTTP/1.1\r\nhost: a\r\nhost: a\r\n", "400", "host: expected it once, got it twice"),
        ("HTTP/1.1\r\nhost: a\r\nexpect: foo\r\n", "417", "expect: expected"),
        ("HTTP/1.1\r\nhost: a\r\nexpect: 100-continue, foo\r\n", "417", "expect: expected"),
        ("HTTP/1.1\r\nhost:\r\n", "200", "ok"),
        ("HTTP/1.1\r\nhost: a\r\nexpect: 100-Continue\r\n", "200", "ok"),
        ("HTTP/1.0\r\n", "200", "ok"),
        ("HTTP/1.0\r\nexpect: foo\r\n", "200", "ok"),
    ] {
        let request = format!("GET /healthz {head}connection: close\r\n\r\n");
        let got = raw(&gateway.url, &request, false).await;
        let lines: Vec<&str> = got.lines().filter(|l| l.starts_with("HTTP/1.")).collect();
        let last = lines.last().and_then(|line| line.get(9..12));
        assert_eq!(last, Some(status), "{head}: {got}");
        assert!(got.contains(words), "{head}: {got}");
    }
}

#[tokio::test]
async fn chunks_that_are_none_and_a_body_that_is_cut_are_told_apart() {
    let world = World::new();
    let local = Stub::answering().await;
    let gateway = world.start(&device(&local.url, "http://127.0.0.1:1")).await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let good = chat("small", "hello");
    let size = format!("{:x}\r\n{good}", good.len());
    let chunks = "body: expected chunks, each SIZE in hexadecimal digits";
    let last = "a last chunk, of size 0";
    for (text, ends, code, words) in [
        (format!("{chunked}-5\r\nhello\r\n"), false, "framing", chunks),
        (format!("{chunked}0x5\r\nhello\r\n"), false, "framing", chunks),
        (format!("{chunked}5\nhello\n"), false, "framing", chunks),
        (format!("{chunked}{size}XX"), false, "framing", chunks),
        (format!("{chunked}{size}\r\n"), true, "body_cut", last),
        (format!("{chunked}{}", &size[..9]), true, "body_cut", last),
        (format!("{head}content-length: 99\r\n\r\n{{"), true, "body_cut", "as many bytes"),
    ] {
        let got = raw(&gateway.url, &text, ends).await;
        assert!(got.starts_with("HTTP/1.1 400"), "{text}: {got}");
        assert!(got.contains(&format!("x-cr2fast-refusal: {code}\r\n")), "{text}: {got}");
        assert!(got.contains(words), "{text}: {got}");
    }
    assert_eq!(local.count(), 0);
}
