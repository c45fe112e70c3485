//! `nodes/proxy`, `pods/proxy`, `services/proxy`: requests passed on to a kubelet, a pod or a Service's endpoint.
//!
//! Upstream: apimachinery/pkg/util/proxy

use api::lister::Lister;
use api::status::Status;
use http::header::{CONNECTION, HOST, LOCATION, UPGRADE};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use serde_json::Value;

use super::connect::{forwarded, join};
use super::location::kubelet;
use crate::body::Body;
use crate::call::{Call, Response};
use crate::reply;

/// Where a proxied request goes.
struct Target {
    tls: bool,
    host: String,
    port: u16,
    kubelet: bool,
}

/// Passes the request on.
///
/// # Errors
/// 404, 503 where there is no backend.
pub async fn proxy(call: &mut Call) -> Result<Response, Status> {
    call.served.caches.ready().await?;
    call.served.caches.fresh().await?;
    let target = target(call)?;
    // A proxied root needs its slash, for relative links in pages.
    if call.info.rest.is_empty() && !call.info.path.ends_with('/') && call.method == http::Method::GET {
        let mut response = reply::raw(301, "text/html", bytes::Bytes::new());
        if let Ok(location) = HeaderValue::from_str(&format!("{}/", call.info.path)) {
            response.headers_mut().insert(LOCATION, location);
        }
        return Ok(response);
    }
    let marker = "/proxy/";
    let rest = call.info.path.split_once(marker).map_or("", |(_, rest)| rest);
    let mut path = format!("/{rest}");
    if !call.query.0.is_empty() {
        let pairs: Vec<String> = call
            .query
            .0
            .iter()
            .map(|(key, value)| format!("{}={}", super::location::encode(key), super::location::encode(value)))
            .collect();
        path.push('?');
        path.push_str(&pairs.join("&"));
    }
    let client = call.upgrade.take();
    let mut request = Request::builder().method(call.method.clone()).uri(&path);
    if let Some(headers) = request.headers_mut() {
        *headers = forwarded(&call.headers);
        if client.is_some() {
            for name in [CONNECTION, UPGRADE] {
                if let Some(value) = call.headers.get(&name) {
                    headers.insert(name, value.clone());
                }
            }
        }
        if let Ok(host) = format!("{}:{}", target.host, target.port).parse() {
            headers.insert(HOST, host);
        }
    }
    let body = match call.body.take() {
        Some(body) if client.is_none() => body.boxed(),
        _ => Empty::new().map_err(|never| match never {}).boxed(),
    };
    let request = request.body(body).map_err(Status::internal)?;
    let kubelets = &call.server.kubelets;
    let sent = if target.kubelet {
        kubelets.send(&target.host, target.port, request).await
    } else {
        kubelets.send_to_workload(&target.host, target.port, target.tls, request).await
    };
    let mut response =
        sent.map_err(|error| Status::new(503, "ServiceUnavailable", format!("error trying to reach service: {error}")))?;
    if let Some(client) = client {
        join(client, &mut response, call.server.tasks.token())?;
    }
    let (parts, body) = response.into_parts();
    let mut out =
        http::Response::new(if parts.status == StatusCode::SWITCHING_PROTOCOLS { Body::empty() } else { Body::Proxied(body) });
    *out.status_mut() = parts.status;
    let mut headers = parts.headers;
    headers.remove("transfer-encoding");
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        headers.remove(CONNECTION);
    }
    *out.headers_mut() = headers;
    Ok(out)
}

/// `[scheme:]name[:port]`
fn split(text: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => ("", text, ""),
    }
}

fn target(call: &Call) -> Result<Target, Status> {
    let (scheme, name, port) = split(&call.info.name);
    let caches = &call.server.caches;
    let namespace = &call.info.namespace;
    let unavailable = |why: String| Status::new(503, "ServiceUnavailable", why);
    match call.served.plural() {
        "nodes" => {
            let found = kubelet(call, name)?;
            let port = if port.is_empty() {
                found.port
            } else {
                port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))?
            };
            Ok(Target { tls: true, host: found.host, port, kubelet: true })
        }
        "pods" => {
            let pod = caches.get("", "pods", namespace, name).ok_or_else(|| Status::not_found("", "pods", name))?;
            let ip = pod.pointer("/status/podIP").and_then(Value::as_str).unwrap_or("");
            if ip.is_empty() {
                return Err(Status::bad_request("address not allowed"));
            }
            let first = || {
                let containers = pod.pointer("/spec/containers")?.as_array()?;
                containers.iter().find_map(|container| container["ports"].get(0)?["containerPort"].as_u64())
            };
            let port = match port.parse::<u16>() {
                Ok(port) => port,
                Err(_) => first().and_then(|port| u16::try_from(port).ok()).unwrap_or(80),
            };
            Ok(Target { tls: scheme == "https", host: ip.to_owned(), port, kubelet: false })
        }
        _ => {
            let service = caches.get("", "services", namespace, name).ok_or_else(|| Status::not_found("", "services", name))?;
            let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
            let wanted = ports.iter().find(|row| {
                port.is_empty() && ports.len() == 1
                    || row["name"] == port
                    || row["port"].as_u64().is_some_and(|number| number.to_string() == port)
            });
            let Some(wanted) = wanted else {
                return Err(unavailable(format!("no service port {port:?} found for service {name:?}")));
            };
            let port_name = wanted["name"].as_str().unwrap_or("");
            let slices = caches.list("discovery.k8s.io", "endpointslices", Some(namespace));
            let of_service = slices.iter().filter(|slice| {
                slice.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str) == Some(name)
            });
            let mut any = false;
            for slice in of_service {
                any = true;
                let rows = slice["ports"].as_array().cloned().unwrap_or_default();
                let Some(number) =
                    rows.iter().find(|row| row["name"].as_str().unwrap_or("") == port_name).and_then(|row| row["port"].as_u64())
                else {
                    continue;
                };
                let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
                let ready: Vec<&Value> = endpoints
                    .iter()
                    .filter(|endpoint| endpoint.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false))
                    .collect();
                if ready.is_empty() {
                    continue;
                }
                let at = usize::try_from(call.now.as_microsecond()).unwrap_or(0) % ready.len();
                if let (Some(host), Ok(port)) = (ready[at]["addresses"][0].as_str(), u16::try_from(number)) {
                    return Ok(Target { tls: scheme == "https", host: host.to_owned(), port, kubelet: false });
                }
            }
            if !any {
                return Err(Status::not_found("", "services", name));
            }
            Err(unavailable(format!("no endpoints available for service {name:?}")))
        }
    }
}
