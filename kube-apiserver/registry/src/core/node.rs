//! Nodes.
//!
//! Upstream: pkg/registry/core/node, printNode

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, text, wide};
use crate::identifier;
use crate::pod_spec::affinity::taint_effect;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of Nodes.
pub fn build(resource: &mut Resource) {
    // Kubelets set their status when they register, so creation keeps it.
    resource.strategy = Rules {
        default,
        update: |_, new, old| new.keep("status", old),
        validate: |_, node, errors| validate(node, errors),
        validate_update: |_, new, old, errors| {
            // Upstream tells of taints on both passes.
            taints(new, errors);
            validate(new, errors);
            validate_change(new, old, errors);
        },
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![("spec.unschedulable", |node| node.at("spec").truth("unschedulable").to_string())];
    resource.columns = vec![
        column::name(),
        text("Status", "The status of the node", |node, _| status(node).into()),
        text("Roles", "The roles of the node", |node, _| roles(node).into()),
        column::age(),
        text("Version", "Kubelet Version reported by the node.", |node, _| {
            node.path("status.nodeInfo").text("kubeletVersion").into()
        }),
        wide(text("Internal-IP", "List of addresses reachable to the node.", |node, _| address(node, "InternalIP").into())),
        wide(text("External-IP", "List of addresses reachable to the node.", |node, _| address(node, "ExternalIP").into())),
        wide(text(
            "OS-Image",
            "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
            |node, _| info(node, "osImage"),
        )),
        wide(text(
            "Kernel-Version",
            "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
            |node, _| info(node, "kernelVersion"),
        )),
        wide(text(
            "Container-Runtime",
            "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
            |node, _| info(node, "containerRuntimeVersion"),
        )),
    ];
}

fn default(node: &mut Value) {
    let spec = node.child("spec");
    if spec.items("podCIDRs").is_empty() && !spec.text("podCIDR").is_empty() {
        let cidr = spec.text("podCIDR").to_owned();
        spec.set("podCIDRs", json!([cidr]));
    } else if spec.text("podCIDR").is_empty()
        && let Some(first) = spec.items("podCIDRs").first().cloned()
    {
        spec.set("podCIDR", first);
    }
    let status = node.child("status");
    if !status.has("allocatable") && status.len_of("capacity") > 0 {
        let capacity = status.at("capacity").clone();
        status.set("allocatable", capacity);
    }
}

fn status(node: &Value) -> String {
    let ready = node.at("status").items("conditions").iter().find(|condition| condition.text("type") == "Ready");
    let mut out = match ready.map(|condition| condition.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.at("spec").truth("unschedulable") {
        out.push_str(",SchedulingDisabled");
    }
    out
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = node
        .at("metadata")
        .entries("labels")
        .into_iter()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role).filter(|role| !role.is_empty()),
            None if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    node.at("status")
        .items("addresses")
        .iter()
        .find(|address| address.text("type") == kind)
        .map_or("<none>", |a| a.text("address"))
}

fn info(node: &Value, field: &str) -> Value {
    match node.path("status.nodeInfo").text(field) {
        "" => "<unknown>".into(),
        text => text.into(),
    }
}

fn validate(node: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = node.at("spec");
    taints(node, errors);
    let cidrs = spec.items("podCIDRs");
    let at = path.child("podCIDRs");
    for (index, cidr) in cidrs.iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or("");
        check::each(identifier::cidr(cidr), cidr, &at.index(index), errors);
    }
    if cidrs.len() > 2 {
        errors.invalid(&at, cidrs.to_vec(), "may specify no more than one CIDR for each IP family");
    }
}

fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (after, before) = (new.at("spec"), old.at("spec"));
    if !before.items("podCIDRs").is_empty() && before.items("podCIDRs") != after.items("podCIDRs") {
        errors.forbidden(&path.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    let provider = before.text("providerID");
    if !provider.is_empty() && provider != after.text("providerID") {
        errors.forbidden(&path.child("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
}

fn taints(node: &Value, errors: &mut Errors) {
    let spec = node.at("spec");
    // Upstream tells of taints below metadata.
    let at = Path::new("metadata.taints");
    let mut seen = Vec::new();
    for (index, taint) in spec.items("taints").iter().enumerate() {
        let path = at.index(index);
        let (key, effect) = (taint.text("key"), taint.text("effect"));
        check::qualified(key, &path.child("key"), errors);
        let value = taint.text("value");
        let messages = identifier::label_value(value);
        if !messages.is_empty() {
            errors.invalid(&path.child("value"), value, messages.join(";"));
        }
        taint_effect(effect, false, &path.child("effect"), errors);
        if seen.contains(&(key, effect)) {
            errors.add_shown(
                api::field::ErrorType::Duplicate,
                &path,
                crate::internal::compact("Taint", taint),
                "taints must be unique by key and effect pair",
            );
        } else {
            seen.push((key, effect));
        }
    }
}
