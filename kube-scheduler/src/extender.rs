//! Extenders: other processes that filter, score or bind over HTTP. Asked between a decision's two halves, outside of the lock.
//!
//! Upstream: pkg/scheduler/extender.go, kube-scheduler/extender/v1

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Request, header};
use http_body_util::{BodyExt as _, Limited};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::object::Named;
use crate::object::pod::Pod;

/// Largest answer that is read, bytes: a list of some thousand nodes.
const MAX_ANSWER: usize = 64 << 20;
/// Extenders score 0…10, plugins 0…100. Upstream: MaxNodeScore / MaxExtenderPriority
const SCALE: i64 = 10;

/// How to reach an extender.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Where it is.
    pub url: String,
    /// Its certificate is not looked at.
    pub insecure: bool,
    /// The name its certificate must have, where that is not the URL's.
    pub server_name: Option<String>,
    /// PEM: who vouches for it.
    pub authority: Option<Vec<u8>>,
    /// PEM: our certificate.
    pub certificate: Option<Vec<u8>>,
    /// PEM: its key.
    pub key: Option<Vec<u8>>,
}

impl Connection {
    /// A client that keeps its connections.
    ///
    /// # Errors
    /// Something in it cannot be used.
    fn client(&self) -> Result<kube::Client, String> {
        let mut config = kube::Config::new(self.url.parse().map_err(|_| format!("invalid URL {:?}", self.url))?);
        config.accept_invalid_certs = self.insecure;
        config.tls_server_name = self.server_name.clone();
        if let Some(pem) = &self.authority {
            let certificates = CertificateDer::pem_slice_iter(pem).map(|der| der.map(|der| der.to_vec()));
            config.root_cert = Some(certificates.collect::<Result<_, _>>().map_err(|error| format!("caFile: {error}"))?);
        }
        config.auth_info.client_certificate_data = self.certificate.as_ref().map(|pem| BASE64.encode(pem));
        config.auth_info.client_key_data = self.key.as_ref().map(|pem| BASE64.encode(pem).into());
        client::connect::build(config, "kube-scheduler").map_err(|error| component::chain(&error))
    }
}

/// A client made on first use.
#[derive(Clone, Default)]
pub struct Reach(Arc<OnceLock<Result<kube::Client, String>>>);

impl std::fmt::Debug for Reach {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Reach")
    }
}

/// One extender.
#[derive(Clone, Debug, Default)]
pub struct Extender {
    /// How to reach it.
    pub connection: Connection,
    /// What it was configured by.
    pub written: Value,
    /// Its connections.
    pub client: Reach,
    /// Path of the call that judges preemption; "" if it has no say there.
    pub preempt: String,
    /// Where it is.
    pub url: String,
    /// Path of the filter call; "" if it does not filter.
    pub filter: String,
    /// Path of the score call; "" if it does not score.
    pub prioritize: String,
    /// Path of the bind call; "" if it does not bind.
    pub bind: String,
    /// How much its scores count.
    pub weight: i64,
    /// It knows nodes itself: names are enough.
    pub names_only: bool,
    /// It is asked about pods that request one of these; empty for all pods.
    pub resources: Vec<String>,
    /// Its failure is no reason to fail.
    pub ignorable: bool,
    /// Longest wait for an answer.
    pub timeout: Duration,
}

/// What an extender's filter leaves.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Nodes that will do.
    pub nodes: Vec<String>,
    /// Why others will not; whether preemption could help.
    pub failed: BTreeMap<String, (String, bool)>,
}

#[derive(Deserialize)]
struct FilterAnswer {
    #[serde(default, alias = "NodeNames", alias = "nodeNames")]
    nodenames: Option<Vec<String>>,
    #[serde(default, alias = "Nodes")]
    nodes: Option<NodeList>,
    #[serde(default, alias = "FailedNodes", alias = "failedNodes")]
    failednodes: Option<BTreeMap<String, String>>,
    #[serde(default, alias = "FailedAndUnresolvableNodes", alias = "failedAndUnresolvableNodes")]
    failedandunresolvablenodes: Option<BTreeMap<String, String>>,
    #[serde(default, alias = "Error")]
    error: Option<String>,
}

#[derive(Deserialize)]
struct NodeList {
    #[serde(default, alias = "Items")]
    items: Vec<NamedNode>,
}

#[derive(Deserialize)]
struct NamedNode {
    metadata: NameOf,
}

#[derive(Deserialize)]
struct NameOf {
    name: String,
}

#[derive(Deserialize)]
struct HostScore {
    #[serde(alias = "Host")]
    host: String,
    #[serde(alias = "Score")]
    score: i64,
}

#[derive(Deserialize)]
struct PreemptAnswer {
    #[serde(default, alias = "NodeNameToMetaVictims", rename = "nodeNameToMetaVictims")]
    nodes: Option<BTreeMap<String, MetaVictims>>,
}

