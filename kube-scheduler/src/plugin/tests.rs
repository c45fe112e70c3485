//! Tables per plugin, and a brute-force oracle for those that count pods.

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::config::Profile;
use crate::object::pod::{Spread, Term};
use crate::object::{Labels, Named};

fn node(value: Value) -> Arc<crate::object::node::Node> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(mut value: Value) -> Arc<Pod> {
    if value["metadata"]["namespace"].is_null() {
        value["metadata"]["namespace"] = "d".into();
    }
    value["metadata"]["uid"] = value["metadata"]["name"].clone();
    Arc::new(serde_json::from_value(value).unwrap())
}

/// A cluster, and what plugins say about it.
#[derive(Default)]
struct World {
    cluster: Cluster,
    stores: Stores,
}

impl World {
    fn new(nodes: Vec<Value>, pods: Vec<Value>) -> Self {
        let mut world = Self::default();
        for value in nodes {
            world.cluster.upsert_node(node(value));
        }
        for value in pods {
            world.cluster.upsert_pod(pod(value));
        }
        world.cluster.refresh();
        world
    }

    fn with<T>(&self, run: impl FnOnce(&Context<'_>) -> T) -> T {
        let profile = Profile::named("x");
        run(&Context { cluster: &self.cluster, stores: &self.stores, args: &profile.args })
    }

    /// What one plugin says to each node, in the order in which they were added: "" for yes.
    fn verdicts(&self, plugin: &Plugin, pod: &Pod) -> Vec<String> {
        self.with(|cx| {
            let check = match plugin.filter.unwrap()(cx, pod) {
                Begin::Skip => return vec![String::new(); self.cluster.bound()],
                Begin::Reject(failure) => return vec![failure.reasons.join(", "); self.cluster.bound()],
                Begin::Check(check) | Begin::Only(check, _) => check,
            };
            let all = 0..self.cluster.bound() as NodeIdx;
            all.map(|idx| {
                check.check(idx, self.cluster.node(idx)).err().map_or(String::new(), |failure| failure.reasons.join(", "))
            })
            .collect()
        })
    }

    /// Normalised scores of all nodes; `None` where the plugin does not score.
    fn scores(&self, plugin: &Plugin, pod: &Pod) -> Option<Vec<i64>> {
        self.with(|cx| {
            let all: Vec<NodeIdx> = (0..self.cluster.bound() as NodeIdx).collect();
            let score = plugin.score.unwrap()(cx, pod, &all)?;
            let mut scores: Vec<i64> = all.iter().map(|idx| score.score(*idx, self.cluster.node(*idx))).collect();
            score.normalize(&all, &mut scores);
            Some(scores)
        })
    }
}

fn named(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})
}

fn with(mut value: Value, changes: Value) -> Value {
    json_patch(&mut value, &changes);
    value
}

/// Merges objects; everything else replaces.
fn json_patch(into: &mut Value, changes: &Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                json_patch(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes.clone(),
    }
}

#[test]
fn the_table_names_every_plugin_once_and_finds_it() {
    let names: std::collections::BTreeSet<_> = PLUGINS.iter().map(|plugin| plugin.name).collect();
    assert_eq!(names.len(), PLUGINS.len());
    assert!(names.iter().all(|name| by_name(name).is_some_and(|plugin| plugin.name == *name)) && by_name("Nope").is_none());
    let weights: Vec<_> =
        PLUGINS.iter().filter(|plugin| plugin.score.is_some()).map(|plugin| (plugin.name, plugin.weight)).collect();
    let upstream = [
        ("TaintToleration", 3),
        ("NodeAffinity", 2),
        ("NodeResourcesFit", 1),
        ("PodTopologySpread", 2),
        ("InterPodAffinity", 2),
        ("NodeResourcesBalancedAllocation", 1),
        ("ImageLocality", 1),
    ];
    assert_eq!(weights, upstream);
}

