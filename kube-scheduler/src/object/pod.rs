//! A pod, compiled for placement.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::ObjectMeta;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::object::node::Effect;
use crate::object::resources::{DEFAULT_MEMORY, DEFAULT_MILLI_CPU, List, Resources};
use crate::object::selector::{NodeSelector, NodeTerm, Op, Requirement, Selector};
use crate::object::{Labels, Meta, Named, stands_for};

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Wire")]
pub struct Pod {
    /// Names, labels, owners.
    pub metadata: ObjectMeta,
    /// What it asks for.
    pub spec: Arc<Spec>,
    /// The node it is bound to, or "".
    pub node_name: String,
    /// `status.phase`.
    pub phase: String,
    /// `status.nominatedNodeName`, or "".
    pub nominated: String,
    /// The condition PodScheduled, if there is one.
    pub scheduled: Option<Scheduled>,
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// Claims made from templates: the pod's name for each, and the claim's name; `None` where there was nothing to ask for.
    pub generated_claims: Vec<(String, Option<String>)>,
}

/// The condition PodScheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// Its status is True.
    pub yes: bool,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
}

/// What placement of a pod depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Which profile places it.
    pub scheduler_name: String,
    /// Larger goes first.
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// Names of scheduling gates.
    pub gates: Vec<String>,
    /// Sum of requests.
    pub requests: Resources,
    /// CPU (thousandths) and memory (bytes) where absent requests count as defaults.
    pub scored: (i64, i64),
    /// `nodeSelector` and required node affinity; `None` where absent.
    pub node_selector: Option<Vec<Requirement>>,
    /// Required node affinity.
    pub node_affinity: Option<NodeSelector>,
    /// Preferred node affinity: weight and term.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// Affinity and anti-affinity to other pods; `None` where there is none.
    pub affinity: Option<Arc<PodAffinity>>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Topology spread constraints.
    pub spread: Vec<Spread>,
    /// Host ports.
    pub ports: Vec<HostPort>,
    /// Images of all containers, normalised with a tag.
    pub images: Vec<String>,
    /// Volumes that matter for placement.
    pub volumes: Vec<Volume>,
    /// Resource claims.
    pub resource_claims: Vec<ClaimReference>,
}

/// A pod's use of a resource claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimReference {
    /// What the pod calls it.
    pub name: String,
    /// The claim's name; `None` where it is made from a template, see [`Pod::generated_claims`].
    pub claim: Option<String>,
}

/// Terms on other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodAffinity {
    /// Must be near.
    pub required: Vec<Term>,
    /// Must not be near.
    pub required_anti: Vec<Term>,
    /// Better near: weight and term.
    pub preferred: Vec<(i64, Term)>,
    /// Better not near.
    pub preferred_anti: Vec<(i64, Term)>,
}

/// Selects pods, by label and namespace, within a topology.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// Which pods.
    pub selector: Selector,
    /// In these namespaces.
    pub namespaces: BTreeSet<String>,
    /// And in namespaces with these labels.
    pub namespace_selector: Selector,
    /// What "near" means.
    pub topology_key: String,
}

impl Term {
    /// Whether a pod with these labels, in a namespace of this name and labels, is selected.
    pub fn matches(&self, labels: &Labels, namespace: &str, namespace_labels: &Labels) -> bool {
        (self.namespaces.contains(namespace) || self.namespace_selector.matches(namespace_labels))
            && self.selector.matches(labels)
    }
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// The taint's key; "" for all.
    pub key: String,
    /// How values compare.
    pub operator: TolerationOp,
    /// The taint's value.
    pub value: String,
    /// The effect; `None` for all.
    pub effect: Option<Effect>,
    /// An effect that is none of those known: tolerates nothing.
    pub unknown_effect: bool,
}

/// How a toleration compares values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TolerationOp {
    /// Same value.
    #[default]
    Equal,
    /// Any value.
    Exists,
    /// The taint's value is a smaller number.
    Lt,
    /// The taint's value is a greater number.
    Gt,
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// How uneven it may become.
    pub max_skew: i32,
    /// Over which label of nodes.
    pub topology_key: String,
    /// Whether it forbids (else it only scores).
    pub hard: bool,
    /// Which pods count.
    pub selector: Selector,
    /// Fewer domains than this count as one that is empty.
    pub min_domains: i32,
    /// Only nodes that match the pod's node selector and affinity count.
    pub honor_affinity: bool,
    /// Only nodes whose taints the pod tolerates count.
    pub honor_taints: bool,
}

