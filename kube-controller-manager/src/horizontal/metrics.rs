//! Asks the metrics APIs, which add-ons serve through the aggregator.
//!
//! Upstream: pkg/controller/podautoscaler/metrics

use std::time::Duration;

use api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::api_error;
use crate::selector;

/// The versions of the custom metrics API, the better first; adapters serve one or both.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];

/// Asks for a custom metric below `path` in the first version that there is.
async fn custom(client: &Client, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
    let mut answer = Err(Failure { message: String::new(), is_not_found: true });
    for version in CUSTOM_VERSIONS {
        answer = send(client, &format!("/apis/custom.metrics.k8s.io/{version}/{path}"), query).await;
        match &answer {
            Err(error) if error.is_not_found => {}
            _ => break,
        }
    }
    answer.map_err(|error| format!("unable to fetch metrics from custom metrics API: {}", error.message))
}

struct Failure {
    message: String,
    is_not_found: bool,
}

async fn get(client: &Client, path: &str, query: &[(&str, &str)]) -> Result<Value, String> {
    send(client, path, query).await.map_err(|error| error.message)
}

async fn send(client: &Client, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
    let text: Vec<String> =
        query.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!("{key}={}", escape(value))).collect();
    let uri = if text.is_empty() { path.to_owned() } else { format!("{path}?{}", text.join("&")) };
    let unusable = |error: http::Error| Failure { message: error.to_string(), is_not_found: false };
    let request = http::Request::get(uri).body(Vec::new()).map_err(unusable)?;
    let failure = |error: kube::Error| {
        let is_not_found = ::client::is_not_found(&error);
        let message = match api_error::message(&error) {
            plain if is_not_found && plain.trim() == "404 page not found" => absent(path),
            message => message,
        };
        Failure { message, is_not_found }
    };
    client.request(request).await.map_err(failure)
}

/// client-go's words for a path that no server has.
fn absent(path: &str) -> String {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, resource) = (parts.get(1).unwrap_or(&""), parts.get(5).unwrap_or(&""));
    format!("the server could not find the requested resource (get {resource}.{group})")
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn milli(value: &Value) -> Option<i64> {
    Quantity::parse(value.as_str()?).ok().map(|quantity| quantity.milli_value())
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// CPU or memory of pods (of one container each, where `container` names it).
///
/// # Errors
/// The API does not answer, or knows nothing.
pub async fn resource(
    client: &Client,
    namespace: &str,
    by: &str,
    name: &str,
    container: Option<&str>,
) -> Result<Samples, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let list = get(client, &path, &[("labelSelector", by)])
        .await
        .map_err(|error| format!("unable to fetch metrics from resource metrics API: {error}"))?;
    let mut samples = Samples::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let containers = item["containers"].as_array().into_iter().flatten();
        let chosen = containers.filter(|c| container.is_none_or(|container| c["name"] == container));
        // A pod of which one value is missing is missing itself.
        let total: Option<i64> = chosen.map(|c| milli(&c["usage"][name])).sum();
        if let (Some(pod), Some(milli)) = (item["metadata"]["name"].as_str(), total) {
            let window =
                item["window"].as_str().and_then(|text| component::duration::parse(text).ok()).unwrap_or(Duration::from_secs(60));
            samples.insert(pod.to_owned(), Sample { milli, at: time(&item["timestamp"]), window });
        }
    }
    if samples.is_empty() { Err("no metrics returned from resource metrics API".to_owned()) } else { Ok(samples) }
}

/// A custom metric of pods.
///
/// # Errors
/// As [`resource`].
pub async fn pods(
    client: &Client,
    namespace: &str,
    by: &str,
    name: &str,
    metric: Option<&LabelSelector>,
) -> Result<Samples, String> {
    let path = format!("namespaces/{namespace}/pods/*/{name}");
    let metric = metric.map(selector::format).unwrap_or_default();
    let list = custom(client, &path, &[("labelSelector", by), ("metricLabelSelector", &metric)]).await?;
    let sample = |item: &Value| {
        let window = Duration::from_secs(item["windowSeconds"].as_u64().unwrap_or(60));
        Some((
            item["describedObject"]["name"].as_str()?.to_owned(),
            Sample { milli: milli(&item["value"])?, at: time(&item["timestamp"]), window },
        ))
    };
    let samples: Samples = list["items"].as_array().into_iter().flatten().filter_map(sample).collect();
    if samples.is_empty() { Err("no metrics returned from custom metrics API".to_owned()) } else { Ok(samples) }
}

/// A custom metric of one object; `resource` is `plural.group`.
///
/// # Errors
/// As [`resource`].
pub async fn object(
    client: &Client,
    namespace: &str,
    resource: &str,
    object: &str,
    name: &str,
    metric: Option<&LabelSelector>,
) -> Result<i64, String> {
    let path = match resource {
        // The autoscaler's own namespace, whatever name is given: a reference does not lead out of it.
        "namespaces" => format!("namespaces/{namespace}/metrics/{name}"),
        _ => format!("namespaces/{namespace}/{resource}/{object}/{name}"),
    };
    let metric = metric.map(selector::format).unwrap_or_default();
    let list = custom(client, &path, &[("metricLabelSelector", &metric)]).await?;
    milli(&list["items"][0]["value"]).ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
}

/// An external metric: the sum of its series.
///
/// # Errors
/// As [`resource`].
pub async fn external(client: &Client, namespace: &str, name: &str, metric: Option<&LabelSelector>) -> Result<i64, String> {
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}");
    let metric = metric.map(selector::format).unwrap_or_default();
    let list = get(client, &path, &[("labelSelector", &metric)]).await;
    let list = list.map_err(|error| format!("unable to fetch metrics from external metrics API: {error}"))?;
    let values: Vec<i64> = list["items"].as_array().into_iter().flatten().filter_map(|item| milli(&item["value"])).collect();
    if values.is_empty() { Err("no metrics returned from external metrics API".to_owned()) } else { Ok(values.iter().sum()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_absent_api_is_told_in_the_words_of_client_go() {
        assert_eq!(
            super::absent("/apis/metrics.k8s.io/v1beta1/namespaces/d/pods"),
            "the server could not find the requested resource (get pods.metrics.k8s.io)"
        );
    }
}
