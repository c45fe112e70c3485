//! Gives the API server what it should hold: create, or replace what is there. Safe to repeat.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

/// Pause between tries while the API server or its rules are still coming up.
const RETRY: Duration = Duration::from_millis(100);

/// A client with patience.
#[derive(Clone)]
pub struct Api {
    client: Client,
    patience: Duration,
}

/// Plural and scope of the kinds that we write.
const KINDS: &[(&str, &str, bool)] = &[
    ("ConfigMap", "configmaps", true),
    ("Secret", "secrets", true),
    ("Service", "services", true),
    ("ServiceAccount", "serviceaccounts", true),
    ("Node", "nodes", false),
    ("Namespace", "namespaces", false),
    ("Pod", "pods", true),
    ("DaemonSet", "daemonsets", true),
    ("Deployment", "deployments", true),
    ("IngressClass", "ingressclasses", false),
    ("Role", "roles", true),
    ("RoleBinding", "rolebindings", true),
    ("ClusterRole", "clusterroles", false),
    ("ClusterRoleBinding", "clusterrolebindings", false),
    ("APIService", "apiservices", false),
];

/// The collection's path and the object's name.
pub fn path(object: &Value) -> anyhow::Result<(String, String)> {
    let text = |value: &Value| value.as_str().map(str::to_string);
    let kind = text(&object["kind"]).context("an object without kind")?;
    let version = text(&object["apiVersion"]).context("an object without apiVersion")?;
    let name = text(&object["metadata"]["name"]).context("an object without name")?;
    let (_, plural, namespaced) =
        KINDS.iter().find(|(known, ..)| *known == kind).with_context(|| format!("kind {kind} is not in the table of kinds"))?;
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    Ok((
        match (namespaced, object["metadata"]["namespace"].as_str()) {
            (true, Some(namespace)) => format!("{root}/namespaces/{namespace}/{plural}"),
            (true, None) => bail!("{kind} {name} has no namespace"),
            (false, _) => format!("{root}/{plural}"),
        },
        name,
    ))
}

impl Api {
    /// With the credentials of a kubeconfig; requests are repeated for `patience` while the server cannot answer.
    pub async fn connect(kubeconfig: &std::path::Path, patience: Duration) -> anyhow::Result<Api> {
        if !kubeconfig.exists() {
            bail!(
                "{} does not exist: run this on a control-plane node, or name the file with --kubeconfig",
                kubeconfig.display()
            );
        }
        let client = client::connect::from_kubeconfig(kubeconfig, "rkadm").await?;
        Ok(Api { client, patience })
    }

    /// The same at another server than the kubeconfig's.
    pub async fn connect_to(kubeconfig: &std::path::Path, server: &str, patience: Duration) -> anyhow::Result<Api> {
        let options = client::connect::Options {
            kubeconfig: Some(kubeconfig.to_owned()),
            server: Some(server.to_owned()),
            component: "rkadm".into(),
            ..Default::default()
        };
        Ok(Api { client: client::connect::connect(&options).await?, patience })
    }

    pub fn new(client: Client, patience: Duration) -> Api {
        Api { client, patience }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One request, repeated while the server is not up to it.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        content_type: &str,
    ) -> Result<Value, kube::Error> {
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let end = Instant::now() + self.patience;
        loop {
            let request = Request::builder()
                .method(method.clone())
                .uri(path)
                .header("content-type", content_type)
                .header("accept", "application/json")
                .body(bytes.clone())
                .map_err(kube::Error::HttpError)?;
            match self.client.request::<Value>(request).await {
                Err(error) if is_passing(&error, &method) && Instant::now() < end => {
                    tracing::debug!(path, err = %component::chain(&error), "Request failed, will try again");
                    tokio::time::sleep(RETRY).await;
                }
                other => return other,
            }
        }
    }

    pub async fn get(&self, path: &str) -> Result<Value, kube::Error> {
        self.request(Method::GET, path, None, "application/json").await
    }

    /// `None` when there is no such object.
    pub async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.get(path).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if client::is_not_found(&error) => Ok(None),
            Err(error) => Err(readable(error)).with_context(|| format!("cannot get {path}")),
        }
    }

    pub async fn delete(&self, path: &str) -> Result<Value, kube::Error> {
        self.request(Method::DELETE, path, None, "application/json").await
    }

    pub async fn merge_patch(&self, path: &str, patch: &Value) -> Result<Value, kube::Error> {
        self.request(Method::PATCH, path, Some(patch), "application/merge-patch+json").await
    }

    /// Creates an object, or brings the one that is there to what is wanted. Returns what the server holds then.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<Value> {
        let (collection, name) = path(object)?;
        let one = format!("{collection}/{name}");
        let mut conflicts = 0;
        loop {
            match self.request(Method::POST, &collection, Some(object), "application/json").await {
                Ok(created) => return Ok(created),
                Err(error) if client::is_conflict(&error) => {}
                // A Service's address is allocated before its name is looked at: "already allocated" may mean "by itself".
                Err(error) if client::is_code(&error, 422) && self.find(&one).await?.is_some() => {}
                Err(error) => return Err(readable(error)).with_context(|| format!("cannot create {one}")),
            }
            let current = match self.get(&one).await {
                Ok(current) => current,
                Err(error) if client::is_not_found(&error) => continue,
                Err(error) => return Err(readable(error)).with_context(|| format!("cannot get {one}")),
            };
            match self.request(Method::PUT, &one, Some(&successor(&current, object)), "application/json").await {
                Ok(updated) => return Ok(updated),
                Err(error) if client::is_conflict(&error) && conflicts < 10 => conflicts += 1,
                Err(error) => return Err(readable(error)).with_context(|| format!("cannot update {one}")),
            }
        }
    }

    /// All of them at once; the first failure ends it.
    pub async fn apply_all(&self, objects: &[Value]) -> anyhow::Result<()> {
        try_join_all(objects.iter().map(|object| self.apply(object))).await.map(drop)
    }
}

