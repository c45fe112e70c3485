//! `componentstatuses`: deprecated, made up on each read from the health of etcd and of the local scheduler and controller manager.
//!
//! Upstream: pkg/registry/core/componentstatus

use api::status::Status;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};

use crate::call::{Call, Response, not_allowed};
use crate::negotiate::{Accept, Offers, Shape};
use crate::reply;
use crate::tabular;

/// The components asked over HTTPS on this host: name and port.
const LOCAL: [(&str, u16); 2] = [("scheduler", 10259), ("controller-manager", 10257)];

/// Answers `get` and `list`.
///
/// # Errors
/// 404, 405.
pub async fn read(call: &mut Call) -> Result<Response, Status> {
    call.warnings.push("v1 ComponentStatus is deprecated in v1.19+".to_owned());
    match call.info.verb.as_str() {
        "get" => {
            let all = all(call).await;
            let found = all.into_iter().find(|status| status["metadata"]["name"] == call.info.name.as_str());
            reply::object(call, 200, found.ok_or_else(|| call.not_found())?)
        }
        "list" => {
            let accept = call.accept(Offers::Lists)?;
            let items = all(call).await;
            let out = if let Shape::Table(beta) = accept.shape {
                let include = tabular::include(call)?;
                let row = |item: &Value| tabular::row_of(&call.served, include, item, item, call.unix());
                let mut table = tabular::head(&call.served, tabular::version(beta), json!({}), true);
                table["rows"] = items.iter().map(row).collect();
                table
            } else {
                json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items})
            };
            Ok(reply::tree(200, &out, Accept { shape: Shape::Object, ..accept }))
        }
        _ => Err(not_allowed()),
    }
}

async fn all(call: &Call) -> Vec<Value> {
    let mut out = Vec::new();
    for (name, port) in LOCAL {
        out.push(status(name, ask(call, port).await));
    }
    out.push(status(
        "etcd-0",
        call.server.caches.storage.current_revision().await.map(|_| ()).map_err(|error| error.to_string()),
    ));
    out.sort_by(|a, b| a["metadata"]["name"].as_str().cmp(&b["metadata"]["name"].as_str()));
    out
}

fn status(name: &str, result: Result<(), String>) -> Value {
    let condition = match result {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "message": "", "error": why}),
    };
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
}

async fn ask(call: &Call, port: u16) -> Result<(), String> {
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed();
    let request = Request::get("/healthz").header("host", "127.0.0.1").body(body).map_err(|error| error.to_string())?;
    let response = call.server.kubelets.send_to_workload("127.0.0.1", port, true, request).await;
    let response = response.map_err(|error| format!("Get \"https://127.0.0.1:{port}/healthz\": {error}"))?;
    if response.status().is_success() {
        Ok(())
    } else {
        Err(format!("unhealthy http status code: {}", response.status().as_u16()))
    }
}
