//! Static pods from a URL, every `httpCheckFrequency`. Upstream: pkg/kubelet/config/http.go

use std::collections::HashMap;
use std::time::Duration;

use super::decode;
use crate::kubelet::Shared;
use crate::probe::http;

/// Follows the URL until the tasks stop; `told` is called once its pods were told.
pub async fn run(kubelet: Shared, url: String, told: impl FnOnce()) {
    let mut told = Some(told);
    let mut known = HashMap::new();
    let headers = kubelet.config.kubelet.static_pod_url_header.clone();
    loop {
        match fetch(&url, &headers).await.and_then(|text| pods(&text, &url, &kubelet.config.node_name)) {
            Ok(pods) => {
                super::api::apply_set(&kubelet, &mut known, pods);
                if let Some(told) = told.take() {
                    told();
                }
            }
            Err(why) => tracing::warn!(url, err = why, "Failed to read pods from URL"),
        }
        tokio::time::sleep(kubelet.config.kubelet.http_check_frequency.0).await;
    }
}

async fn fetch(url: &str, headers: &std::collections::BTreeMap<String, Vec<String>>) -> Result<String, String> {
    let uri: ::http::Uri = url.parse().map_err(|error: ::http::uri::InvalidUri| error.to_string())?;
    let https = uri.scheme_str() == Some("https");
    let target = http::Target {
        https,
        host: uri.host().unwrap_or("").to_owned(),
        port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        headers: headers.iter().flat_map(|(key, values)| values.iter().map(move |value| (key.clone(), value.clone()))).collect(),
        user_agent: "kubelet",
    };
    match http::get(&target, Duration::from_secs(10)).await? {
        (200, body) => Ok(body),
        (status, _) => Err(format!("{url}: HTTP status {status}")),
    }
}

fn pods(text: &str, url: &str, node_name: &str) -> Result<Vec<k8s_openapi::api::core::v1::Pod>, String> {
    let value: serde_json::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    if value["kind"] == "PodList" {
        let items = value["items"].as_array().cloned().unwrap_or_default();
        return items.iter().map(|item| decode::pod(&item.to_string(), "http", url, node_name)).collect();
    }
    decode::pod(text, "http", url, node_name).map(|pod| vec![pod])
}
