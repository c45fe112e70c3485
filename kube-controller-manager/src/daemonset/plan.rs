//! Which nodes need a daemon pod, which pods have to go, and the status.
//!
//! Upstream: pkg/controller/daemon/{daemon_controller,update}.go

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodTemplateSpec, Toleration,
};
use kube::ResourceExt;

use crate::history::HASH_LABEL;
use crate::{int_or_percent, node_fit, pods};

/// Tolerations that daemon pods get: they belong to the node, whatever its state. Upstream: AddOrUpdateDaemonPodTolerations.
const TOLERATIONS: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const HOST_NETWORK_TOLERATION: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub struct Observed {
    pub set: Arc<DaemonSet>,
    pub nodes: Vec<Arc<Node>>,
    /// The set's own pods.
    pub pods: Vec<Arc<Pod>>,
    /// Hash of the revision in force.
    pub hash: String,
    /// Whether all earlier creations and deletions were seen.
    pub settled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Failed,
    Succeeded,
    Other,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Names of nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<(Arc<Pod>, Why)>,
    pub status: DaemonSetStatus,
}

/// The template of a pod for one node. Upstream: util.CreatePodTemplate, ReplaceDaemonSetPodNodeNameNodeAffinity.
pub fn pod_template(set: &DaemonSet, hash: &str, node: &str) -> PodTemplateSpec {
    let mut template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    if let Some(generation) = set.annotations().get(TEMPLATE_GENERATION) {
        labels.insert("pod-template-generation".to_owned(), generation.clone());
    }
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec.tolerations.clone().unwrap_or_default(), spec.host_network == Some(true)));
    let this_node = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_with(NodeAffinity::default);
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![this_node.clone()]);
    }
    template
}

fn tolerations(mut list: Vec<Toleration>, host_network: bool) -> Vec<Toleration> {
    for (key, effect) in TOLERATIONS.iter().chain(host_network.then_some(&HOST_NETWORK_TOLERATION)) {
        let wanted = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        if !list.contains(&wanted) {
            list.push(wanted);
        }
    }
    list
}

/// (a pod should be started there, a pod that is there may stay).
pub fn should_run(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let Some(spec) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else { return (false, false) };
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|name| name != node.name_any()) || !node_fit::selects(spec, node) {
        return (false, false);
    }
    let tolerations = tolerations(spec.tolerations.clone().unwrap_or_default(), spec.host_network == Some(true));
    if node_fit::tolerates_all(&tolerations, node, &["NoSchedule", "NoExecute"]) {
        return (true, true);
    }
    (false, node_fit::tolerates_all(&tolerations, node, &["NoExecute"]))
}

/// The node a daemon pod is on or meant for.
pub fn target(pod: &Pod) -> Option<&str> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.filter(|field| field.key == "metadata.name").find_map(|field| field.values.as_ref()?.first()).map(String::as_str)
}

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let work = Work::new(observed, now);
    let mut plan = Plan::default();
    if observed.settled && observed.set.metadata.deletion_timestamp.is_none() {
        work.manage(&mut plan);
        let rolling = strategy(&observed.set) == "RollingUpdate";
        if plan.create.is_empty() && plan.delete.is_empty() && rolling {
            work.roll(&mut plan);
        }
    }
    plan.status = work.status();
    plan
}

fn strategy(set: &DaemonSet) -> &str {
    set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref()).unwrap_or("RollingUpdate")
}

/// (new, old) pod of one node.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

struct Work<'a> {
    observed: &'a Observed,
    now: Timestamp,
    min_ready: i32,
    by_node: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
}

impl<'a> Work<'a> {
    fn new(observed: &'a Observed, now: Timestamp) -> Work<'a> {
        let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in &observed.pods {
            if let Some(node) = target(pod) {
                by_node.entry(node).or_default().push(pod);
            }
        }
        for list in by_node.values_mut() {
            list.sort_by(|a, b| {
                a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp).then_with(|| a.name_any().cmp(&b.name_any()))
            });
        }
        let min_ready = observed.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        Work { observed, now, min_ready, by_node }
    }

    fn on(&self, node: &str) -> &[&'a Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.labels().get(HASH_LABEL) == Some(&self.observed.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready, self.now)
    }

