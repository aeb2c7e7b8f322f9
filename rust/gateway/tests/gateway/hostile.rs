//! Clients that mean no good: each is refused or left, and the next good one is answered.

use crate::common::client::{CHAT, ask, chat, post};
use crate::common::stub::{ANSWER, Stub};
use crate::common::{Rng, World, device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn setup() -> (World, Stub, crate::common::Gateway) {
    let world = World::new();
    let local = Stub::answering().await;
    let gateway = limited(&world, &local, PATIENT).await;
    (world, local, gateway)
}

/// No machine is too busy for these.
const PATIENT: (u32, u32) = (60_000, 60_000);
/// So long is waited for what does not come.
const SOON: u32 = 50;

async fn limited(
    world: &World,
    local: &Stub,
    (header_ms, body_ms): (u32, u32),
) -> crate::common::Gateway {
    let limits = "[limits]\nbody_bytes = 100000\nheader_bytes = 8192\n";
    let times = format!("header_ms = {header_ms}\nbody_ms = {body_ms}\n");
    world.start(&(device(&local.url, "http://127.0.0.1:1") + limits + &times)).await
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
    let (world, local, gateway) = setup().await;
    let no_head = limited(&world, &local, (SOON, PATIENT.1)).await;
    let no_body = limited(&world, &local, (PATIENT.0, SOON)).await;
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
        let waits = match status {
            "408" => &no_body,
            "" => &no_head,
            _ => &gateway,
        };
        let got = raw(&waits.url, bytes.as_bytes()).await;
        let shown: String = bytes.chars().take(120).collect();
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 4"), "{shown:?}: {got}");
        let expected = format!("HTTP/1.1 {status}");
        assert!(
            status.is_empty() || got.starts_with(&expected),
            "{shown:?}: expected {status}: {got}"
        );
    }
    assert_eq!(local.count(), 0, "none of them reached the upstream");
    assert_eq!(ask(&gateway.url, &good).await.body, ANSWER);
}

