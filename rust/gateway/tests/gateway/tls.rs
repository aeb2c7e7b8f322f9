//! TLS to upstreams and to clients, with an authority of the tests' own.

use std::sync::Arc;

use crate::common::client::{ask, chat, get};
use crate::common::stub::{ANSWER, Stub};
use crate::common::tls::{Authority, before};
use crate::common::{World, device, edge};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

/// What trusts the world's authority.
fn trusting(world: &World) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.folder.join("ca.pem")).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// What a client of the world's authority reads of `/healthz`, and the certificate that it was shown.
async fn healthz(world: &World, address: &str) -> std::io::Result<(String, Vec<u8>)> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(trusting(world))).connect(name, stream).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((answer, shown))
}

#[tokio::test]
async fn an_upstream_over_tls_is_believed_with_its_authority_and_not_without() {
    let world = World::new();
    let authority = Authority::new(&world.folder);
    let (cert, key) = (world.folder.join("edge.pem"), world.folder.join("edge.key"));
    let (local, edge) = (Stub::answering().await, Stub::answering().await);
    let (_, deferred) = world.texts();
    authority.issue("127.0.0.1", &cert, &key);
    let url = before(&edge.url, &cert, &key).await;
    let trusting = device(&local.url, &url) + "[tls]\nca = \"ca.pem\"\n";
    let gateway = world.start(&trusting).await;
    let reply = ask(&gateway.url, &chat("cr2fast", &deferred)).await;
    assert_eq!((reply.status, reply.place().0, reply.place().2), (200, "edge", "deferred"));
    assert_eq!(reply.body, ANSWER);
    assert_eq!(edge.count(), 1);

    // Another authority's word, another host's certificate, and a server that speaks no TLS.
    authority.issue("example.org", &cert, &key);
    let other_host = before(&edge.url, &cert, &key).await;
    let no_tls = gateway.url.replace("http:", "https:");
    for (text, failure) in [
        (device(&local.url, &url), "untrusted"),
        (trusting.replace(&url, &other_host), "untrusted"),
        (trusting.replace(&url, &no_tls), "untrusted"),
        (trusting.replace(&url, "https://127.0.0.1:1"), "unreachable"),
    ] {
        let gateway = world.start(&text).await;
        let reply = ask(&gateway.url, &chat("cr2fast", &deferred)).await;
        assert_eq!((reply.status, reply.place()), (200, ("device", "small", "edge-down")));
        let metrics = get(&gateway.url, "/metrics").await.body;
        let line = format!("upstream=\"edge\",failure=\"{failure}\"}} 1");
        assert!(metrics.contains(&line), "{text}{metrics}");
        let reply = ask(&gateway.url, &chat("large", &deferred)).await;
        assert_eq!(reply.status, 502);
        let words = if failure == "untrusted" { "tls.ca" } else { "no connection" };
        assert!(reply.error().contains(words), "{}", reply.error());
    }
    assert_eq!(edge.count(), 1);
}

#[tokio::test]
async fn clients_are_served_over_tls_and_a_reload_takes_a_new_certificate() {
    let world = World::new();
    let authority = Authority::new(&world.folder);
    let (cert, key) = (world.folder.join("edge.pem"), world.folder.join("edge.key"));
    authority.issue("127.0.0.1", &cert, &key);
    let upstream = Stub::answering().await;
    let text = edge(&[("medium", &upstream.url)])
        .replace("device_token_env = \"DEVICE_TOKEN\"", "")
        + "[tls]\ncert = \"edge.pem\"\nkey = \"edge.key\"\n[limits]\nheader_ms = 200\n";
    let file = world.folder.join("gateway.toml");
    std::fs::write(&file, &text).unwrap();
    let gateway = world.start(&text).await;
    let address = gateway.url.strip_prefix("http://").unwrap();
    let (answer, first) = healthz(&world, address).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    // Plain HTTP, and a hand that is never shaken, end; nobody else notices.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    for stream in [&mut plain, &mut silent] {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
    let reload = || {
        let app = Arc::clone(&gateway.app);
        async move { tokio::task::spawn_blocking(move || app.reload()).await.unwrap() }
    };
    authority.issue("127.0.0.1", &cert, &key);
    assert_eq!(healthz(&world, address).await.unwrap().1, first);
    reload().await.unwrap();
    let (_, second) = healthz(&world, address).await.unwrap();
    assert_ne!(second, first);
    // A key of another certificate is refused, and the old pair stays.
    authority.issue("127.0.0.1", &world.folder.join("other.pem"), &key);
    let error = reload().await.unwrap_err().to_string();
    assert!(error.contains("tls.key: expected the key of tls.cert"), "{error}");
    assert_eq!(healthz(&world, address).await.unwrap().1, second);
    std::fs::write(
        &file,
        text.replace("[tls]", "[tls] # none").replace("cert =", "# ").replace("key =", "# "),
    )
    .unwrap();
    let error = reload().await.unwrap_err().to_string();
    assert!(error.contains("takes a restart"), "{error}");
}

#[test]
fn a_token_that_others_can_read_on_its_way_is_warned_of() {
    let world = World::new();
    let warnings = |edge: &str| {
        let config = world.config(&device("http://127.0.0.1:1", edge)).unwrap();
        cr2fast_gateway::App::warnings(&config)
    };
    assert_eq!(
        warnings("http://10.0.0.1:8090"),
        ["the token for edge goes unencrypted to http://10.0.0.1:8090"]
    );
    for good in
        ["https://10.0.0.1:8090", "http://localhost:1", "http://[::1]:1", "http://127.0.0.9"]
    {
        assert_eq!(warnings(good), [""; 0], "{good}");
    }
}

#[tokio::test]
async fn hands_are_shaken_and_first_words_refused_while_those_inside_are_busy() {
    use std::io::{Read, Write};
    let world = World::new();
    let authority = Authority::new(&world.folder);
    authority.issue("127.0.0.1", &world.folder.join("own.pem"), &world.folder.join("own.key"));
    let local = Stub::answering().await;
    let text =
        device(&local.url, "http://127.0.0.1:1") + "[tls]\ncert = \"own.pem\"\nkey = \"own.key\"\n";
    let gateway = world.start(&text).await;
    let address = gateway.url.strip_prefix("http://").unwrap();
    healthz(&world, address).await.unwrap();
    let config = Arc::new(trusting(&world));
    let name = || ServerName::try_from("127.0.0.1").unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n";
    // Until the end of the loop nothing is awaited: this thread, which serves, does not come to it.
    for (bytes, status) in [
        (format!("{head}content-length: 99999999999\r\n\r\n"), "HTTP/1.1 413"),
        (format!("{head}content-length: 1\r\ncontent-length: 2\r\n\r\n"), "HTTP/1.1 400"),
        ("\u{1}\u{2}".into(), "HTTP/1.1 400"),
    ] {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let mut session = ClientConnection::new(Arc::clone(&config), name()).unwrap();
        session.complete_io(&mut socket).unwrap();
        assert!(!session.is_handshaking());
        let mut stream = Stream::new(&mut session, &mut socket);
        stream.write_all(bytes.as_bytes()).unwrap();
        let mut got = [0; 12];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(std::str::from_utf8(&got).unwrap(), status);
    }
    let (answer, _) = healthz(&world, address).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