    /// (maxSurge, maxUnavailable); both zero would never move.
    fn limits(&self, desired: i32) -> (i32, i32) {
        let rolling = self.observed.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.rolling_update.as_ref());
        let surge = rolling
            .and_then(|r| r.max_surge.as_ref())
            .and_then(|value| int_or_percent::scaled(value, desired, true))
            .unwrap_or(0);
        let unavailable = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
            Some(value) => int_or_percent::scaled(value, desired, true).unwrap_or(0),
            None => 1,
        };
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    fn desired(&self) -> i32 {
        let count = self.observed.nodes.iter().filter(|node| should_run(&self.observed.set, node).0).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// Pods for nodes without, and away with what is finished, double, or on the wrong node.
    fn manage(&self, plan: &mut Plan) {
        let surging = strategy(&self.observed.set) == "RollingUpdate" && self.limits(self.desired()).0 > 0;
        for node in &self.observed.nodes {
            let name = node.name_any();
            let here = self.on(&name);
            match should_run(&self.observed.set, node) {
                (true, _) if here.is_empty() => plan.create.push(name),
                (run, true) => self.tidy(&name, here, run, surging, plan),
                (_, false) => {
                    plan.delete.extend(here.iter().filter(|pod| !pods::is_deleting(pod)).map(|pod| (Arc::clone(pod), Why::Other)))
                }
            }
        }
        // Pods that wait for a node which is gone. Bound ones are the pod collector's.
        for pod in self.observed.pods.iter().filter(|pod| pods::node_name(pod).is_empty() && !pods::is_deleting(pod)) {
            let exists = target(pod).is_some_and(|name| self.observed.nodes.iter().any(|node| node.name_any() == name));
            if !exists {
                plan.delete.push((Arc::clone(pod), Why::Other));
            }
        }
    }

    fn tidy(&self, node: &str, here: &[&'a Arc<Pod>], run: bool, surging: bool, plan: &mut Plan) {
        let mut running: Vec<&Arc<Pod>> = Vec::new();
        let mut finished = false;
        for &pod in here.iter().filter(|pod| !pods::is_deleting(pod)) {
            let why = match pods::phase(pod) {
                "Failed" => Why::Failed,
                "Succeeded" => Why::Succeeded,
                _ => {
                    running.push(pod);
                    continue;
                }
            };
            finished = true;
            plan.delete.push((Arc::clone(pod), why));
        }
        if !surging {
            // The running one stays, else the oldest.
            running.sort_by_key(|pod| pods::phase(pod) != "Running");
            plan.delete.extend(running.iter().skip(1).map(|pod| (Arc::clone(pod), Why::Other)));
            return;
        }
        if running.is_empty() && run && !finished {
            plan.create.push(node.to_owned());
            return;
        }
        // One of the new revision and one of the old may be side by side, until the new one can take over.
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.into_iter().partition(|pod| self.is_new(pod));
        plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).map(|pod| (Arc::clone(pod), Why::Other)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            plan.delete.push((Arc::clone(old), Why::Other));
        }
    }

    /// The pods of one node as (new, old), or `None` when there is more than one of a kind.
    fn pair(&self, here: &[&'a Arc<Pod>]) -> Option<Pair<'a>> {
        let (mut new, mut old) = (None, None);
        for &pod in here {
            let slot = if self.is_new(pod) { &mut new } else { &mut old };
            if slot.is_some() {
                return None;
            }
            *slot = Some(pod);
        }
        Some((new, old))
    }

    fn roll(&self, plan: &mut Plan) {
        let (surge, unavailable) = self.limits(self.desired());
        let nodes: Vec<String> = self
            .observed
            .nodes
            .iter()
            .filter(|node| should_run(&self.observed.set, node).0)
            .map(|node| node.name_any())
            .collect();
        if surge == 0 {
            self.roll_in_place(&nodes, unavailable, plan);
        } else {
            self.roll_with_surge(&nodes, surge, plan);
        }
    }

    fn roll_in_place(&self, nodes: &[String], most: i32, plan: &mut Plan) {
        let (mut down, mut free, mut candidates) = (0, Vec::new(), Vec::new());
        for node in nodes {
            match self.pair(self.on(node)) {
                None | Some((None, None)) => down += 1,
                Some((Some(new), _)) => down += i32::from(!self.is_available(new)),
                Some((None, Some(old))) if self.is_available(old) && !pods::is_deleting(old) => candidates.push(old),
                Some((None, Some(old))) => {
                    down += 1;
                    if !pods::is_deleting(old) {
                        free.push(old);
                    }
                }
            }
        }
        let room = usize::try_from((most - down).max(0)).unwrap_or(0);
        let doomed = free.into_iter().chain(candidates.into_iter().take(room));
        plan.delete.extend(doomed.map(|pod| (Arc::clone(pod), Why::Other)));
    }

    fn roll_with_surge(&self, nodes: &[String], most: i32, plan: &mut Plan) {
        let (mut up, mut free, mut candidates) = (0, Vec::new(), Vec::new());
        for node in nodes {
            match self.pair(self.on(node)) {
                None => up += 1,
                Some((_, None)) => {}
                Some((None, Some(old))) if self.is_available(old) => candidates.push(node.clone()),
                Some((None, Some(_))) => free.push(node.clone()),
                Some((Some(new), Some(old))) if self.is_available(new) => {
                    if !pods::is_deleting(old) {
                        plan.delete.push((Arc::clone(old), Why::Other));
                    }
                }
                Some((Some(_), Some(_))) => up += 1,
            }
        }
        let room = usize::try_from((most - up).max(0)).unwrap_or(0);
        plan.create.extend(free);
        plan.create.extend(candidates.into_iter().take(room));
    }

    fn status(&self) -> DaemonSetStatus {
        let old = self.observed.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.observed.set.metadata.generation,
            collision_count: old.collision_count,
            conditions: old.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for node in &self.observed.nodes {
            let name = node.name_any();
            let here = self.on(&name);
            if !should_run(&self.observed.set, node).0 {
                status.number_misscheduled += i32::from(!here.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = here.first() else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pods::is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_new(pod));
        }
        status.number_available = Some(available);
        status.number_unavailable = Some(status.desired_number_scheduled - available);
        status.updated_number_scheduled = Some(updated);
        status
    }
}

/// Whether writing `new` over `old` changes anything.
pub fn differs(old: &DaemonSetStatus, new: &DaemonSetStatus) -> bool {
    let counts = |s: &DaemonSetStatus| {
        let n = |value: Option<i32>| value.unwrap_or(0);
        [
            s.desired_number_scheduled,
            s.current_number_scheduled,
            s.number_misscheduled,
            s.number_ready,
            n(s.number_available),
            n(s.number_unavailable),
            n(s.updated_number_scheduled),
        ]
    };
    counts(old) != counts(new) || old.observed_generation.unwrap_or(0) != new.observed_generation.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, spec: Value) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"n": name}}, "spec": spec})).unwrap())
    }

    fn set(template: Value, rolling: Value) -> Arc<DaemonSet> {
        let mut spec = json!({"containers": []});
        for (key, value) in template.as_object().unwrap() {
            spec[key] = value.clone();
        }
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "d", "uid": "u", "generation": 2}, "spec": {"selector": {},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}})).unwrap())
    }

    fn pod(name: &str, node: &str, hash: &str, phase: &str, ready: bool) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "labels": {HASH_LABEL: hash}}, "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}, "lastTransitionTime": "2024-01-01T00:00:00Z"}]}})).unwrap())
    }

    fn run(set: Arc<DaemonSet>, nodes: &[Arc<Node>], pods: Vec<Arc<Pod>>) -> (Vec<String>, Vec<String>, DaemonSetStatus) {
        let observed = Observed { set, nodes: nodes.to_vec(), pods, hash: "new".into(), settled: true };
        let plan = plan(&observed, "2024-01-01T01:00:00Z".parse().unwrap());
        let mut deleted: Vec<String> = plan.delete.iter().map(|(pod, _)| pod.name_any()).collect();
        deleted.sort();
        (plan.create, deleted, plan.status)
    }

    #[test]
    fn pods_go_where_selector_and_taints_allow() {
        let nodes = [
            node("a", json!({})),
            node("cordoned", json!({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]})),
            node("master", json!({"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]})),
        ];
        let (create, _, status) = run(set(json!({}), json!({})), &nodes, vec![]);
        assert_eq!(create, ["a", "cordoned"]);
        assert_eq!(status.desired_number_scheduled, 2);
        let everywhere = set(json!({"tolerations": [{"operator": "Exists"}]}), json!({}));
        assert_eq!(run(everywhere, &nodes, vec![]).0.len(), 3);
        let one = set(json!({"nodeSelector": {"n": "a"}}), json!({}));
        let (create, delete, status) = run(one, &nodes, vec![pod("stray", "master", "new", "Running", true)]);
        assert_eq!((create, delete, status.number_misscheduled), (vec!["a".to_owned()], vec!["stray".to_owned()], 1));
        // A NoSchedule taint drives nobody out.
        let (_, delete, _) = run(set(json!({}), json!({})), &nodes, vec![pod("x", "master", "new", "Running", true)]);
        assert!(delete.is_empty());
    }

    #[test]
    fn the_template_binds_to_the_node() {
        let template = pod_template(&set(json!({"hostNetwork": true}), json!({})), "h", "n1");
        let spec = template.spec.unwrap();
        let terms = spec
            .affinity
            .unwrap()
            .node_affinity
            .unwrap()
            .required_during_scheduling_ignored_during_execution
            .unwrap()
            .node_selector_terms;
        assert_eq!(terms[0].match_fields.as_ref().unwrap()[0].values.as_ref().unwrap(), &["n1"]);
        assert_eq!(spec.tolerations.unwrap().len(), 7);
        assert_eq!(template.metadata.unwrap().labels.unwrap()[HASH_LABEL], "h");
    }

    #[test]
    fn failed_double_and_lost_pods_go() {
        let nodes = [node("a", json!({})), node("b", json!({}))];
        let pods = vec![
            pod("failed", "a", "new", "Failed", false),
            pod("one", "b", "new", "Running", true),
            pod("two", "b", "new", "Pending", false),
        ];
        let (create, delete, _) = run(set(json!({}), json!({})), &nodes, pods);
        assert_eq!((create, delete), (vec![], vec!["failed".to_owned(), "two".to_owned()]));
    }

    #[test]
    fn a_rolling_update_takes_so_many_down_and_no_more() {
        let nodes = ["a", "b", "c", "d"].map(|name| node(name, json!({})));
        let old = |name: &str| pod(&format!("{name}-old"), name, "old", "Running", true);
        let two = || set(json!({}), json!({"maxUnavailable": 2}));
        let (create, delete, status) = run(two(), &nodes, vec![old("a"), old("b"), old("c"), old("d")]);
        assert_eq!(
            (create.len(), delete, status.updated_number_scheduled),
            (0, vec!["a-old".to_owned(), "b-old".to_owned()], Some(0))
        );
        // An unavailable new pod uses up the allowance; an unavailable old pod may go for free.
        let pods =
            vec![pod("a-new", "a", "new", "Running", false), old("b"), pod("c-old", "c", "old", "Running", false), old("d")];
        assert_eq!(run(two(), &nodes, pods).1, ["c-old"]);
    }

    #[test]
    fn a_surge_puts_the_new_pod_beside_the_old_one_first() {
        let nodes = ["a", "b"].map(|name| node(name, json!({})));
        let surge = || set(json!({}), json!({"maxSurge": 1, "maxUnavailable": 0}));
        let old = |name: &str| pod(&format!("{name}-old"), name, "old", "Running", true);
        let (create, delete, _) = run(surge(), &nodes, vec![old("a"), old("b")]);
        assert_eq!((create, delete.len()), (vec!["a".to_owned()], 0));
        let (create, delete, _) = run(surge(), &nodes, vec![old("a"), old("b"), pod("a-new", "a", "new", "Running", false)]);
        assert_eq!((create.len(), delete.len()), (0, 0));
        let (_, delete, _) = run(surge(), &nodes, vec![old("a"), old("b"), pod("a-new", "a", "new", "Running", true)]);
        assert_eq!(delete, ["a-old"]);
    }
}
