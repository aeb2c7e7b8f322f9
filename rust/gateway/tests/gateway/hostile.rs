//! Clients that mean no good: each is refused or left, and the next good one is answered.

use crate::common::client::{CHAT, ask, chat, post};
use crate::common::stub::{ANSWER, Stub};
use crate::common::{Rng, World, device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn setup() -> (World, Stub, crate::common::Gateway) {
    let world = World::new();
    let local = Stub::answering().await;
    let text = device(&local.url, "http://127.0.0.1:1")
        + "[limits]\nbody_bytes = 100000\nheader_bytes = 8192\nheader_ms = 200\nbody_ms = 200\n";
    let gateway = world.start(&text).await;
    (world, local, gateway)
}

/// Send bytes; everything that comes until the gateway ends the connection.
async fn raw(url: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        out.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn head(more: &str) -> String {
    format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n{more}\r\n")
}

#[tokio::test]
async fn broken_requests_end_in_an_error_or_a_closed_connection() {
    let (_world, local, gateway) = setup().await;
    let good = chat("small", "hello");
    let long = good.len();
    let cases: Vec<(String, &str)> = vec![
        // Nothing, or half of it, and then waiting.
        (String::new(), ""),
        ("POST /v1/chat".into(), ""),
        (head("content-length: 50\r\n"), "408"),
        (head("content-length: 50\r\n") + "{\"model\"", "408"),
        (head("transfer-encoding: chunked\r\n") + "5\r\n{\"mod", "408"),
        // Framing that two servers might read in two ways.
        (
            head(&format!("content-length: {long}\r\ncontent-length: {}\r\n", long + 1)) + &good,
            "400",
        ),
        (head("content-length: -1\r\n") + &good, "400"),
        (head("content-length: 1e9\r\n") + &good, "400"),
        (head("transfer-encoding: chunked\r\n") + "zz\r\n", "400"),
        (head("transfer-encoding: chunked, identity\r\n") + &good, "400"),
        // Too much.
        (head(&format!("x: {}\r\n", "a".repeat(100_000))), "431"),
        (head(&"x: 1\r\n".repeat(500)), "431"),
        (head("content-length: 99999999999\r\n") + "{", "413"),
        // No HTTP.
        ("\u{0}\u{1}\u{2}\r\n\r\n".into(), "400"),
        ("GET / HTTP/9.9\r\n\r\n".into(), ""),
        (format!("POST http://[::1 {CHAT} HTTP/1.1\r\n\r\n"), "400"),
        // Another encoding.
        (
            head("content-encoding: gzip\r\ncontent-length: 2\r\nconnection: close\r\n") + "{}",
            "415",
        ),
    ];
    for (bytes, status) in cases {
        let got = raw(&gateway.url, bytes.as_bytes()).await;
        let shown: String = bytes.chars().take(120).collect();
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 4"), "{shown:?}: {got}");
        assert!(status.is_empty() || got.contains(status), "{shown:?}: expected {status}: {got}");
    }
    assert_eq!(local.count(), 0, "none of them reached the upstream");
    assert_eq!(ask(&gateway.url, &good).await.body, ANSWER);
}

#[tokio::test]
async fn both_framings_at_once_are_one_request_at_most() {
    let (_world, local, gateway) = setup().await;
    let good = chat("small", "hello");
    let smuggled = format!(
        "{}{:x}\r\n{good}\r\n0\r\n\r\n",
        head("content-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n"),
        good.len()
    );
    let got = raw(&gateway.url, smuggled.as_bytes()).await;
    assert!(got.matches("HTTP/1.1").count() <= 1, "{got}");
    assert!(local.count() <= 1);
    for seen in local.seen() {
        assert_eq!(seen.header("transfer-encoding"), None);
    }
}

#[tokio::test]
async fn a_thousand_mutilated_requests_do_not_disturb_the_good_ones() {
    let (_world, _local, gateway) = setup().await;
    let body = chat("cr2fast:lam=1,alpha=0.05", "hello there");
    let good = head(&format!("content-length: {}\r\nconnection: close\r\n", body.len())) + &body;
    let mut rng = Rng::new(11);
    for i in 0..1_000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(3) {
                0 => bytes[at] = rng.bits() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, rng.bits() as u8),
            }
        }
        let url = gateway.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(url).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        drop(stream); // a client that does not wait
        if i % 100 == 0 {
            assert_eq!(ask(&gateway.url, &chat("small", "hello")).await.status, 200);
        }
    }
    assert_eq!(ask(&gateway.url, &chat("small", "hello")).await.status, 200);
}

#[tokio::test]
async fn no_error_quotes_the_prompt() {
    let (_world, _local, gateway) = setup().await;
    for body in [
        "{\"model\":\"cr2fast\",\"messages\":[{\"role\":\"user\",\"content\":\"sesame",
        "{\"model\":\"cr2fast\",\"stream\":\"sesame\"}",
        "{\"model\":\"cr2fast\",\"messages\":[{\"role\":\"user\",\"content\":\"sesame\\ud800\"}]}",
        "{\"model\":\"cr2fast\",\"messages\":[{\"role\":\"user\",\"role\":\"user\",\"content\":\"sesame\"}]}",
        "{\"model\":\"small\",\"model\":\"small\",\"messages\":[{\"role\":\"user\",\"content\":\"sesame\"}]}",
        "\"sesame\"",
        "sesame",
    ] {
        let reply = post(&gateway.url, CHAT, body, &[]).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.body);
        assert!(!reply.body.contains("sesame"), "{}", reply.body);
    }
    let big = chat("small", &"a".repeat(200_000));
    assert_eq!(ask(&gateway.url, &big).await.status, 413);
}
