//! Queueing hints: which news wakes a pod that a plugin refused, and which does not.

use std::sync::Arc;

use serde_json::{Value, json};

use super::by_name;
use crate::event::Event;
use crate::object::node::Node;
use crate::object::pod::Pod;

fn node(changes: Value) -> Arc<Node> {
    let mut value = json!({
        "metadata": {"name": "n", "labels": {"zone": "a"}}, "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
    });
    merge(&mut value, &changes);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(changes: Value) -> Arc<Pod> {
    let mut value =
        json!({"metadata": {"name": "p", "uid": "p", "namespace": "d", "labels": {"app": "x"}}, "spec": {"containers": []}});
    merge(&mut value, &changes);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn merge(into: &mut Value, changes: &Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes.clone(),
    }
}

fn asks(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}})
}

fn affinity(kind: &str, app: &str) -> Value {
    let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}});
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

#[test]
fn only_news_that_may_help_wakes_a_pod() {
    let added = |changes| Event::NodeAdded(node(changes));
    let changed = |old, new| Event::NodeUpdated(node(old), node(new));
    let gone = |changes| Event::AssignedPodDeleted(pod(changes));
    let came = |changes| Event::AssignedPodAdded(pod(changes));
    let cordoned = || json!({"spec": {"unschedulable": true}});
    let tainted = || json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let small = || json!({"status": {"allocatable": {"cpu": "1"}}});
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let labelled = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    let port = |port: i32| json!({"spec": {"containers": [{"ports": [{"hostPort": port}]}]}});
    let mounts = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    let spread = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}}]}});
    let none = json!({});
    for (plugin, subject, event, helps) in [
        ("NodeUnschedulable", none.clone(), added(cordoned()), false),
        ("NodeUnschedulable", none.clone(), added(json!({})), true),
        ("NodeUnschedulable", none.clone(), changed(cordoned(), json!({})), true),
        ("NodeUnschedulable", none.clone(), changed(json!({}), small()), false),
        ("NodeUnschedulable", none.clone(), gone(json!({})), false),
        ("NodeName", json!({"spec": {"nodeName": "n"}}), added(json!({})), true),
        ("NodeName", json!({"spec": {"nodeName": "m"}}), added(json!({})), false),
        ("TaintToleration", none.clone(), added(tainted()), false),
        ("TaintToleration", none.clone(), changed(tainted(), json!({})), true),
        ("TaintToleration", none.clone(), changed(json!({}), tainted()), false),
        ("NodeAffinity", json!({"spec": {"nodeSelector": {"zone": "b"}}}), added(json!({})), false),
        ("NodeAffinity", json!({"spec": {"nodeSelector": {"zone": "b"}}}), changed(json!({}), zone("b")), true),
        ("NodeAffinity", json!({"spec": {"nodeSelector": {"zone": "b"}}}), changed(zone("b"), zone("c")), false),
        ("NodePorts", port(80), gone(port(80)), true),
        ("NodePorts", port(80), gone(port(81)), false),
        ("NodePorts", port(80), changed(json!({}), small()), false),
        ("NodeResourcesFit", asks("2"), added(small()), false),
        ("NodeResourcesFit", asks("2"), added(json!({})), true),
        ("NodeResourcesFit", asks("2"), changed(small(), json!({})), true),
        ("NodeResourcesFit", asks("2"), changed(json!({}), zone("b")), false),
        ("NodeResourcesFit", asks("2"), gone(json!({})), true),
        ("NodeResourcesFit", asks("2"), came(json!({})), false),
        ("NodeResourcesFit", asks("1"), Event::PodUpdated(pod(asks("2")), pod(asks("1"))), true),
        ("NodeResourcesFit", asks("2"), Event::PodUpdated(pod(asks("1")), pod(asks("2"))), false),
        ("VolumeRestrictions", mounts.clone(), gone(mounts.clone()), true),
        ("VolumeRestrictions", mounts.clone(), Event::Storage, true),
        ("NodeVolumeLimits", mounts.clone(), gone(mounts.clone()), true),
        ("NodeVolumeLimits", mounts.clone(), gone(json!({})), false),
        ("VolumeBinding", mounts.clone(), Event::Storage, true),
        ("VolumeBinding", mounts.clone(), gone(json!({})), false),
        ("VolumeBinding", mounts.clone(), changed(json!({}), zone("b")), true),
        ("VolumeZone", mounts.clone(), changed(json!({}), zone("b")), true),
        ("VolumeZone", mounts, gone(json!({})), false),
        ("PodTopologySpread", spread.clone(), gone(labelled("x")), true),
        ("PodTopologySpread", spread.clone(), gone(labelled("y")), false),
        ("PodTopologySpread", spread, changed(json!({}), zone("b")), true),
        ("InterPodAffinity", affinity("podAffinity", "db"), came(labelled("db")), true),
        ("InterPodAffinity", affinity("podAffinity", "db"), came(labelled("web")), false),
        ("InterPodAffinity", affinity("podAntiAffinity", "db"), gone(labelled("db")), true),
        ("InterPodAffinity", affinity("podAntiAffinity", "db"), gone(labelled("web")), false),
        ("InterPodAffinity", none.clone(), gone(affinity("podAntiAffinity", "x")), true),
        ("InterPodAffinity", none.clone(), gone(affinity("podAntiAffinity", "y")), false),
        ("DynamicResources", none.clone(), Event::Devices, true),
        ("DynamicResources", none.clone(), gone(json!({})), false),
        (
            "SchedulingGates",
            none.clone(),
            Event::PodUpdated(pod(json!({"spec": {"schedulingGates": [{"name": "g"}]}})), pod(json!({}))),
            true,
        ),
        ("DefaultPreemption", none, gone(json!({})), true),
    ] {
        let hint = by_name(plugin).unwrap().hint.unwrap_or_else(|| panic!("{plugin} has no hint"));
        assert_eq!(hint(&pod(subject), &event), helps, "{plugin}: {event:?}");
    }
}