#[test]
fn taints_forbid_or_count() {
    let tainted =
        |name: &str, effect: &str| with(named(name), json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}}));
    let world = World::new(
        vec![named("a"), tainted("b", "NoSchedule"), tainted("c", "PreferNoSchedule"), tainted("d", "NoExecute")],
        vec![],
    );
    let plain = pod(json!({"metadata": {"name": "p"}, "spec": {"containers": []}}));
    let no = "node(s) had untolerated taint(s)";
    assert_eq!(world.verdicts(&taint_toleration::PLUGIN, &plain), ["", no, "", no]);
    assert_eq!(world.scores(&taint_toleration::PLUGIN, &plain), Some(vec![100, 100, 0, 100]));
    let tolerant =
        pod(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "tolerations": [{"key": "k", "operator": "Exists"}]}}));
    assert_eq!(world.verdicts(&taint_toleration::PLUGIN, &tolerant), ["", "", "", ""]);
    assert_eq!(world.scores(&taint_toleration::PLUGIN, &tolerant), Some(vec![100; 4]));
}

#[test]
fn node_names_selectors_and_cordons() {
    let world = World::new(
        vec![
            with(named("a"), json!({"metadata": {"labels": {"disk": "ssd"}}})),
            with(named("b"), json!({"spec": {"unschedulable": true}})),
        ],
        vec![],
    );
    let want = |spec: Value| pod(json!({"metadata": {"name": "p"}, "spec": with(json!({"containers": []}), spec)}));
    let cordoned = "node(s) were unschedulable";
    assert_eq!(world.verdicts(&node_unschedulable::PLUGIN, &want(json!({}))), ["", cordoned]);
    let tolerant = want(json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}));
    assert_eq!(world.verdicts(&node_unschedulable::PLUGIN, &tolerant), ["", ""]);
    assert_eq!(
        world.verdicts(&node_name::PLUGIN, &want(json!({"nodeName": "b"}))),
        ["node(s) didn't match the requested node name", ""]
    );
    let selected = want(json!({"nodeSelector": {"disk": "ssd"}}));
    assert_eq!(world.verdicts(&node_affinity::PLUGIN, &selected), ["", "node(s) didn't match Pod's node affinity/selector"]);
    let pinned =
        want(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]},
        ]}}}}));
    world.with(|cx| {
        let Begin::Only(_, nodes) = node_affinity::PLUGIN.filter.unwrap()(cx, &pinned) else { panic!("pins a node") };
        assert_eq!(nodes, [1]);
    });
}

#[test]
fn ports_conflict_by_address_and_protocol() {
    let port = |ip: &str, protocol: &str| json!({"containers": [{"ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]});
    let world = World::new(
        vec![named("a")],
        vec![json!({"metadata": {"name": "x"}, "spec": with(port("127.0.0.1", "TCP"), json!({"nodeName": "a"}))})],
    );
    let taken = |ip: &str, protocol: &str| {
        let pod = pod(json!({"metadata": {"name": "p"}, "spec": port(ip, protocol)}));
        !world.verdicts(&node_ports::PLUGIN, &pod)[0].is_empty()
    };
    assert!(taken("127.0.0.1", "TCP") && taken("", "TCP") && taken("0.0.0.0", "TCP"));
    assert!(!taken("127.0.0.2", "TCP") && !taken("127.0.0.1", "UDP"));
}

#[test]
fn images_already_there_attract() {
    let image =
        |name: &str, size: i64| with(named(name), json!({"status": {"images": [{"names": ["big:latest"], "sizeBytes": size}]}}));
    let world = World::new(vec![image("a", 900 << 20), image("b", 10 << 20), named("c")], vec![]);
    let want = |image: &str| pod(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"image": image}]}}));
    // 900 MiB on two of three nodes: 600 MiB count, of 23 … 1000.
    assert_eq!(world.scores(&image_locality::PLUGIN, &want("big")), Some(vec![59, 0, 0]));
    assert_eq!(world.scores(&image_locality::PLUGIN, &want("small")), None);
}

