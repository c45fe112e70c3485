//! The default FlowSchemas and PriorityLevelConfigurations: mandatory ones are kept as they are here, suggested ones until somebody says
//! (by `apf.kubernetes.io/autoupdate-spec: "false"`) that they are theirs. And the schemas' `Dangling` condition.
//!
//! Upstream: apiserver/pkg/apis/flowcontrol/bootstrap, pkg/registry/flowcontrol/{rest,ensurer}, util/flowcontrol/apf_controller.go

use std::sync::Arc;
use std::time::Duration;

use api::lister::Lister;
use api::status::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{apply_status, change, ensure};
use crate::call::timestamp;
use crate::metadata;
use crate::server::Server;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations";
const SCHEMAS: &str = "flowschemas";
/// Who owns the condition. Upstream: ConfigConsumerAsFieldManager
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
const AUTO: &str = "apf.kubernetes.io/autoupdate-spec";
/// Between looks. Upstream: every minute.
const INTERVAL: Duration = Duration::from_secs(60);

/// Names of objects that must be there and be as they are.
const MANDATORY: &[&str] = &["exempt", "catch-all"];

fn object(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "annotations": {AUTO: "true"}}, "spec": spec})
}

/// The default priority levels, in full.
pub(crate) fn levels() -> Vec<Value> {
    let queued = |shares: u32, lendable: u32, queues: u32, hand: u32| {
        json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}},
        }})
    };
    vec![
        object("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
        object(
            "catch-all",
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
            }}),
        ),
        object("system", queued(30, 33, 64, 6)),
        object("node-high", queued(40, 25, 64, 6)),
        object("leader-election", queued(10, 0, 16, 4)),
        object("workload-high", queued(40, 50, 128, 6)),
        object("workload-low", queued(100, 90, 128, 6)),
        object("global-default", queued(20, 50, 128, 6)),
    ]
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

/// A rule for resources in all namespaces.
fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Value) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object(name, spec)
}