#[tokio::test]
async fn those_inside_need_not_lift_a_finger_for_what_is_refused_at_the_door() {
    use std::io::{Read, Write};
    let (world, local, gateway) = setup().await;
    let no_head = limited(&world, &local, (SOON, PATIENT.1)).await;
    let good = chat("small", "hello");
    assert_eq!(ask(&gateway.url, &good).await.status, 200);
    let asked = local.count();
    // Until the end of the loop nothing is awaited: this thread, which serves, does not come to it.
    let say = |bytes: &str, and_no_more: bool| {
        let waits = bytes == "POST /v1" && !and_no_more;
        let address = if waits { &no_head.url } else { &gateway.url };
        let address = address.strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let _ = stream.write_all(bytes.as_bytes());
        if and_no_more {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut got = String::new();
        let _ = stream.read_to_string(&mut got);
        got
    };
    let length = |n: u64| head(&format!("content-length: {n}\r\n"));
    for (bytes, no_more, status) in [
        (String::new(), true, ""),
        ("POST /v1".into(), true, ""),
        ("POST /v1".into(), false, ""),
        (length(99_999_999_999) + &"x".repeat(1 << 14), false, "HTTP/1.1 413"),
        (length(100_001), false, "HTTP/1.1 413"),
        (length(5_000) + "{\"model\"", true, "HTTP/1.1 400"),
        (head("transfer-encoding: chunked\r\n") + "zz\r\n\u{1}\u{2}", false, "HTTP/1.1 400"),
        (head("x : 1\r\n") + &good, false, "HTTP/1.1 400"),
        (head(&format!("x: {}\r\n", "a".repeat(50_000))), false, "HTTP/1.1 431"),
        ("\u{16}\u{3}\u{1}".into(), false, "HTTP/1.1 400"),
    ] {
        let got = say(&bytes, no_more);
        let shown: String = bytes.chars().take(120).collect();
        assert_eq!(&got[..got.len().min(12)], status, "{shown:?}: {got}");
        assert_eq!(answers(&got).len(), usize::from(!status.is_empty()), "{shown:?}: {got}");
    }
    assert_eq!(local.count(), asked);
    assert_eq!(ask(&gateway.url, &good).await.body, ANSWER);
    let metrics = crate::common::client::get(&gateway.url, "/metrics").await.body;
    assert!(metrics.contains("cr2fast_refusals_total{code=\"body_too_large\"} 2"), "{metrics}");
}

#[tokio::test]
async fn a_bodys_time_is_its_own_and_not_the_heads_before_it() {
    let world = World::new();
    let local = Stub::answering().await;
    // A head has an hour: whoever waits that long for a body does not end this test.
    let times = "[limits]\nheader_ms = 3600000\nbody_ms = 50\n";
    let gateway = world.start(&(device(&local.url, "http://127.0.0.1:1") + times)).await;
    for bytes in [
        head("content-length: 50\r\n"),
        head("content-length: 50\r\n") + "{\"model\"",
        head("transfer-encoding: chunked\r\n") + "5\r\n{\"mod",
        // So much that it is let in before its end.
        head("content-length: 8000000\r\n") + &"x".repeat(1 << 17),
    ] {
        let got = raw(&gateway.url, bytes.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 408") && got.contains("body_slow"), "{got}");
    }
    assert_eq!(local.count(), 0);
}

#[tokio::test]
async fn a_body_that_waits_to_be_asked_for_is_asked_for() {
    let (_world, _local, gateway) = setup().await;
    let good = chat("small", "hello");
    let url = gateway.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(url).await.unwrap();
    let more =
        format!("expect: 100-continue\r\ncontent-length: {}\r\nconnection: close\r\n", good.len());
    stream.write_all(head(&more).as_bytes()).await.unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(good.as_bytes()).await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with(ANSWER), "{got}");
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

/// Statuses and bodies of all answers that came.
fn answers(got: &str) -> Vec<(u16, String)> {
    // Words of an error name the version, too.
    let marked = got.replace("HTTP/1.1 2", "\u{1}2").replace("HTTP/1.1 4", "\u{1}4");
    let parts = marked.split('\u{1}').skip(1);
    parts
        .map(|part| {
            let body = part.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            (part[..3].parse().unwrap(), body.to_string())
        })
        .collect()
}

#[tokio::test]
async fn a_head_that_two_servers_read_in_two_ways_is_refused_and_the_connection_ends() {
    let (_world, local, gateway) = setup().await;
    let good = chat("small", "hello");
    let long = good.len();
    let next = head(&format!("content-length: {long}\r\n")) + &good;
    let chunked = format!("{long:x}\r\n{good}\r\n0\r\n\r\n");
    let folded = "x: a\r\n b\r\n";
    for (bytes, code) in [
        (head("transfer-encoding: gzip, chunked\r\n") + &chunked, "framing"),
        (head("transfer-encoding: chunked, identity\r\n") + &chunked, "framing"),
        (head("transfer-encoding: xchunked\r\n") + &chunked, "framing"),
        (head("transfer-encoding: identity\r\n") + &good, "framing"),
        (
            head("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n") + &chunked,
            "framing",
        ),
        (
            head("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n") + &chunked,
            "framing",
        ),
        (head("content-length: 4\r\ntransfer-encoding: chunked\r\n") + &chunked, "framing"),
        (head("transfer-encoding: chunked\r\ncontent-length: 4\r\n") + &chunked, "framing"),
        (head(&format!("content-length: {long}\r\ncontent-length: {long}\r\n")) + &good, "framing"),
        (head(&format!("content-length: {long}, {long}\r\n")) + &good, "framing"),
        (head(&format!("content-length: +{long}\r\n")) + &good, "framing"),
        (head(&format!("content-length: 0x{long:x}\r\n")) + &good, "framing"),
        (head("content-length: \r\n") + &good, "framing"),
        (head("content-length: 99999999999999999999999\r\n") + &good, "framing"),
        (head(&format!("content-length: {long}\r\n{folded}")) + &good, "framing"),
        (head(&format!("content-length: {long}\r\n")).replace("\r\n", "\n") + &good, "framing"),
        (head(&format!("content-length: {long}\r\nx: a\n")) + &good, "framing"),
        (head(&format!("content-length: {long}\r\nx: a\rb: c\r\n")) + &good, "framing"),
        (head("transfer-encoding: chunked\r\n").replace("1.1", "1.0") + &chunked, "framing"),
        (head(&format!("content-length : {long}\r\n")) + &good, "head"),
        (head(&format!("content-length\t: {long}\r\n")) + &good, "head"),
        (head(&format!("content-length: {long}\r\nhost: b\r\n")) + &good, "head"),
        (head(&format!("content-length: {long}\r\nx: a\u{0}b\r\n")) + &good, "head"),
        ("\u{16}\u{3}\u{1}".into(), "head"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "head"),
        (format!("POST http://[::1 {CHAT} HTTP/1.1\r\n\r\n"), "head"),
    ] {
        let got = raw(&gateway.url, (bytes.clone() + &next).as_bytes()).await;
        let all = answers(&got);
        assert_eq!((all.len(), all[0].0), (1, 400), "{bytes:?}: {got}");
        let error: serde_json::Value = serde_json::from_str(&all[0].1).unwrap();
        assert_eq!(error["error"]["code"], code, "{bytes:?}: {got}");
        assert!(got.to_ascii_lowercase().contains("connection: close"), "{got}");
        // What came before a bad head is answered.
        let got = raw(&gateway.url, ("\r\n".to_string() + &next + &bytes).as_bytes()).await;
        let statuses: Vec<u16> = answers(&got).iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [200, 400], "{bytes:?}: {got}");
    }
    let asked = local.count();
    let extra =
        raw(&gateway.url, (head("transfer-encoding: chunked\r\n") + "5 \n").as_bytes()).await;
    assert!(answers(&extra).iter().all(|(status, _)| *status == 400), "{extra}");
    assert_eq!(local.count(), asked);
    let metrics = crate::common::client::get(&gateway.url, "/metrics").await.body;
    assert!(metrics.contains("cr2fast_refusals_total{code=\"framing\"}"), "{metrics}");
    // The path that stands for a bad head is nobody's.
    let reply = post(&gateway.url, "/cr2fast-refused", "{}", &[]).await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn a_head_is_as_long_as_the_file_says_to_the_byte() {
    let (_world, _local, gateway) = setup().await;
    let of = |bytes: usize| {
        let (start, end) =
            ("GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: ", "\r\n\r\n");
        format!("{start}{}{end}", "a".repeat(bytes - start.len() - end.len()))
    };
    for (bytes, status) in [(8192, 200), (8193, 431), (9000, 431), (16_000, 431), (500_000, 431)] {
        let got = raw(&gateway.url, of(bytes).as_bytes()).await;
        let all = answers(&got);
        assert_eq!((all.len(), all[0].0), (1, status), "{bytes}: {got}");
        if status == 431 {
            let error: serde_json::Value = serde_json::from_str(&all[0].1).unwrap();
            assert_eq!(error["error"]["code"], "head_too_large");
            assert!(got.contains("limits.header_bytes") && got.contains("8192"), "{got}");
        }
    }
    let fields = |n: usize| head(&"x: 1\r\n".repeat(n)).replace("POST", "GET");
    let got = raw(&gateway.url, fields(200).as_bytes()).await;
    assert_eq!(answers(&got)[0].0, 431);
    assert!(answers(&got)[0].1.contains("at most 128 header fields"), "{got}");
}

#[tokio::test]
async fn requests_one_behind_the_other_are_all_answered_however_they_are_cut() {
    let (_world, local, gateway) = setup().await;
    let good = chat("small", "hello");
    let long = good.len();
    let framed = head(&format!("content-length: {long}\r\n")) + &good;
    let (a, b) = good.split_at(long / 2);
    let chunked = head("transfer-encoding: Chunked\r\n")
        + &format!("{:X};x=y\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\nt: u\r\n\r\n", a.len(), b.len());
    let last = "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let all = [&framed, &chunked, "\r\n", &chunked, &framed, last].concat();
    let mut rng = Rng::new(23);
    for round in 1..=30 {
        let url = gateway.url.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(url).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut read, mut write) = stream.into_split();
        let bytes = all.clone().into_bytes();
        let mut cuts: Vec<usize> =
            (0..round).map(|_| rng.below(bytes.len() as u64) as usize).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let writing = tokio::spawn(async move {
            let mut from = 0;
            for cut in cuts {
                write.write_all(&bytes[from..cut]).await.unwrap();
                from = cut;
                tokio::task::yield_now().await;
            }
            write
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        let got = String::from_utf8(got).unwrap();
        let statuses: Vec<u16> = answers(&got).iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [200; 5], "{got}");
        drop(writing.await.unwrap());
        assert_eq!(local.count(), 4 * round as usize);
    }
    assert!(
        local
            .seen()
            .iter()
            .all(|seen| seen.body == good.replace("\"small\"", "\"tiny.gguf\"").as_bytes())
    );
}