#[derive(Deserialize)]
struct MetaVictims {
    #[serde(default, alias = "Pods", rename = "pods")]
    pods: Option<Vec<MetaPod>>,
    #[serde(default, alias = "NumPDBViolations", alias = "numPDBViolations", rename = "numPdbViolations")]
    violations: i64,
}

#[derive(Deserialize)]
struct MetaPod {
    #[serde(alias = "UID", rename = "uid")]
    uid: String,
}

/// A node where a pod would fit once others are gone.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The node.
    pub node: String,
    /// Who must go.
    pub victims: Vec<Arc<Pod>>,
    /// How many of them a budget protects.
    pub violations: usize,
}

#[derive(Default, Deserialize)]
struct BindAnswer {
    #[serde(default, alias = "Error")]
    error: String,
}

impl Extender {
    /// Whether it has a say about the pod.
    pub fn interested(&self, pod: &Pod) -> bool {
        self.resources.is_empty() || self.resources.iter().any(|name| pod.spec.requests.get(name) > 0)
    }

    /// Which of the nodes will do. `objects` are the full nodes, for extenders that want them.
    ///
    /// # Errors
    /// It cannot be reached, or says so.
    pub async fn filter(&self, pod: &Value, nodes: &[String], objects: &[Value]) -> Result<Filtered, String> {
        let answer: FilterAnswer = self.call(&self.filter, &self.question(pod, nodes, objects)).await?;
        filtered(answer)
    }