/// A rule that takes everything these subjects ask for.
fn everything(subjects: &[Value]) -> Value {
    json!([{
        "subjects": subjects,
        "resourceRules": [resources(&["*"], &["*"], &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }])
}

/// The default schemas, in full.
pub(crate) fn schemas() -> Vec<Value> {
    const COORDINATION: &[&str] = &["coordination.k8s.io"];
    const ELECT: &[&str] = &["get", "create", "update"];
    let everyone = [group("system:unauthenticated"), group("system:authenticated")];
    let leases = || resources(ELECT, COORDINATION, &["leases"], false);
    vec![
        schema("exempt", "exempt", 1, "", everything(&[group("system:masters")])),
        schema(
            "probes",
            "exempt",
            2,
            "",
            json!([{
                "subjects": everyone,
                "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
            }]),
        ),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            json!([{
                "subjects": [user("system:kube-controller-manager"), user("system:kube-scheduler"), account("*")],
                "resourceRules": [leases()],
            }]),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            json!([{
                "subjects": [
                    user("system:kube-controller-manager"), account("endpoint-controller"), account("endpointslicemirroring-controller"),
                ],
                "resourceRules": [resources(ELECT, &[""], &["endpoints"], false)],
            }]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            json!([{
                "subjects": [account("*")],
                "resourceRules": [resources(ELECT, &[""], &["endpoints", "configmaps"], false), leases()],
            }]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            json!([{
                "subjects": [group("system:nodes")],
                "resourceRules": [
                    resources(&["*"], &[""], &["nodes", "nodes/status"], true), resources(&["*"], COORDINATION, &["leases"], false),
                ],
            }]),
        ),
        schema("system-nodes", "system", 500, "ByUser", everything(&[group("system:nodes")])),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            everything(&[user("system:kube-controller-manager")]),
        ),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(&[user("system:kube-scheduler")])),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", everything(&[account("*")])),
        schema("service-accounts", "workload-low", 9000, "ByUser", everything(&[group("system:serviceaccounts")])),
        schema("global-default", "global-default", 9900, "ByUser", everything(&everyone)),
        schema("catch-all", "catch-all", 10000, "ByUser", everything(&everyone)),
    ]
}

/// Makes the defaults.
///
/// # Errors
/// Those of the writes.
pub(super) async fn defaults(server: &Arc<Server>) -> Result<(), Status> {
    for (plural, objects) in [(LEVELS, levels()), (SCHEMAS, schemas())] {
        super::all(objects.into_iter().map(|object| futures::FutureExt::boxed(keep(server, plural, object))).collect()).await?;
    }
    Ok(())
}

/// Makes one object be there, and be as wanted where that is ours to say.
async fn keep(server: &Arc<Server>, plural: &'static str, wanted: Value) -> Result<(), Status> {
    let name = metadata::name(&wanted).to_owned();
    let Some(have) = server.caches.get(GROUP, plural, "", &name) else {
        return ensure(server, GROUP, plural, wanted).await;
    };
    let auto = have["metadata"]["annotations"][AUTO].as_str();
    // An object of before the annotation belongs to its user once its spec was changed.
    let ours =
        MANDATORY.contains(&name.as_str()) || auto == Some("true") || (auto.is_none() && have["metadata"]["generation"] == 1);
    if !ours || (have["spec"] == wanted["spec"] && auto == Some("true")) {
        return Ok(());
    }
    let make = |old: &Value| {
        let mut new = old.clone();
        new["spec"] = wanted["spec"].clone();
        new["metadata"].as_object_mut().map(|map| map.entry("annotations").or_insert_with(|| json!({})));
        new["metadata"]["annotations"][AUTO] = "true".into();
        new
    };
    change(server, GROUP, plural, "", &name, make).await.map(|_| ())
}

/// Tells each schema whether its level is there.
async fn conditions(server: &Arc<Server>) -> Result<(), Status> {
    for schema in server.caches.list(GROUP, SCHEMAS, None) {
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or("");
        let there = server.caches.get(GROUP, LEVELS, "", level).is_some();
        let (status, reason, message) = if there {
            (
                "False",
                "Found",
                format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"),
            )
        } else {
            (
                "True",
                "NotFound",
                format!(
                    "This FlowSchema references the PriorityLevelConfiguration object named {level:?} but there is no such object"
                ),
            )
        };
        let conditions = schema["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        if conditions.iter().any(|row| row["type"] == "Dangling" && row["status"] == status && row["message"] == message.as_str())
        {
            continue;
        }
        let since = conditions
            .iter()
            .find(|row| row["type"] == "Dangling" && row["status"] == status)
            .and_then(|row| row["lastTransitionTime"].as_str().map(str::to_owned))
            .unwrap_or_else(|| timestamp(Timestamp::now()));
        let applied = json!({"conditions": [{
            "type": "Dangling", "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
        }]});
        apply_status(server, (GROUP, SCHEMAS), metadata::name(&schema), CONSUMER, &applied).await?;
    }
    Ok(())
}

/// Keeps the defaults and the conditions until dropped.
pub(super) async fn run(server: Arc<Server>) {
    let caches = [LEVELS, SCHEMAS].map(|path| server.caches.by_path(path));
    let version = || caches.iter().flatten().map(|cache| cache.version()).max().unwrap_or(0);
    let mut looked = tokio::time::Instant::now().checked_sub(INTERVAL);
    let mut seen = 0;
    loop {
        // Changes are answered soon; what others do to the defaults is put right within the interval.
        let due = looked.is_none_or(|looked| looked.elapsed() >= INTERVAL);
        if due || version() != seen {
            let result = async {
                if due {
                    defaults(&server).await?;
                }
                conditions(&server).await
            };
            match result.await {
                Ok(()) => {
                    let _ = server.caches.fresh().await;
                    seen = version();
                    if due {
                        looked = Some(tokio::time::Instant::now());
                    }
                }
                Err(error) => tracing::debug!(err = %error, "Failed to keep the objects of priority and fairness"),
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