/// What is put in the place of `current`: the wanted fields on the server's metadata, and what only the server decides (cluster IPs,
/// a ServiceAccount's secrets) kept.
fn successor(current: &Value, wanted: &Value) -> Value {
    let mut next = wanted.clone();
    let mut metadata = current["metadata"].clone();
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("managedFields");
    }
    crate::config::merge(&mut metadata, &wanted["metadata"]);
    next["metadata"] = metadata;
    if next["kind"] == "Service" {
        let mut spec = current["spec"].clone();
        crate::config::merge(&mut spec, &wanted["spec"]);
        next["spec"] = spec;
    }
    for kept in ["secrets", "imagePullSecrets"] {
        if next["kind"] == "ServiceAccount" && !current[kept].is_null() {
            next[kept] = current[kept].clone();
        }
    }
    next
}

/// Whether trying again may help: nobody answers, the server is overloaded or starting, or its first rules and namespaces are not there.
fn is_passing(error: &kube::Error, method: &Method) -> bool {
    match error {
        kube::Error::Api(status) => match status.code {
            429 | 500 | 502 | 503 | 504 => true,
            // The bootstrap roles appear a moment after the server answers.
            401 | 403 => true,
            // A missing namespace: kube-system and kube-public are made by the server itself.
            404 => *method == Method::POST && status.message.contains("namespaces"),
            _ => false,
        },
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}

/// The server's message, or what kept the request from it; not the whole Status.
pub fn readable(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow::anyhow!("{} (HTTP {})", status.message, status.code),
        other => anyhow::anyhow!("{}", component::chain(&other)),
    }
}

/// Sets labels and taints of a node in one patch, computed on what the node has; a taint that is there stays as it is.
pub async fn mark_node(api: &Api, name: &str, labels: &[&str], taints: &[Value]) -> anyhow::Result<()> {
    let path = format!("/api/v1/nodes/{name}");
    for _ in 0..20 {
        let node = api.get(&path).await.map_err(readable).with_context(|| format!("cannot get node {name}"))?;
        let patch = mark_patch(&node, labels, taints);
        match api.merge_patch(&path, &patch).await {
            Ok(_) => return Ok(()),
            Err(error) if client::is_conflict(&error) => tokio::time::sleep(RETRY).await,
            Err(error) => return Err(readable(error)).with_context(|| format!("cannot label and taint node {name}")),
        }
    }
    bail!("node {name} changed all the time while it was to be labelled; run the phase mark-control-plane again")
}

fn mark_patch(node: &Value, labels: &[&str], wanted: &[Value]) -> Value {
    let mut taints: Vec<Value> = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    for taint in wanted {
        if !taints.iter().any(|known| known["key"] == taint["key"] && known["effect"] == taint["effect"]) {
            taints.push(taint.clone());
        }
    }
    let labels: serde_json::Map<String, Value> = labels.iter().map(|label| ((*label).to_string(), json!(""))).collect();
    json!({
        "metadata": {"resourceVersion": node["metadata"]["resourceVersion"], "labels": labels},
        "spec": {"taints": taints},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_kind_and_scope() {
        let object = |version: &str, kind: &str, namespace: Option<&str>| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": namespace}});
        let path = |version: &str, kind: &str, namespace| path(&object(version, kind, namespace)).map(|(path, _)| path);
        assert_eq!(path("v1", "ConfigMap", Some("kube-system")).unwrap(), "/api/v1/namespaces/kube-system/configmaps");
        assert_eq!(path("apps/v1", "DaemonSet", Some("a")).unwrap(), "/apis/apps/v1/namespaces/a/daemonsets");
        assert_eq!(
            path("rbac.authorization.k8s.io/v1", "ClusterRole", None).unwrap(),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles"
        );
        assert!(path("v1", "Secret", None).is_err() && path("v1", "Nonsense", None).is_err());
    }

    #[test]
    fn a_successor_keeps_what_the_server_gave() {
        let current = json!({"kind": "Service", "metadata": {"name": "a", "resourceVersion": "7", "uid": "u", "managedFields": [1]},
            "spec": {"clusterIP": "10.0.0.1", "ports": [1]}});
        let wanted = json!({"kind": "Service", "metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"ports": [2]}});
        let next = successor(&current, &wanted);
        assert_eq!(next["metadata"], json!({"name": "a", "resourceVersion": "7", "uid": "u", "labels": {"x": "y"}}));
        assert_eq!(next["spec"], json!({"clusterIP": "10.0.0.1", "ports": [2]}));
    }

    #[test]
    fn a_node_is_marked_once() {
        let taint = json!({"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"});
        let node = json!({"metadata": {"resourceVersion": "3"}, "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}});
        let patch = mark_patch(&node, &["a"], std::slice::from_ref(&taint));
        assert_eq!(patch["spec"]["taints"].as_array().unwrap().len(), 2);
        assert_eq!(patch["metadata"], json!({"resourceVersion": "3", "labels": {"a": ""}}));
        let again = mark_patch(&json!({"spec": patch["spec"]}), &["a"], &[taint]);
        assert_eq!(again["spec"]["taints"].as_array().unwrap().len(), 2);
    }
}