/// A port on the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// "0.0.0.0" where not given.
    pub ip: String,
    /// "TCP" where not given.
    pub protocol: String,
    /// 1…65535.
    pub port: i32,
}

/// A volume that limits placement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Volume {
    /// A claim by name.
    Claim(String),
    /// A claim made for this pod, by its volume's name.
    Ephemeral(String),
    /// A disk that only so many may use: kind, identity, read-only.
    Disk(&'static str, String, bool),
}

stands_for!(Pod, core::Pod);

impl Pod {
    /// Finished: it holds no resources any more.
    pub fn is_terminal(&self) -> bool {
        self.phase == "Succeeded" || self.phase == "Failed"
    }

    /// Whether it tolerates a taint.
    pub fn tolerates(&self, key: &str, value: &str, effect: Effect) -> bool {
        self.spec.tolerations.iter().any(|toleration| toleration.tolerates(key, value, effect))
    }

    /// Whether `nodeSelector` and required node affinity allow a node.
    pub fn wants_node(&self, labels: &Labels, name: &str) -> bool {
        let all = |list: &Vec<Requirement>| list.iter().all(|one| one.matches(labels.get(&one.key).map(String::as_str)));
        self.spec.node_selector.as_ref().is_none_or(all)
            && self.spec.node_affinity.as_ref().is_none_or(|affinity| affinity.matches(labels, name))
    }

    /// Whether it restricts nodes by label or name at all.
    pub fn restricts_nodes(&self) -> bool {
        self.spec.node_selector.is_some() || self.spec.node_affinity.is_some()
    }

    /// The names of the claims it mounts.
    pub fn claims(&self) -> impl Iterator<Item = (String, bool)> {
        self.spec.volumes.iter().filter_map(|volume| match volume {
            Volume::Claim(name) => Some((name.clone(), false)),
            Volume::Ephemeral(volume) => Some((format!("{}-{volume}", self.name()), true)),
            Volume::Disk(..) => None,
        })
    }
}