#[test]
fn a_workload_spreads_by_default_over_hosts_and_zones() {
    let zone = |name: &str, zone: &str| with(named(name), json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}));
    let on = |name: &str, node: &str| json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"nodeName": node, "containers": []}});
    let world = World::new(vec![zone("a", "x"), zone("b", "x"), zone("c", "y")], vec![on("1", "a"), on("2", "a"), on("3", "c")]);
    let owned = pod(json!({
        "metadata": {"name": "p", "labels": {"app": "web"}, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true}]},
        "spec": {"containers": []},
    }));
    assert_eq!(world.scores(&pod_topology_spread::PLUGIN, &owned), None, "the owner is not known");
    let set = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}});
    world.stores.replica_sets.put("d/web", Arc::new(serde_json::from_value(set).unwrap()));
    let scores = world.scores(&pod_topology_spread::PLUGIN, &owned).unwrap();
    assert!(scores[1] > scores[2] || scores[2] > scores[0], "{scores:?}");
    assert_eq!(scores.iter().copied().max(), Some(scores[1].max(scores[2])));
    assert!(scores[0] < scores[1] && scores[0] < scores[2], "{scores:?}");
}

fn claim(name: &str, extra: Value) -> Arc<crate::object::storage::Claim> {
    let base = json!({
        "metadata": {"name": name, "namespace": "d", "uid": format!("{name}-uid")},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}},
    });
    Arc::new(serde_json::from_value(with(base, extra)).unwrap())
}

fn volume(name: &str, node: &str, size: &str) -> Arc<crate::object::storage::Volume> {
    let value = json!({
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}},
        },
        "status": {"phase": "Available"},
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

#[test]
fn claims_go_where_volumes_are_or_can_be_made() {
    let world = World::new(vec![named("a"), named("b")], vec![]);
    let stores = &world.stores;
    let subject = pod(
        json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}),
    );
    let verdicts = || world.verdicts(&volume_binding::PLUGIN, &subject);
    assert_eq!(verdicts(), ["persistentvolumeclaim \"data\" not found"; 2]);
    stores.claims.put("d/data", claim("data", json!({})));
    assert_eq!(verdicts(), ["pod has unbound immediate PersistentVolumeClaims"; 2]);

    let class = |provisioner: &str| {
        let value =
            json!({"metadata": {"name": "local"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
        Arc::new(serde_json::from_value(value).unwrap())
    };
    stores.classes.put("local", class("kubernetes.io/no-provisioner"));
    let none = "node(s) didn't find available persistent volumes to bind";
    assert_eq!(verdicts(), [none, none]);
    stores.volumes.put("small", volume("small", "a", "1Gi"));
    stores.volumes.put("large", volume("large", "b", "50Gi"));
    stores.volumes.put("fit", volume("fit", "b", "5Gi"));
    assert_eq!(verdicts(), [none, ""]);
    let node_b = world.cluster.node(1).node.clone().unwrap();
    let plan = volume_binding::plan(stores, &subject, &node_b).unwrap();
    let bound: Vec<_> = plan.bind.iter().map(|(claim, volume)| (claim.name(), volume.name())).collect();
    assert_eq!(bound, [("data", "fit")], "the smallest that is large enough");

    stores.classes.put("local", class("example.com/made"));
    assert_eq!(verdicts(), ["", ""]);
    let driver = json!({"metadata": {"name": "example.com/made"}, "spec": {"storageCapacity": true}});
    stores.csi_drivers.put("example.com/made", Arc::new(serde_json::from_value(driver).unwrap()));
    let no_room = "node(s) did not have enough free storage";
    let room = |node: &str, bytes: &str| {
        let value = json!({"metadata": {"name": node, "namespace": "d"}, "storageClassName": "local", "capacity": bytes,
            "nodeTopology": {"matchLabels": {"kubernetes.io/hostname": node}}});
        stores.capacities.put(&format!("d/{node}"), Arc::new(serde_json::from_value(value).unwrap()));
    };
    room("a", "1Gi");
    assert_eq!(verdicts(), [no_room, ""], "b has a volume that fits");
    room("a", "100Gi");
    assert_eq!(verdicts(), ["", ""]);
    let chosen = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "a"}}});
    stores.claims.put("d/data", claim("data", chosen));
    assert_eq!(verdicts(), ["", none], "a volume is being made for node a");

    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "fit"}});
    stores.claims.put("d/data", claim("data", bound));
    assert_eq!(verdicts(), ["node(s) didn't match PersistentVolume's node affinity", ""]);
}

