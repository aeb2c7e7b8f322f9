//! A client of the gateway.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

pub const CHAT: &str = "/v1/chat/completions";

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub fn error(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_string()
    }

    /// place, model, why.
    pub fn place(&self) -> (&str, &str, &str) {
        (
            self.header("x-cr2fast-place"),
            self.header("x-cr2fast-model"),
            self.header("x-cr2fast-why"),
        )
    }
}

pub fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The response's head as soon as it is there.
pub async fn send(
    url: &str,
    path: &str,
    body: impl Into<Bytes>,
    headers: &[(&str, &str)],
) -> Response<Incoming> {
    let body = body.into();
    let method = if body.is_empty() { "GET" } else { "POST" };
    let mut request = Request::builder().method(method).uri(format!("{url}{path}"));
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    client().request(request.body(Full::new(body)).unwrap()).await.unwrap()
}

pub async fn read(response: Response<Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(bytes.to_vec()).unwrap();
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}

pub async fn post(url: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Reply {
    read(send(url, path, body.to_string(), headers).await).await
}

pub async fn get(url: &str, path: &str) -> Reply {
    read(send(url, path, "", &[]).await).await
}

/// A chat of one turn.
pub fn chat(model: &str, text: &str) -> String {
    serde_json::json!({"model": model, "messages": [{"role": "user", "content": text}]}).to_string()
}

/// The same, streamed.
pub fn streamed(model: &str, text: &str) -> String {
    let messages = serde_json::json!([{"role": "user", "content": text}]);
    serde_json::json!({"model": model, "stream": true, "messages": messages}).to_string()
}

pub async fn ask(url: &str, body: &str) -> Reply {
    post(url, CHAT, body, &[]).await
}
