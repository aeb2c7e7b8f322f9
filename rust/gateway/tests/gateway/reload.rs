//! A new router while requests come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::client::{ask, chat, get, post};
use crate::common::stub::{ANSWER, Stub};
use crate::common::{ADMIN_TOKEN, CLIENT_TOKEN, World, edge, router};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_notices_and_a_bad_router_is_refused() {
    let world = World::new();
    let (medium, large) = (Stub::answering().await, Stub::answering().await);
    let text = edge(&[("medium", &medium.url), ("large", &large.url)]);
    let text = text.replace("device_token_env = \"DEVICE_TOKEN\"", "");
    let file = world.folder.join("gateway.toml");
    std::fs::write(&file, &text).unwrap();
    let gateway = world.start(&text).await;
    let old = gateway.app.router_hash();
    let going = Arc::new(AtomicBool::new(true));
    let (url, on) = (gateway.url.clone(), Arc::clone(&going));
    let load = tokio::spawn(async move {
        let mut n = 0;
        while on.load(Ordering::Relaxed) {
            let reply = ask(&url, &chat("cr2fast", "hello")).await;
            assert_eq!((reply.status, reply.body.as_str()), (200, ANSWER));
            n += 1;
        }
        n
    });
    let reload = || {
        let app = Arc::clone(&gateway.app);
        async move { tokio::task::spawn_blocking(move || app.reload()).await.unwrap() }
    };
    let path = world.folder.join("router.safetensors");
    let good = std::fs::read(&path).unwrap();
    for i in 0..100_u8 {
        router(world.encoder.info(), f32::from(i % 2)).save(&path).unwrap();
        let hash = reload().await.unwrap();
        assert_eq!(hash == old, i % 2 == 0);
        assert_eq!(gateway.app.router_hash(), hash);
    }
    let now = gateway.app.router_hash();
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    for (bytes, words) in [
        (&forged[..], "router.path: artifact"),
        (&good[..good.len() / 2], "router.path: artifact"),
        (b"", "router.path: artifact"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let e = reload().await.unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
        assert_eq!(gateway.app.router_hash(), now);
    }
    let other = crate::common::encoder(2);
    router(other.info(), 0.0).save(&path).unwrap();
    assert!(reload().await.unwrap_err().to_string().contains("fitted on embeddings"));
    std::fs::write(&path, &good).unwrap();
    std::fs::write(&file, text.replace("alpha = 0.05", "alpha = 0.5")).unwrap();
    assert!(reload().await.unwrap_err().to_string().contains("gateway.toml:7:"));
    std::fs::write(&file, "not toml").unwrap();
    assert!(reload().await.unwrap_err().to_string().contains("gateway.toml:1:"));
    assert_eq!(gateway.app.router_hash(), now);
    going.store(false, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0);
}

#[tokio::test]
async fn a_call_reloads_with_the_administrators_token_and_with_no_other() {
    let world = World::new();
    let medium = Stub::answering().await;
    let text = edge(&[("medium", &medium.url)]).replace("device_token_env = \"DEVICE_TOKEN\"", "");
    // Tokens come from the process's environment at a reload, so the file there names none.
    std::fs::write(world.folder.join("gateway.toml"), &text).unwrap();
    let tokens = "token_env = \"CLIENT_TOKEN\"\nadmin_token_env = \"CR2FAST_ADMIN_TOKEN\"\n";
    let gateway = world.start(&(text.clone() + tokens)).await;
    let old = gateway.app.router_hash();
    let path = world.folder.join("router.safetensors");
    router(world.encoder.info(), 1.0).save(&path).unwrap();
    let call = async |token: &str| {
        let bearer = format!("Bearer {token}");
        post(&gateway.url, "/v1/reload", "{}", &[("authorization", &bearer)]).await
    };
    for token in [CLIENT_TOKEN, "other", ""] {
        let reply = call(token).await;
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, "Bearer"));
        assert!(!reply.body.contains(ADMIN_TOKEN));
    }
    assert_eq!(post(&gateway.url, "/v1/reload", "{}", &[]).await.status, 401);
    assert_eq!(get(&gateway.url, "/v1/reload").await.status, 405);
    assert_eq!(gateway.app.router_hash(), old);
    let reply = call(ADMIN_TOKEN).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let new = gateway.app.router_hash();
    assert_eq!(reply.json()["router"], new.as_str());
    assert_ne!(new, old);
    std::fs::write(&path, "no router").unwrap();
    let reply = call(ADMIN_TOKEN).await;
    assert_eq!(reply.status, 422);
    assert!(reply.error().contains("the old router stays"), "{}", reply.error());
    assert_eq!(gateway.app.router_hash(), new);
    router(world.encoder.info(), 1.0).save(&path).unwrap();
    let closed = world.start(&text).await;
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let reply = post(&closed.url, "/v1/reload", "{}", &[("authorization", &bearer)]).await;
    assert_eq!(reply.status, 403);
    assert!(reply.error().contains("access.admin_token_env"), "{}", reply.error());
}