impl Toleration {
    /// Whether it tolerates a taint.
    pub fn tolerates(&self, key: &str, value: &str, effect: Effect) -> bool {
        if self.unknown_effect || self.effect.is_some_and(|own| own != effect) || (!self.key.is_empty() && self.key != key) {
            return false;
        }
        let numbers = || Some((value.parse::<i64>().ok()?, self.value.parse::<i64>().ok()?));
        match self.operator {
            TolerationOp::Exists => true,
            TolerationOp::Equal => self.value == value,
            TolerationOp::Lt => numbers().is_some_and(|(taint, own)| taint < own),
            TolerationOp::Gt => numbers().is_some_and(|(taint, own)| taint > own),
        }
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: WireSpec,
    #[serde(default)]
    status: WireStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireSpec {
    node_name: Option<String>,
    scheduler_name: Option<String>,
    priority: Option<i32>,
    preemption_policy: Option<String>,
    scheduling_gates: Option<Vec<WireName>>,
    node_selector: Option<Labels>,
    affinity: Option<Box<core::Affinity>>,
    tolerations: Option<Vec<core::Toleration>>,
    topology_spread_constraints: Option<Vec<core::TopologySpreadConstraint>>,
    containers: Vec<WireContainer>,
    init_containers: Option<Vec<WireContainer>>,
    overhead: Option<List>,
    resources: Option<WireResources>,
    host_network: Option<bool>,
    volumes: Option<Vec<WireVolume>>,
    resource_claims: Option<Vec<WireReference>>,
}

#[derive(Default, Deserialize)]
struct WireName {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireReference {
    name: String,
    resource_claim_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireContainer {
    image: Option<String>,
    resources: Option<WireResources>,
    ports: Option<Vec<WirePort>>,
    restart_policy: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireResources {
    requests: Option<List>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WirePort {
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    host_port: Option<i32>,
    protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireVolume {
    name: String,
    persistent_volume_claim: Option<WireClaim>,
    ephemeral: Option<serde::de::IgnoredAny>,
    gce_persistent_disk: Option<core::GCEPersistentDiskVolumeSource>,
    aws_elastic_block_store: Option<core::AWSElasticBlockStoreVolumeSource>,
    iscsi: Option<core::ISCSIVolumeSource>,
    rbd: Option<core::RBDVolumeSource>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireClaim {
    claim_name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireStatus {
    phase: Option<String>,
    nominated_node_name: Option<String>,
    start_time: Option<Time>,
    conditions: Option<Vec<WireCondition>>,
    resource_claim_statuses: Option<Vec<WireReference>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
}

impl From<Wire> for Pod {
    fn from(wire: Wire) -> Self {
        let metadata = ObjectMeta::from(wire.metadata);
        let node_name = wire.spec.node_name.clone().unwrap_or_default();
        let spec = shared(compile(wire.spec, &metadata));
        let condition = wire.status.conditions.into_iter().flatten().find(|condition| condition.kind == "PodScheduled");
        Self {
            metadata,
            spec,
            node_name,
            phase: wire.status.phase.unwrap_or_default(),
            nominated: wire.status.nominated_node_name.unwrap_or_default(),
            scheduled: condition.map(|condition| Scheduled {
                yes: condition.status == "True",
                reason: condition.reason.unwrap_or_default(),
                message: condition.message.unwrap_or_default(),
            }),
            started: wire.status.start_time.map(|time| time.0),
            generated_claims: {
                let statuses = wire.status.resource_claim_statuses.into_iter().flatten();
                statuses.map(|status| (status.name, status.resource_claim_name)).collect()
            },
        }
    }
}

/// One copy for all pods of a template: a large cluster has far fewer templates than pods.
fn shared(spec: Spec) -> Arc<Spec> {
    static KNOWN: LazyLock<Mutex<(HashSet<Arc<Spec>>, usize)>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock();
    if let Some(spec) = known.0.get(&spec) {
        return spec.clone();
    }
    if known.0.len() >= known.1 {
        known.0.retain(|spec| Arc::strong_count(spec) > 1);
        // Look again once it has doubled: the work stays proportional to what comes in.
        known.1 = (known.0.len() * 2).max(1024);
    }
    let spec = Arc::new(spec);
    known.0.insert(spec.clone());
    spec
}

fn compile(wire: WireSpec, metadata: &ObjectMeta) -> Spec {
    static NONE: Labels = Labels::new();
    let labels = metadata.labels.as_ref().unwrap_or(&NONE);
    let namespace = metadata.namespace.as_deref().unwrap_or("");
    let (requests, scored) = requests(&wire);
    let affinity = wire.affinity.as_deref();
    let node_affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred = node_affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let host_network = wire.host_network.unwrap_or(false);
    let inits = wire.init_containers.iter().flatten();
    let sidecars = inits.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = wire.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let _ = host_network;
    Spec {
        requests,
        scored,
        scheduler_name: wire.scheduler_name.unwrap_or_else(|| "default-scheduler".to_owned()),
        priority: wire.priority.unwrap_or(0),
        never_preempts: wire.preemption_policy.as_deref() == Some("Never"),
        gates: wire.scheduling_gates.into_iter().flatten().map(|gate| gate.name).collect(),
        node_selector: wire.node_selector.filter(|map| !map.is_empty()).map(|map| Selector::of_map(Some(&map))),
        node_affinity: node_affinity
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
            .map(NodeSelector::compile),
        preferred_nodes: preferred
            .into_iter()
            .flatten()
            .filter(|term| term.weight != 0)
            .map(|term| (i64::from(term.weight), NodeTerm::compile(&term.preference)))
            .collect(),
        affinity: affinity.and_then(|affinity| pod_affinity(affinity, namespace, labels)).map(Arc::new),
        tolerations: wire.tolerations.into_iter().flatten().map(toleration).collect(),
        spread: wire.topology_spread_constraints.iter().flatten().map(|constraint| spread(constraint, labels)).collect(),
        ports: ports
            .filter(|port| port.host_port.is_some_and(|port| port > 0))
            .map(|port| HostPort {
                ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
                protocol: port.protocol.clone().filter(|protocol| !protocol.is_empty()).unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.unwrap_or(0),
            })
            .collect(),
        images: wire
            .init_containers
            .iter()
            .flatten()
            .chain(&wire.containers)
            .filter_map(|container| container.image.as_deref())
            .map(normalized_image)
            .collect(),
        volumes: wire.volumes.into_iter().flatten().filter_map(volume).collect(),
        resource_claims: {
            let claims = wire.resource_claims.into_iter().flatten();
            claims.map(|claim| ClaimReference { name: claim.name, claim: claim.resource_claim_name }).collect()
        },
    }
}

/// `name:tag`; without a tag it is `latest`. Upstream: normalizedImageName
fn normalized_image(image: &str) -> String {
    let tagged = image.rfind(':').is_some_and(|colon| image.rfind('/').is_none_or(|slash| slash < colon));
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

/// The pod's requests, and the same with defaults for scoring.
///
/// Containers add up; init containers run one after the other beside the sidecars started before them; pod-level requests win.
/// Upstream: component-helpers/resource/helpers.go
fn requests(wire: &WireSpec) -> (Resources, (i64, i64)) {
    fn of(container: &WireContainer, defaults: bool) -> Resources {
        let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut out = list.map(Resources::from_list).unwrap_or_default();
        if defaults {
            let has = |name: &str| list.is_some_and(|list| list.contains_key(name));
            if !has("cpu") {
                out.milli_cpu = DEFAULT_MILLI_CPU;
            }
            if !has("memory") {
                out.memory = DEFAULT_MEMORY;
            }
        }
        out
    }
    let sum = |defaults: bool| {
        let mut total = Resources::default();
        for container in &wire.containers {
            total.add(&of(container, defaults));
        }
        let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
        for container in wire.init_containers.iter().flatten() {
            let own = of(container, defaults);
            if container.restart_policy.as_deref() == Some("Always") {
                total.add(&own);
                sidecars.add(&own);
                peak.max(&sidecars);
            } else {
                let mut running = sidecars.clone();
                running.add(&own);
                peak.max(&running);
            }
        }
        total.max(&peak);
        let pod_level = wire.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        if let Some(list) = pod_level {
            let own = Resources::from_list(list);
            if list.contains_key("cpu") {
                total.milli_cpu = own.milli_cpu;
            }
            if list.contains_key("memory") {
                total.memory = own.memory;
            }
            for (name, amount) in &own.scalars {
                match total.scalars.iter_mut().find(|(known, _)| known == name) {
                    Some((_, known)) => *known = *amount,
                    None => total.scalars.push((name.clone(), *amount)),
                }
            }
        }
        if let Some(overhead) = &wire.overhead {
            total.add(&Resources::from_list(overhead));
        }
        total
    };
    let scored = sum(true);
    (sum(false), (scored.milli_cpu, scored.memory))
}

fn pod_affinity(affinity: &core::Affinity, namespace: &str, labels: &Labels) -> Option<PodAffinity> {
    let compile = |term: &core::PodAffinityTerm| term_of(term, namespace, labels);
    let all = |terms: Option<&Vec<core::PodAffinityTerm>>| terms.into_iter().flatten().map(compile).collect::<Vec<_>>();
    let weighted = |terms: Option<&Vec<core::WeightedPodAffinityTerm>>| {
        let terms = terms.into_iter().flatten();
        terms.map(|term| (i64::from(term.weight), compile(&term.pod_affinity_term))).collect::<Vec<_>>()
    };
    let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let out = PodAffinity {
        required: all(near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref())),
        required_anti: all(far.and_then(|far| far.required_during_scheduling_ignored_during_execution.as_ref())),
        preferred: weighted(near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref())),
        preferred_anti: weighted(far.and_then(|far| far.preferred_during_scheduling_ignored_during_execution.as_ref())),
    };
    (out != PodAffinity::default()).then_some(out)
}

fn term_of(term: &core::PodAffinityTerm, namespace: &str, labels: &Labels) -> Term {
    let mut selector = Selector::compile(term.label_selector.as_ref());
    for key in term.match_label_keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.and(Requirement { key: key.clone(), op: Op::In(vec![value.clone()]) });
        }
    }
    for key in term.mismatch_label_keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.and(Requirement { key: key.clone(), op: Op::NotIn(vec![value.clone()]) });
        }
    }
    let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.insert(namespace.to_owned());
    }
    Term {
        selector,
        namespaces,
        namespace_selector: Selector::compile(term.namespace_selector.as_ref()),
        topology_key: term.topology_key.clone(),
    }
}

fn spread(constraint: &core::TopologySpreadConstraint, labels: &Labels) -> Spread {
    let mut selector = Selector::compile(constraint.label_selector.as_ref());
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.and(Requirement { key: key.clone(), op: Op::In(vec![value.clone()]) });
        }
    }
    Spread {
        max_skew: constraint.max_skew,
        topology_key: constraint.topology_key.clone(),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: constraint.min_domains.unwrap_or(1),
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn toleration(wire: core::Toleration) -> Toleration {
    let effect = wire.effect.unwrap_or_default();
    let known = Effect::parse(&effect);
    Toleration {
        key: wire.key.unwrap_or_default(),
        operator: match wire.operator.as_deref() {
            Some("Exists") => TolerationOp::Exists,
            Some("Lt") => TolerationOp::Lt,
            Some("Gt") => TolerationOp::Gt,
            _ => TolerationOp::Equal,
        },
        value: wire.value.unwrap_or_default(),
        unknown_effect: known.is_none() && !effect.is_empty(),
        effect: known,
    }
}

fn volume(wire: WireVolume) -> Option<Volume> {
    if let Some(claim) = wire.persistent_volume_claim {
        return Some(Volume::Claim(claim.claim_name));
    }
    if wire.ephemeral.is_some() {
        return Some(Volume::Ephemeral(wire.name));
    }
    if let Some(disk) = wire.gce_persistent_disk {
        return Some(Volume::Disk("gce", disk.pd_name, disk.read_only.unwrap_or(false)));
    }
    if let Some(disk) = wire.aws_elastic_block_store {
        return Some(Volume::Disk("aws", disk.volume_id, false));
    }
    if let Some(disk) = wire.iscsi {
        return Some(Volume::Disk("iscsi", disk.iqn, disk.read_only.unwrap_or(false)));
    }
    let disk = wire.rbd?;
    let mut monitors = disk.monitors;
    monitors.sort();
    let identity = format!("{}/{}/{}", monitors.join(","), disk.pool.unwrap_or_default(), disk.image);
    Some(Volume::Disk("rbd", identity, disk.read_only.unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_count_sidecars_and_the_largest_init_container() {
        let container = |cpu: &str, more: serde_json::Value| {
            let mut out = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
            out.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            out
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [container("1", json!({})), {"name": "d", "image": "r/d"}],
            "initContainers": [container("200m", json!({"restartPolicy": "Always"})), container("3", json!({}))],
            "overhead": {"cpu": "10m"},
        }}))
        .unwrap();
        assert_eq!(pod.spec.requests.milli_cpu, 3210);
        assert_eq!(pod.spec.requests.memory, 0);
        assert_eq!(pod.spec.scored, (3210, 3 * DEFAULT_MEMORY));
        assert_eq!(pod.spec.images.last().unwrap(), "r/d:latest");
    }

    #[test]
    fn pods_of_one_template_share_what_they_ask_for() {
        let pod = |name: &str, cpu: &str| -> Pod {
            let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"containers": [container]}})).unwrap()
        };
        assert!(Arc::ptr_eq(&pod("a", "7m").spec, &pod("b", "7m").spec));
        assert!(!Arc::ptr_eq(&pod("a", "7m").spec, &pod("b", "8m").spec));
    }

    #[test]
    fn tolerations_match_as_upstreams() {
        let tolerate = |value| toleration(serde_json::from_value(value).unwrap());
        assert!(tolerate(json!({"operator": "Exists"})).tolerates("a", "b", Effect::NoSchedule));
        assert!(tolerate(json!({"key": "a", "value": "b"})).tolerates("a", "b", Effect::NoExecute));
        assert!(!tolerate(json!({"key": "a", "value": "c"})).tolerates("a", "b", Effect::NoExecute));
        assert!(!tolerate(json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"})).tolerates(
            "a",
            "b",
            Effect::NoExecute
        ));
    }
}
