//! `metrics.k8s.io/v1beta1`: what `kubectl top` and the autoscaler read, served by the API server itself.
//!
//! Nothing is collected while nobody asks. A request asks the kubelets it concerns for `/metrics/resource`, compares their counters
//! with those of the request before, and answers with the rate between the two ([`scrape`]); the first one waits a second for its
//! second reading. Other requests within [`scrape::FRESH`] share the answer.
//!
//! On where the APIService `v1beta1.metrics.k8s.io` is a local one ([`is_on`]); `rkadm` makes it (manifests/addons/metrics.yaml).
//!
//! Upstream: kubernetes-sigs/metrics-server, which is an add-on behind the aggregator; names, units and columns are its.

pub mod rate;
pub mod scrape;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::discovery::{Group, Resource, Version};
use api::lister::Lister;
use api::selector::{FieldSelector, LabelSelector};
use api::status::Status;
use futures::StreamExt;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::call::{Response, no_such_resource, not_allowed};
use crate::negotiate::{self, Accept, Encoding, Offers, Shape};
use crate::reply;
use crate::request_info::{Query, RequestInfo};
use crate::server::Server;
use crate::tabular;
use rate::{Rates, Usage};

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its only version.
pub const VERSION: &str = "v1beta1";
/// Kubelets asked at once: enough to hide one slow node, few enough not to disturb other requests.
const PARALLEL: usize = 32;

/// The group as discovery shows it.
pub fn group() -> Group {
    let resource = |plural: &'static str, kind: &'static str, namespaced| Resource {
        plural: plural.into(),
        kind: kind.into(),
        namespaced,
        verbs: vec!["get".into(), "list".into()],
        ..Default::default()
    };
    let resources = vec![resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)];
    Group { name: GROUP.into(), versions: vec![Version { name: VERSION.into(), resources }] }
}

/// Whether the cluster wants the API server to answer: there is an APIService for the group that names no service, as for every
/// local group. With one that names a service, the group is that one's.
pub fn is_on(server: &Server) -> bool {
    let service = server.caches.get("apiregistration.k8s.io", "apiservices", "", "v1beta1.metrics.k8s.io");
    service.is_some_and(|service| service.pointer("/spec/service").is_none_or(Value::is_null))
}

/// Answers a request to the group.
///
/// # Errors
/// 404, 405, 400 for bad selectors.
pub async fn answer(server: &Arc<Server>, headers: &HeaderMap, info: &RequestInfo, query: &Query) -> Result<Response, Status> {
    if !info.subresource.is_empty() || !info.rest.is_empty() {
        return Err(no_such_resource());
    }
    let pods = match (info.resource.as_str(), info.namespace.is_empty()) {
        ("nodes", true) => false,
        ("pods", in_all) if !in_all || info.name.is_empty() => true,
        _ => return Err(no_such_resource()),
    };
    let one = match info.verb.as_str() {
        "get" if !query.flag("watch") => true,
        "list" => false,
        _ => return Err(not_allowed()),
    };
    let mut accept = negotiate::accept(headers, if one { Offers::All } else { Offers::Lists })?;
    if accept.encoding == Encoding::Protobuf {
        accept.encoding = Encoding::Json;
    }
    server.caches.ready().await?;
    server.caches.fresh().await?;
    let invalid = |why: String| Status::bad_request(why);
    let labels = LabelSelector::parse(query.get("labelSelector")).map_err(invalid)?;
    let fields = FieldSelector::parse(query.get("fieldSelector")).map_err(invalid)?;
    let wanted = |object: &Value| {
        (info.name.is_empty() || object["metadata"]["name"] == info.name.as_str())
            && labels.matches_object(object)
            && fields.matches(|field| match field {
                "metadata.name" => text(object, "/metadata/name").to_owned(),
                "metadata.namespace" => text(object, "/metadata/namespace").to_owned(),
                "spec.nodeName" => text(object, "/spec/nodeName").to_owned(),
                "status.phase" => text(object, "/status/phase").to_owned(),
                _ => String::new(),
            })
    };
    let items = if pods { of_pods(server, &info.namespace, wanted).await } else { of_nodes(server, wanted).await };
    if one {
        let Some(item) = items.into_iter().next() else {
            let name = if pods { format!("{}/{}", info.namespace, info.name) } else { info.name.clone() };
            return Err(Status::not_found(GROUP, if pods { "podmetrics" } else { "nodemetrics" }, &name));
        };
        return Ok(shaped(item, accept, query));
    }
    Ok(shaped_list(items, pods, accept, query))
}

