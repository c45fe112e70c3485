//! `pods/log`: the kubelet's answer, passed through.

use api::status::Status;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Empty};

use super::location::{container, encode, kubelet, node_of, pod};
use crate::body::Body;
use crate::call::{Call, Response};
use crate::metadata;

/// Parameters that the kubelet understands.
const PASSED: &[&str] = &[
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
    "insecureSkipTLSVerifyBackend",
];

/// Streams a container's log.
///
/// # Errors
/// 400, 404, 500, and what the kubelet says.
pub(super) async fn get(call: &mut Call) -> Result<Response, Status> {
    let pod = pod(call).await?;
    let container = container(&pod, call.query.get("container"))?;
    let Some(node) = node_of(&pod).ok() else {
        // Not scheduled yet: upstream answers with an empty log.
        return Ok(crate::reply::raw(200, "text/plain", Bytes::new()));
    };
    let kubelet = kubelet(call, node)?;
    let query: Vec<String> =
        PASSED.iter().filter(|key| call.query.has(key)).map(|key| format!("{key}={}", encode(call.query.get(key)))).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let path = format!("/containerLogs/{}/{}/{}{query}", metadata::namespace(&pod), metadata::name(&pod), encode(&container));
    let request = Request::builder()
        .method(Method::GET)
        .uri(&path)
        .header(http::header::HOST, format!("{}:{}", kubelet.host, kubelet.port))
        .body(Empty::<Bytes>::new().map_err(|never| match never {}).boxed())
        .map_err(Status::internal)?;
    let reach = |error: String| Status::internal(format!("Get \"https://{}:{}{path}\": {error}", kubelet.host, kubelet.port));
    let response = call.server.kubelets.send(&kubelet.host, kubelet.port, request).await.map_err(reach)?;
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        let text = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        return Err(refusal(parts.status.as_u16(), &String::from_utf8_lossy(&text)));
    }
    let mut out = http::Response::new(Body::Proxied(body));
    out.headers_mut()
        .insert(CONTENT_TYPE, parts.headers.get(CONTENT_TYPE).cloned().unwrap_or(HeaderValue::from_static("text/plain")));
    Ok(out)
}

/// The kubelet's refusal as a Status.
fn refusal(code: u16, text: &str) -> Status {
    let text = text.trim().to_owned();
    match code {
        400 => Status::bad_request(text),
        401 => Status::new(401, "Unauthorized", text),
        403 => Status::new(403, "Forbidden", text),
        404 => Status::new(404, "NotFound", format!("the server could not find the requested resource ( {text})")),
        _ => Status::new(
            500,
            "InternalError",
            format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ),
    }
}