#[test]
fn limits_restrictions_and_zones_of_volumes() {
    let on = json!({"metadata": {"name": "x"}, "spec": {"nodeName": "a", "containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "one"}}]}});
    let zone = |name: &str, zone: &str| with(named(name), json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}));
    let world = World::new(vec![zone("a", "x"), zone("b", "y")], vec![on]);
    let stores = &world.stores;
    for (name, zone) in [("one", "x"), ("two", "x__y")] {
        stores.claims.put(&format!("d/{name}"), claim(name, json!({"spec": {"volumeName": format!("{name}-pv")}})));
        let value = json!({"metadata": {"name": format!("{name}-pv"), "labels": {"topology.kubernetes.io/zone": zone}}, "spec": {"csi": {"driver": "d.io", "volumeHandle": name}}});
        stores.volumes.put(&format!("{name}-pv"), Arc::new(serde_json::from_value(value).unwrap()));
    }
    let csi = json!({"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "d.io", "allocatable": {"count": 1}}]}});
    stores.csi_nodes.put("a", Arc::new(serde_json::from_value(csi).unwrap()));
    let mounts = |claim: &str| {
        pod(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}),
        )
    };
    assert_eq!(world.verdicts(&node_volume_limits::PLUGIN, &mounts("two")), ["node(s) exceed max volume count", ""]);
    assert_eq!(world.verdicts(&node_volume_limits::PLUGIN, &mounts("one")), ["", ""], "attached already");
    assert_eq!(world.verdicts(&volume_zone::PLUGIN, &mounts("one")), ["", "node(s) had no available volume zone"]);
    assert_eq!(world.verdicts(&volume_zone::PLUGIN, &mounts("two")), ["", ""]);
    stores.claims.put("d/one", claim("one", json!({"spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "one-pv"}})));
    let in_use = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    assert_eq!(world.verdicts(&volume_restrictions::PLUGIN, &mounts("one")), [in_use, in_use]);
}

// --- The oracle: what the rules say, pod by pod and node by node, without any index.

struct Naive {
    nodes: Vec<Arc<crate::object::node::Node>>,
    pods: Vec<Arc<Pod>>,
}

impl Naive {
    fn value<'a>(&'a self, name: &str, key: &str) -> Option<&'a String> {
        self.nodes.iter().find(|node| node.name() == name)?.labels().get(key)
    }

    fn near(&self, other: &Pod, node: &str, key: &str) -> bool {
        matches!((self.value(&other.node_name, key), self.value(node, key)), (Some(one), Some(two)) if one == two)
    }

    fn affinity(&self, pod: &Pod, node: &str) -> &'static str {
        let hit = |term: &Term, of: &Pod| term.matches(of.labels(), of.namespace(), &Labels::new());
        let own = pod.spec.affinity.clone().unwrap_or_default();
        if !own.required.is_empty() {
            let all = |other: &Pod| own.required.iter().all(|term| hit(term, other));
            let has_keys = own.required.iter().all(|term| self.value(node, &term.topology_key).is_some());
            let near = own
                .required
                .iter()
                .all(|term| self.pods.iter().any(|other| all(other) && self.near(other, node, &term.topology_key)));
            // Anywhere at all, where the term's label is.
            let anywhere = self.pods.iter().any(|other| {
                all(other) && own.required.iter().any(|term| self.value(&other.node_name, &term.topology_key).is_some())
            });
            if !(has_keys && (near || (!anywhere && all(pod)))) {
                return "node(s) didn't match pod affinity rules";
            }
        }
        if own
            .required_anti
            .iter()
            .any(|term| self.pods.iter().any(|other| hit(term, other) && self.near(other, node, &term.topology_key)))
        {
            return "node(s) didn't match pod anti-affinity rules";
        }
        let refuses = |other: &Pod| {
            let terms = &other.spec.affinity.clone().unwrap_or_default().required_anti;
            terms.iter().any(|term| hit(term, pod) && self.near(other, node, &term.topology_key))
        };
        if self.pods.iter().any(|other| refuses(other)) {
            return "node(s) didn't satisfy existing pods anti-affinity rules";
        }
        ""
    }

    fn spread(&self, pod: &Pod, node: &str) -> &'static str {
        let hard: Vec<&Spread> = pod.spec.spread.iter().filter(|spread| spread.hard).collect();
        let complete =
            |node: &crate::object::node::Node| hard.iter().all(|spread| node.labels().contains_key(&spread.topology_key));
        for spread in &hard {
            let Some(value) = self.value(node, &spread.topology_key) else {
                return "node(s) didn't match pod topology spread constraints (missing required label)";
            };
            let counting: Vec<_> =
                self.nodes.iter().filter(|node| complete(node) && pod.wants_node(node.labels(), node.name())).collect();
            let count = |value: &str| {
                let inside = |other: &&Arc<Pod>| {
                    counting.iter().any(|node| node.name() == other.node_name && node.labels()[&spread.topology_key] == value)
                };
                self.pods.iter().filter(inside).filter(|other| spread.selector.matches(other.labels())).count() as i64
            };
            let domains: std::collections::BTreeSet<&String> =
                counting.iter().map(|node| &node.labels()[&spread.topology_key]).collect();
            let min = if (domains.len() as i32) < spread.min_domains {
                0
            } else {
                domains.iter().map(|value| count(value)).min().unwrap_or(0)
            };
            if count(value) + i64::from(spread.selector.matches(pod.labels())) - min > i64::from(spread.max_skew) {
                return "node(s) didn't match pod topology spread constraints";
            }
        }
        ""
    }
}

#[test]
fn counting_plugins_agree_with_brute_force_on_random_clusters() {
    for seed in 0..1500 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let app = |rng: &mut SmallRng| ["a", "b"][rng.random_range(0..2)];
        let key = |rng: &mut SmallRng| ["kubernetes.io/hostname", "zone", "rack"][rng.random_range(0..3)];
        let term = |rng: &mut SmallRng| json!({"topologyKey": key(rng), "labelSelector": {"matchLabels": {"app": app(rng)}}});
        let affinity = |rng: &mut SmallRng| {
            let mut out = json!({});
            if rng.random_bool(0.3) {
                out["podAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(rng)]});
            }
            if rng.random_bool(0.3) {
                out["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(rng), term(rng)]});
            }
            out
        };
        let nodes: Vec<Value> = (0..rng.random_range(1..6))
            .map(|number| {
                let mut value = named(&format!("n{number}"));
                value["metadata"]["labels"]["zone"] = format!("z{}", rng.random_range(0..3)).into();
                if rng.random_bool(0.8) {
                    value["metadata"]["labels"]["rack"] = format!("r{}", rng.random_range(0..2)).into();
                }
                value
            })
            .collect();
        let pods: Vec<Value> = (0..rng.random_range(0..10))
            .map(|number| {
                let node = format!("n{}", rng.random_range(0..nodes.len()));
                json!({
                    "metadata": {"name": format!("e{number}"), "labels": {"app": app(&mut rng)}},
                    "spec": {"nodeName": node, "containers": [], "affinity": affinity(&mut rng)},
                })
            })
            .collect();
        let spread: Vec<Value> = (0..rng.random_range(0..3))
            .map(|_| {
                json!({
                    "maxSkew": rng.random_range(1..3), "topologyKey": key(&mut rng), "whenUnsatisfiable": "DoNotSchedule",
                    "minDomains": rng.random_range(1..4), "labelSelector": {"matchLabels": {"app": app(&mut rng)}},
                })
            })
            .collect();
        let mut subject = json!({
            "metadata": {"name": "p", "labels": {"app": app(&mut rng)}},
            "spec": {"containers": [], "affinity": affinity(&mut rng), "topologySpreadConstraints": spread},
        });
        if rng.random_bool(0.3) {
            subject["spec"]["nodeSelector"] = json!({"zone": "z0"});
        }
        let subject = pod(subject);
        let naive = Naive { nodes: nodes.iter().cloned().map(node).collect(), pods: pods.iter().cloned().map(pod).collect() };
        let world = World::new(nodes, pods);
        let name = |idx: usize| world.cluster.node(idx as NodeIdx).name.to_string();
        for (idx, verdict) in world.verdicts(&inter_pod_affinity::PLUGIN, &subject).iter().enumerate() {
            assert_eq!(verdict, naive.affinity(&subject, &name(idx)), "seed {seed}, node {}", name(idx));
        }
        for (idx, verdict) in world.verdicts(&pod_topology_spread::PLUGIN, &subject).iter().enumerate() {
            assert_eq!(verdict, naive.spread(&subject, &name(idx)), "seed {seed}, node {}", name(idx));
        }
    }
}