async fn of_nodes(server: &Arc<Server>, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let nodes: Vec<Arc<Value>> = server.caches.list("", "nodes", None).into_iter().filter(|node| wanted(node)).collect();
    let names = nodes.iter().map(|node| text(node, "/metadata/name").to_owned()).collect();
    let rates = all_rates(server, names).await;
    nodes.iter().filter_map(|node| node_metrics(node, rates.get(text(node, "/metadata/name"))?)).collect()
}

async fn of_pods(server: &Arc<Server>, namespace: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let namespace = Some(namespace).filter(|name| !name.is_empty());
    let pods: Vec<Arc<Value>> = server
        .caches
        .list("", "pods", namespace)
        .into_iter()
        .filter(|pod| text(pod, "/status/phase") == "Running" && wanted(pod))
        .collect();
    let names: BTreeSet<String> =
        pods.iter().map(|pod| text(pod, "/spec/nodeName").to_owned()).filter(|name| !name.is_empty()).collect();
    let rates = all_rates(server, names).await;
    pods.iter().filter_map(|pod| pod_metrics(pod, rates.get(text(pod, "/spec/nodeName"))?)).collect()
}

/// The rates on each node that answers.
async fn all_rates(server: &Arc<Server>, names: BTreeSet<String>) -> BTreeMap<String, Arc<Rates>> {
    futures::stream::iter(names)
        .map(|name| {
            let server = server.clone();
            async move {
                match scrape::rates(&server, &name).await {
                    Ok(rates) => Some((name, rates)),
                    Err(why) => {
                        tracing::debug!(node = name, err = why, "Failed to ask a kubelet for its metrics");
                        None
                    }
                }
            }
        })
        .buffer_unordered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn usage(usage: &Usage) -> Value {
    json!({"cpu": format!("{}n", usage.nano_cores), "memory": format!("{}Ki", usage.memory / 1024)})
}

fn metadata(object: &Value) -> Value {
    let mut out = json!({"name": object["metadata"]["name"], "creationTimestamp": seconds(Timestamp::now())});
    for key in ["namespace", "labels"] {
        if let Some(value) = object["metadata"].get(key) {
            out[key] = value.clone();
        }
    }
    out
}

fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn window(window: Duration) -> String {
    component::duration::format(Duration::from_millis(u64::try_from(window.as_millis()).unwrap_or(0)))
}

fn node_metrics(node: &Value, rates: &Rates) -> Option<Value> {
    let own = rates.node.as_ref()?;
    Some(json!({
        "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata(node),
        "timestamp": seconds(own.at), "window": window(own.window), "usage": usage(own),
    }))
}

/// Nothing unless every container that runs is measured: a sum without one would mislead the autoscaler.
fn pod_metrics(pod: &Value, rates: &Rates) -> Option<Value> {
    let key = (text(pod, "/metadata/namespace").to_owned(), text(pod, "/metadata/name").to_owned());
    let measured = rates.pods.get(&key)?;
    let running = |list: &str| -> Vec<String> {
        let statuses = pod.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let running = statuses.iter().filter(|status| status.pointer("/state/running").is_some());
        running.filter_map(|status| status["name"].as_str().map(str::to_owned)).collect()
    };
    let all = running("/status/containerStatuses");
    if all.is_empty() || all.iter().any(|name| !measured.contains_key(name)) {
        return None;
    }
    let last = measured.values().max_by_key(|usage| usage.at)?;
    let containers: Vec<Value> = measured.iter().map(|(name, amounts)| json!({"name": name, "usage": usage(amounts)})).collect();
    Some(json!({
        "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata(pod),
        "timestamp": seconds(last.at), "window": window(last.window), "containers": containers,
    }))
}

fn shaped(item: Value, accept: Accept, query: &Query) -> Response {
    match accept.shape {
        Shape::Table(beta) => {
            let out = table(&[item], beta, query);
            reply::tree(200, &out, Accept { shape: Shape::Object, ..accept })
        }
        shape => reply::tree(200, &reply::shaped(item, shape), Accept { shape: Shape::Object, ..accept }),
    }
}

fn shaped_list(items: Vec<Value>, pods: bool, accept: Accept, query: &Query) -> Response {
    let out = match accept.shape {
        Shape::Table(beta) => table(&items, beta, query),
        Shape::MetadataList(beta) => {
            let items: Vec<Value> = items.into_iter().map(|item| reply::partial(item, beta)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": tabular::version(beta), "metadata": {}, "items": items})
        }
        _ => {
            let kind = if pods { "PodMetricsList" } else { "NodeMetricsList" };
            let items: Vec<Value> = items.into_iter().map(bare).collect();
            json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items})
        }
    };
    reply::tree(200, &out, Accept { shape: Shape::Object, ..accept })
}

