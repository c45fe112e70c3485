//! What has to be attached to one node, and what may go from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{AttachedVolume, Node, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

/// So long the kubelet of a node that is not ready may take to unmount; then its volumes are detached by force. Upstream:
/// reconcilerMaxWaitForUnmountDuration.
pub const MAX_WAIT: Duration = Duration::from_secs(6 * 60);

/// The node's kubelet leaves attaching to us. Upstream: util.ControllerManagedAttachAnnotation.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A CSI volume, as drivers name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    pub driver: String,
    pub handle: String,
}

impl Volume {
    /// The name in `node.status`. Upstream: util.GetUniqueVolumeName with the CSI plugin's volume name.
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    /// Reads [`Volume::unique_name`]; `None` for volumes of other plugins.
    pub fn parse(name: &str) -> Option<Volume> {
        let (driver, handle) = name.strip_prefix("kubernetes.io/csi/")?.split_once('^')?;
        Some(Volume { driver: driver.to_owned(), handle: handle.to_owned() })
    }

    /// The name of the VolumeAttachment to `node`; kubelets look for it. Upstream: getAttachmentName (pkg/volume/csi).
    pub fn attachment(&self, node: &str) -> String {
        format!("csi-{}", hex::encode(Sha256::digest(format!("{}{}{node}", self.handle, self.driver))))
    }
}

/// A volume that pods on the node need.
pub struct Wanted {
    pub volume: Volume,
    /// The PersistentVolume.
    pub name: String,
    /// Only one node may have it at a time.
    pub exclusive: bool,
    /// The pods on this node that use it.
    pub pods: Vec<Arc<Pod>>,
    /// Whether another node has it, or is about to, or not yet lost it.
    pub elsewhere: bool,
    /// Pods on other nodes that use it.
    pub others: Vec<Arc<Pod>>,
}

/// One node, and everything about its volumes.
pub struct Observed {
    pub name: String,
    pub node: Option<Arc<Node>>,
    pub wanted: Vec<Wanted>,
    /// Its attachments, those included that were just made and not yet seen.
    pub attachments: Vec<Arc<VolumeAttachment>>,
    /// For how long nobody has wanted an attachment, by name.
    pub unwanted_for: BTreeMap<String, Duration>,
    /// `--disable-force-detach-on-timeout`.
    pub never_force: bool,
}

#[derive(Debug, PartialEq)]
pub enum Op {
    Attach {
        name: String,
        driver: String,
        volume: String,
    },
    /// What `node.status.volumesAttached` must say. Comes before every `Detach`: the kubelet must not mount what goes away.
    Report(Vec<AttachedVolume>),
    Detach(String),
    /// An event on a pod; the flag says whether it is a warning.
    Tell {
        pod: (String, String),
        warning: bool,
        reason: &'static str,
        message: String,
    },
}

/// What to do now, and which attachments wait for the kubelet to unmount them.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub ops: Vec<Op>,
    pub unwanted: BTreeSet<String>,
    /// Something waits that no event announces.
    pub waits: bool,
}

pub fn plan(observed: &Observed) -> Plan {
    let node = observed.node.as_deref();
    if node.is_some_and(|node| node.annotations().get(MANAGED).map(String::as_str) != Some("true")) {
        return Plan::default();
    }
    let mut plan = Plan::default();
    let status = node.and_then(|node| node.status.as_ref());
    let reported = status.and_then(|status| status.volumes_attached.clone()).unwrap_or_default();
    let in_use: BTreeSet<String> = status
        .and_then(|status| status.volumes_in_use.as_deref())
        .unwrap_or_default()
        .iter()
        .filter_map(|name| Some(Volume::parse(name)?.attachment(&observed.name)))
        .collect();
    let wanted: BTreeMap<String, &Wanted> =
        observed.wanted.iter().map(|wanted| (wanted.volume.attachment(&observed.name), wanted)).collect();

    // What other plugins have reported stays.
    let mut report: Vec<AttachedVolume> =
        reported.iter().filter(|volume| Volume::parse(&volume.name).is_none()).cloned().collect();
    let mut detach = Vec::new();
    for attachment in observed.attachments.iter().filter(|attachment| is_ours(attachment)) {
        let name = attachment.name_any();
        let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        let going = attachment.metadata.deletion_timestamp.is_some();
        match wanted.get(&name) {
            Some(wanted) => {
                let entry = AttachedVolume { name: wanted.volume.unique_name(), device_path: String::new() };
                if attached && !going {
                    if !reported.contains(&entry) {
                        let message = format!("AttachVolume.Attach succeeded for volume {:?} ", wanted.name);
                        tell(&mut plan, &wanted.pods, false, "SuccessfulAttachVolume", &message);
                    }
                    report.push(entry);
                }
            }
            None => {
                plan.unwanted.insert(name.clone());
                let waited = observed.unwanted_for.get(&name).copied().unwrap_or_default();
                if in_use.contains(&name) && !may_force(observed, waited) {
                    plan.waits = true;
                    report.extend(reported.iter().filter(|entry| is_of(entry, &name, &observed.name)).cloned());
                } else if !going {
                    detach.push(Op::Detach(name));
                }
            }
        }
    }
    for (name, wanted) in &wanted {
        if node.is_none() || observed.attachments.iter().any(|attachment| attachment.name_any() == *name) {
            continue;
        }
        if wanted.exclusive && wanted.elsewhere {
            plan.waits = true;
            let message = multi_attach(wanted);
            tell(&mut plan, &wanted.pods, true, "FailedAttachVolume", &message);
            continue;
        }
        plan.ops.push(Op::Attach { name: name.clone(), driver: wanted.volume.driver.clone(), volume: wanted.name.clone() });
    }
    report.sort_by(|a, b| a.name.cmp(&b.name));
    let mut before = reported;
    before.sort_by(|a, b| a.name.cmp(&b.name));
    if node.is_some() && report != before {
        plan.ops.push(Op::Report(report));
    }
    plan.ops.append(&mut detach);
    plan
}

