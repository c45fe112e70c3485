//! `pods/exec`, `attach`, `portforward`: the client's upgraded connection joined with one to the kubelet.
//!
//! Bytes are passed through, so both ends speak the protocol that the client chose (WebSocket or SPDY/3.1). Where the kubelet does not
//! speak it, it says so and the client falls back.

use api::status::Status;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use super::location::{Kubelet, container, encode, kubelet, node_of, pod};
use crate::body::Body;
use crate::call::{Call, Response};
use crate::metadata;

/// Joins the client with the kubelet.
///
/// # Errors
/// 400 where the request is no upgrade; 404; 500 where the kubelet is away.
pub(super) async fn connect(call: &mut Call) -> Result<Response, Status> {
    let pod = pod(call).await?;
    let (namespace, name) = (metadata::namespace(&pod).to_owned(), metadata::name(&pod).to_owned());
    let query = &call.query;
    let sub = call.info.subresource.as_str();
    let path = if sub == "portforward" {
        let ports: Vec<String> = query.all("ports").iter().map(|port| format!("ports={}", encode(port))).collect();
        format!("/portForward/{namespace}/{name}?{}", ports.join("&"))
    } else {
        let container = container(&pod, query.get("container"))?;
        let mut parts = Vec::new();
        for (ours, kubelets) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
            if query.flag(ours) {
                parts.push(format!("{kubelets}=1"));
            }
        }
        parts.extend(query.all("command").iter().map(|command| format!("command={}", encode(command))));
        format!("/{sub}/{namespace}/{name}/{}?{}", encode(&container), parts.join("&"))
    };
    let kubelet = kubelet(call, node_of(&pod)?)?;
    let served = call.served.clone();
    let options = super::binding::no_options();
    let server = call.server.clone();
    server.validate(call, &served, admission::Operation::Connect, &serde_json::Value::Null, None, &options).await?;
    upgrade(call, &kubelet, &path).await
}

/// Headers that end at each hop.
const HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

/// Copies headers that may travel further.
pub(super) fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let hop = |name: &HeaderName| HOP.contains(&name.as_str());
    headers.iter().filter(|(name, _)| !hop(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Upgrades both sides and copies until either ends.
async fn upgrade(call: &mut Call, kubelet: &Kubelet, path: &str) -> Result<Response, Status> {
    let Some(client) = call.upgrade.take() else { return Err(Status::bad_request("Upgrade request required")) };
    let mut request = Request::builder().method(call.method.clone()).uri(path);
    if let Some(headers) = request.headers_mut() {
        *headers = forwarded(&call.headers);
        for name in [CONNECTION, UPGRADE] {
            if let Some(value) = call.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        if let Ok(host) = format!("{}:{}", kubelet.host, kubelet.port).parse() {
            headers.insert(HOST, host);
        }
    }
    let request = request.body(Empty::<Bytes>::new().map_err(|never| match never {}).boxed()).map_err(Status::internal)?;
    let reach = |error: String| Status::internal(format!("error dialing backend: {error}"));
    let mut response = call.server.kubelets.send(&kubelet.host, kubelet.port, request).await.map_err(reach)?;
    join(client, &mut response, call.server.tasks.token())?;
    let (parts, body) = response.into_parts();
    let mut out =
        http::Response::new(if parts.status == StatusCode::SWITCHING_PROTOCOLS { Body::empty() } else { Body::Proxied(body) });
    *out.status_mut() = parts.status;
    *out.headers_mut() = parts.headers;
    Ok(out)
}

/// Starts the copying where the backend agreed to switch protocols.
pub(super) fn join(
    client: hyper::upgrade::OnUpgrade,
    response: &mut http::Response<hyper::body::Incoming>,
    stop: tokio_util::sync::CancellationToken,
) -> Result<(), Status> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    let backend = hyper::upgrade::on(response);
    // Bounded by the two connections: it ends when either does.
    tokio::spawn(async move {
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(err = %error, "An upgrade was not completed");
                return;
            }
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        tokio::select! {
            result = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, 32 * 1024, 32 * 1024) => {
                if let Err(error) = result {
                    tracing::debug!(err = %error, "A streaming connection ended");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    Ok(())
}