    /// Scores of nodes, on the plugins' scale and weighted.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn prioritize(&self, pod: &Value, nodes: &[String], objects: &[Value]) -> Result<Vec<(String, i64)>, String> {
        let answer: Vec<HostScore> = self.call(&self.prioritize, &self.question(pod, nodes, objects)).await?;
        Ok(answer.into_iter().map(|one| (one.host, one.score * self.weight * SCALE)).collect())
    }

    /// Binds the pod.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn bind(&self, pod: &Pod, node: &str) -> Result<(), String> {
        let question = json!({"PodName": pod.name(), "PodNamespace": pod.namespace(), "PodUID": pod.uid(), "Node": node});
        let answer: BindAnswer = self.call(&self.bind, &question).await?;
        if answer.error.is_empty() { Ok(()) } else { Err(answer.error) }
    }

    /// Which of the choices will do, with which victims. `objects` are the victims by uid, for extenders that want them whole.
    ///
    /// # Errors
    /// It cannot be reached, or names pods that nobody gave it.
    pub async fn preempt(
        &self,
        pod: &Value,
        choices: &[Choice],
        objects: &HashMap<String, Value>,
    ) -> Result<Vec<Choice>, String> {
        let nodes: serde_json::Map<String, Value> = choices
            .iter()
            .map(|choice| {
                let pods = choice.victims.iter().map(|victim| match objects.get(victim.uid()) {
                    Some(object) if !self.names_only => object.clone(),
                    _ => json!({"UID": victim.uid()}),
                });
                let pods: Vec<Value> = pods.collect();
                (choice.node.clone(), json!({"Pods": pods, "NumPDBViolations": choice.violations}))
            })
            .collect();
        let question = match self.names_only {
            true => json!({"Pod": pod, "NodeNameToVictims": null, "NodeNameToMetaVictims": nodes}),
            false => json!({"Pod": pod, "NodeNameToVictims": nodes, "NodeNameToMetaVictims": null}),
        };
        let answer: PreemptAnswer = self.call(&self.preempt, &question).await?;
        let mut out = Vec::new();
        for (node, left) in answer.nodes.into_iter().flatten() {
            let unknown = || format!("extender {} claims to preempt on node {node:?}, which was not proposed", self.url);
            let choice = choices.iter().find(|choice| choice.node == node).ok_or_else(unknown)?;
            let mut victims = Vec::new();
            for meta in left.pods.into_iter().flatten() {
                let known = choice.victims.iter().find(|victim| victim.uid() == meta.uid);
                let unknown = || {
                    format!(
                        "extender: {} claims to preempt pod (UID: {}) on node: {node}, but the pod is not found on that node",
                        self.url, meta.uid
                    )
                };
                victims.push(known.ok_or_else(unknown)?.clone());
            }
            out.push(Choice { node, victims, violations: usize::try_from(left.violations).unwrap_or(0) });
        }
        Ok(out)
    }

    fn question(&self, pod: &Value, nodes: &[String], objects: &[Value]) -> Value {
        if self.names_only {
            return json!({"Pod": pod, "Nodes": null, "NodeNames": nodes});
        }
        let wanted = |node: &&Value| {
            node.pointer("/metadata/name").and_then(Value::as_str).is_some_and(|name| nodes.iter().any(|own| own == name))
        };
        let items: Vec<&Value> = objects.iter().filter(wanted).collect();
        json!({"Pod": pod, "Nodes": {"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items}, "NodeNames": null})
    }

    async fn call<T: for<'de> Deserialize<'de>>(&self, verb: &str, question: &Value) -> Result<T, String> {
        let url = format!("{}/{verb}", self.url.trim_end_matches('/'));
        let failed = |why: String| format!("failed to call extender at URL {url}: {why}");
        let client = self.client.0.get_or_init(|| self.connection.client()).clone().map_err(&failed)?;
        let request = Request::post(format!("/{verb}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(kube::client::Body::from(question.to_string().into_bytes()))
            .map_err(|error| failed(error.to_string()))?;
        let exchange = async {
            let response = client.send(request).await.map_err(|error| component::chain(&error))?;
            let code = response.status();
            let body =
                Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?.to_bytes();
            if code.is_success() { Ok(body) } else { Err(format!("code {}", code.as_u16())) }
        };
        let body = match tokio::time::timeout(self.timeout, exchange).await {
            Ok(result) => result.map_err(&failed)?,
            Err(_) => return Err(failed("context deadline exceeded".to_owned())),
        };
        serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))
    }
}

fn filtered(answer: FilterAnswer) -> Result<Filtered, String> {
    if let Some(error) = answer.error.filter(|error| !error.is_empty()) {
        return Err(error);
    }
    let nodes = match (answer.nodenames, answer.nodes) {
        (Some(names), _) => names,
        (None, Some(list)) => list.items.into_iter().map(|node| node.metadata.name).collect(),
        (None, None) => Vec::new(),
    };
    let mut failed = BTreeMap::new();
    failed.extend(answer.failednodes.into_iter().flatten().map(|(node, why)| (node, (why, true))));
    failed.extend(answer.failedandunresolvablenodes.into_iter().flatten().map(|(node, why)| (node, (why, false))));
    Ok(Filtered { nodes, failed })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn extender(url: String) -> Extender {
        Extender {
            connection: Connection { url: url.clone(), ..Connection::default() },
            url,
            filter: "filter".to_owned(),
            prioritize: "prioritize".to_owned(),
            bind: "bind".to_owned(),
            preempt: "preempt".to_owned(),
            weight: 2,
            names_only: true,
            timeout: Duration::from_secs(5),
            ..Extender::default()
        }
    }

    /// Answers each connection with the next of these bodies; returns the URL, and the requests through the channel.
    async fn serve(bodies: Vec<&'static str>) -> (String, tokio::sync::mpsc::Receiver<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/scheduler", listener.local_addr().unwrap());
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            for body in bodies {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = String::new();
                while !seen.contains("}") {
                    let mut part = [0; 4096];
                    let read = stream.read(&mut part).await.unwrap();
                    seen.push_str(&String::from_utf8_lossy(&part[..read]));
                }
                sender.send(seen).await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        (url, receiver)
    }

    #[tokio::test]
    async fn extenders_are_asked_and_understood_in_either_spelling() {
        let bodies = vec![
            r#"{"NodeNames":["a"],"FailedNodes":{"b":"no gpu"},"FailedAndUnresolvableNodes":{"c":"never"},"Error":""}"#,
            r#"[{"host":"a","score":7}]"#,
            r#"{"error":"no"}"#,
            r#"{"NodeNameToMetaVictims":{"a":{"Pods":[{"UID":"u2"}],"NumPDBViolations":1}}}"#,
            r#"{"NodeNameToMetaVictims":{"a":{"Pods":[{"UID":"stranger"}]}}}"#,
        ];
        let (url, mut requests) = serve(bodies).await;
        let extender = extender(url);
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let answer = extender.filter(&json!({"metadata": {}}), &names, &[]).await.unwrap();
        assert_eq!(answer.nodes, ["a"]);
        assert_eq!(answer.failed["b"], ("no gpu".to_owned(), true));
        assert_eq!(answer.failed["c"], ("never".to_owned(), false));
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("POST /scheduler/filter") && request.contains(r#""NodeNames":["a","b","c"]"#), "{request}");
        let scores = extender.prioritize(&json!({"metadata": {}}), &names, &[]).await.unwrap();
        assert_eq!(scores, [("a".to_owned(), 140)]);
        assert_eq!(extender.bind(&Pod::default(), "a").await, Err("no".to_owned()));
        let victim = |uid: &str| Arc::new(serde_json::from_value::<Pod>(json!({"metadata": {"name": uid, "uid": uid}})).unwrap());
        let choice = |node: &str| Choice { node: node.to_owned(), victims: vec![victim("u1"), victim("u2")], violations: 0 };
        let choices = [choice("a"), choice("b")];
        let left = extender.preempt(&json!({}), &choices, &HashMap::new()).await.unwrap();
        assert_eq!((left.len(), left[0].node.as_str(), left[0].victims[0].uid(), left[0].violations), (1, "a", "u2", 1));
        assert!(extender.preempt(&json!({}), &choices, &HashMap::new()).await.unwrap_err().contains("stranger"));
    }

    #[test]
    fn full_nodes_and_errors_are_read() {
        let answer = |text: &str| filtered(serde_json::from_str(text).unwrap());
        assert_eq!(answer(r#"{"nodes":{"items":[{"metadata":{"name":"x"}}]}}"#).unwrap().nodes, ["x"]);
        assert_eq!(answer(r#"{"error":"broken"}"#), Err("broken".to_owned()));
    }
}