/// Attachments made by hand, or by somebody else, are left alone.
fn is_ours(attachment: &VolumeAttachment) -> bool {
    attachment
        .metadata
        .name
        .as_deref()
        .and_then(|name| name.strip_prefix("csi-"))
        .is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_of(entry: &AttachedVolume, attachment: &str, node: &str) -> bool {
    Volume::parse(&entry.name).is_some_and(|volume| volume.attachment(node) == attachment)
}

/// Whether a volume may be detached although the kubelet says that it is mounted.
fn may_force(observed: &Observed, waited: Duration) -> bool {
    let Some(node) = &observed.node else { return true };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let healthy = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) || (!healthy && waited > MAX_WAIT && !observed.never_force)
}

fn tell(plan: &mut Plan, pods: &[Arc<Pod>], warning: bool, reason: &'static str, message: &str) {
    plan.ops.extend(pods.iter().map(|pod| Op::Tell {
        pod: (pod.namespace().unwrap_or_default(), pod.name_any()),
        warning,
        reason,
        message: message.to_owned(),
    }));
}

/// Upstream: reportMultiAttachError (pkg/controller/volume/attachdetach/reconciler).
fn multi_attach(wanted: &Wanted) -> String {
    let namespaces: BTreeSet<String> = wanted.pods.iter().filter_map(|pod| pod.namespace()).collect();
    let (near, far): (Vec<_>, Vec<_>) =
        wanted.others.iter().partition(|pod| namespaces.contains(&pod.namespace().unwrap_or_default()));
    let names = near.iter().map(|pod| pod.name_any()).collect::<Vec<_>>().join(", ");
    let why = match (near.len(), far.len()) {
        (0, 0) => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
        (0, far) => format!("Volume is already used by {far} pod(s) in different namespaces"),
        (_, 0) => format!("Volume is already used by pod(s) {names}"),
        (_, far) => format!("Volume is already used by pod(s) {names} and {far} pod(s) in different namespaces"),
    };
    format!("Multi-Attach error for volume {:?} {why}", wanted.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume() -> Volume {
        Volume { driver: "disk.example".into(), handle: "v1".into() }
    }

    fn name() -> String {
        volume().attachment("n1")
    }

    fn node(extra: Value) -> Option<Arc<Node>> {
        let mut node = json!({"metadata": {"name": "n1", "annotations": {MANAGED: "true"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            if key == "spec" { node["spec"] = value.clone() } else { node["status"][key] = value.clone() }
        }
        Some(Arc::new(serde_json::from_value(node).unwrap()))
    }

    fn pod(namespace: &str, name: &str) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}})).unwrap())
    }

    fn wanted() -> Wanted {
        let (volume, name) = (volume(), "pv1".to_owned());
        Wanted { volume, name, exclusive: true, pods: vec![pod("d", "p")], elsewhere: false, others: Vec::new() }
    }

    fn attachment(attached: bool) -> Arc<VolumeAttachment> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name()}, "status": {"attached": attached},
                "spec": {"attacher": "disk.example", "nodeName": "n1", "source": {"persistentVolumeName": "pv1"}}}))
            .unwrap(),
        )
    }

    fn observed(node: Option<Arc<Node>>, wanted: Vec<Wanted>, attachments: Vec<Arc<VolumeAttachment>>) -> Observed {
        let unwanted_for = BTreeMap::new();
        Observed { name: "n1".into(), node, wanted, attachments, unwanted_for, never_force: false }
    }

    fn reported() -> Value {
        json!([{"name": "kubernetes.io/csi/disk.example^v1", "devicePath": ""}])
    }

    fn report() -> Op {
        Op::Report(serde_json::from_value(reported()).unwrap())
    }

    #[test]
    fn a_volume_is_attached_then_reported_and_told() {
        let plan_of = |node, attachments| plan(&observed(node, vec![wanted()], attachments)).ops;
        let attach = Op::Attach { name: name(), driver: "disk.example".into(), volume: "pv1".into() };
        assert_eq!(plan_of(node(json!({})), vec![]), [attach]);
        assert_eq!(plan_of(node(json!({})), vec![attachment(false)]), []);
        let told = Op::Tell {
            pod: ("d".into(), "p".into()),
            warning: false,
            reason: "SuccessfulAttachVolume",
            message: "AttachVolume.Attach succeeded for volume \"pv1\" ".into(),
        };
        assert_eq!(plan_of(node(json!({})), vec![attachment(true)]), [told, report()]);
        assert_eq!(plan_of(node(json!({"volumesAttached": reported()})), vec![attachment(true)]), []);
        assert_eq!(plan_of(None, vec![]), [], "no node, no attachment");
    }

    #[test]
    fn nothing_is_done_for_nodes_that_attach_themselves() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        assert_eq!(plan(&observed(Some(Arc::new(node)), vec![wanted()], vec![])), Plan::default());
    }

    #[test]
    fn a_volume_goes_when_unmounted_and_the_report_goes_first() {
        let in_use = json!(["kubernetes.io/csi/disk.example^v1"]);
        let mounted = json!({"volumesAttached": reported(), "volumesInUse": in_use});
        let waiting = plan(&observed(node(mounted), vec![], vec![attachment(true)]));
        assert_eq!((waiting.ops, waiting.waits, waiting.unwanted), (vec![], true, [name()].into()));
        let free = plan(&observed(node(json!({"volumesAttached": reported()})), vec![], vec![attachment(true)]));
        assert_eq!(free.ops, [Op::Report(vec![]), Op::Detach(name())]);
        let gone = plan(&observed(None, vec![], vec![attachment(true)]));
        assert_eq!(gone.ops, [Op::Detach(name())]);
    }

    #[test]
    fn force_needs_a_sick_node_and_time_or_the_taint() {
        let state = |ready: &str, taint: bool| {
            let taints = if taint { json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]) } else { json!([]) };
            node(json!({"volumesInUse": ["kubernetes.io/csi/disk.example^v1"], "spec": {"taints": taints},
                "conditions": [{"type": "Ready", "status": ready}]}))
        };
        for (ready, taint, minutes, never, detached) in [
            ("True", false, 60, false, false),
            ("Unknown", false, 5, false, false),
            ("Unknown", false, 7, false, true),
            ("Unknown", false, 7, true, false),
            ("True", true, 0, true, true),
        ] {
            let mut observed = observed(state(ready, taint), vec![], vec![attachment(true)]);
            observed.unwanted_for.insert(name(), Duration::from_secs(minutes * 60));
            observed.never_force = never;
            assert_eq!(plan(&observed).ops == [Op::Detach(name())], detached, "{ready} {taint} {minutes} {never}");
        }
    }

    #[test]
    fn an_exclusive_volume_waits_until_the_other_node_has_lost_it() {
        for (others, expected) in [
            (vec![], "Volume is already exclusively attached to one node and can't be attached to another"),
            (vec![pod("d", "a"), pod("d", "b")], "Volume is already used by pod(s) a, b"),
            (vec![pod("e", "a")], "Volume is already used by 1 pod(s) in different namespaces"),
            (vec![pod("d", "a"), pod("e", "b")], "Volume is already used by pod(s) a and 1 pod(s) in different namespaces"),
        ] {
            let taken = Wanted { elsewhere: true, others, ..wanted() };
            let plan = plan(&observed(node(json!({})), vec![taken], vec![]));
            let [Op::Tell { warning: true, reason: "FailedAttachVolume", message, .. }] = plan.ops.as_slice() else {
                panic!("{plan:?}")
            };
            assert_eq!(*message, format!("Multi-Attach error for volume \"pv1\" {expected}"));
        }
        let shared = Wanted { elsewhere: true, exclusive: false, ..wanted() };
        assert!(matches!(plan(&observed(node(json!({})), vec![shared], vec![])).ops[..], [Op::Attach { .. }]));
    }

    #[test]
    fn attachments_of_others_are_left_alone() {
        let foreign: VolumeAttachment = serde_json::from_value(json!({"metadata": {"name": "by-hand"},
            "spec": {"attacher": "x", "nodeName": "n1", "source": {}}}))
        .unwrap();
        assert_eq!(plan(&observed(node(json!({})), vec![], vec![Arc::new(foreign)])), Plan::default());
        assert_eq!(Volume::parse(&volume().unique_name()), Some(volume()));
        assert_eq!(Volume::parse("kubernetes.io/iscsi/1.2.3.4:iqn:0"), None);
    }
}