/// Items of a list do not repeat its kind.
fn bare(mut item: Value) -> Value {
    if let Some(map) = item.as_object_mut() {
        map.remove("kind");
        map.remove("apiVersion");
    }
    item
}

/// Columns as metrics-server prints them.
fn table(items: &[Value], beta: bool, query: &Query) -> Value {
    let column = |name: &str, description: &str| json!({"name": name, "type": "string", "format": if name == "Name" { "name" } else { "" }, "description": description, "priority": 0});
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let amounts: Vec<&Value> = match item.get("usage") {
                Some(usage) => vec![usage],
                None => item["containers"].as_array().into_iter().flatten().map(|container| &container["usage"]).collect(),
            };
            let sum = |key: &str, unit: &str| -> u64 {
                let number = |usage: &&Value| usage[key].as_str()?.strip_suffix(unit)?.parse::<u64>().ok();
                amounts.iter().filter_map(number).sum()
            };
            let carried = match query.get("includeObject") {
                "Object" => item.clone(),
                "None" => Value::Null,
                _ => reply::partial(json!({"metadata": item["metadata"]}), false),
            };
            json!({"cells": [item["metadata"]["name"], format!("{}n", sum("cpu", "n")), format!("{}Ki", sum("memory", "Ki")), item["window"]], "object": carried})
        })
        .collect();
    json!({"kind": "Table", "apiVersion": tabular::version(beta), "metadata": {}, "columnDefinitions": [
        column("Name", "Name of the resource"), column("cpu", "CPU usage"), column("memory", "Working set"), column("Window", "Time over which the CPU usage was averaged"),
    ], "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let amounts = |nano_cores, memory| Usage { nano_cores, memory, at, window: Duration::from_millis(15_032) };
        Rates {
            node: Some(amounts(250_000_000, 4096)),
            pods: [(
                ("ns".to_owned(), "p".to_owned()),
                [("a".to_owned(), amounts(1_000_000, 2048)), ("s".to_owned(), amounts(3, 1024))].into(),
            )]
            .into(),
        }
    }

    #[test]
    fn objects_are_as_metrics_server_writes_them() {
        let node = node_metrics(&json!({"metadata": {"name": "n", "labels": {"a": "b"}}}), &rates()).unwrap();
        assert_eq!(node["usage"], json!({"cpu": "250000000n", "memory": "4Ki"}));
        assert_eq!((&node["timestamp"], &node["window"]), (&json!("2026-01-02T03:04:05Z"), &json!("15.032s")));
        assert_eq!(node["metadata"]["labels"]["a"], "b");
        let pod = |running: &[&str]| {
            let statuses: Vec<Value> = running.iter().map(|name| json!({"name": name, "state": {"running": {}}})).collect();
            json!({"metadata": {"name": "p", "namespace": "ns"}, "status": {"containerStatuses": statuses}})
        };
        let got = pod_metrics(&pod(&["a"]), &rates()).unwrap();
        assert_eq!(got["containers"][1], json!({"name": "s", "usage": {"cpu": "3n", "memory": "1Ki"}}), "sidecars count");
        assert_eq!(pod_metrics(&pod(&["a", "b"]), &rates()), None, "one container is not measured yet");
        let table = table(&[got], false, &Query::default());
        assert_eq!(table["rows"][0]["cells"], json!(["p", "1000003n", "3Ki", "15.032s"]));
    }
}
