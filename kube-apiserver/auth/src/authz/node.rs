//! Kubelets: their own node and lease, and whatever the pods bound to them use.
//!
//! Upstream: plugin/pkg/auth/authorizer/node

pub mod graph;

use std::sync::Arc;

use api::lister::Lister;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use crate::authz::node::graph::{Graph, Kind};
use crate::authz::rule::Rule;
use crate::authz::{Attributes, Decision};
use crate::bootstrap;

/// The namespace of node leases.
const LEASES: &str = "kube-node-lease";
/// What the graph is made of: group and resource.
pub const OBSERVED: [(&str, &str); 4] =
    [("", "pods"), ("", "persistentvolumes"), ("storage.k8s.io", "volumeattachments"), ("resource.k8s.io", "resourceslices")];

/// The Node authorizer.
pub struct NodeAuthorizer {
    lister: Arc<dyn Lister>,
    graph: RwLock<Graph>,
    /// Whether somebody feeds [`NodeAuthorizer::observe`]; until then the graph is rebuilt whenever the cluster has changed.
    fed: std::sync::atomic::AtomicBool,
    built_from: Mutex<Option<[u64; 4]>>,
    /// What all nodes may do alike: the rules of the cluster role `system:node`.
    rules: Vec<Rule>,
}

impl NodeAuthorizer {
    /// Over this cluster.
    pub fn new(lister: Arc<dyn Lister>) -> Self {
        Self {
            lister,
            graph: RwLock::default(),
            fed: false.into(),
            built_from: Mutex::new(None),
            rules: bootstrap::cluster_role_rules("system:node"),
        }
    }

    /// Takes note of one object of [`OBSERVED`], as it is now; `deleted` when it is gone. The server calls this for the whole initial
    /// state and then for every watch event; each call costs O(references of the object).
    pub fn observe(&self, group: &str, resource: &str, object: &Value, deleted: bool) {
        self.fed.store(true, std::sync::atomic::Ordering::Release);
        self.graph.write().observe(group, resource, object, deleted);
    }

    /// Decides for kubelets; has no opinion on anybody else.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(node) = attributes.user.node_name() else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return no(format!("unknown node for user {:?}", attributes.user.name));
        }
        if attributes.resource_request {
            match (attributes.group, attributes.resource) {
                ("", "secrets") => return self.read_namespaced(node, Kind::Secret, attributes),
                ("", "configmaps") => return self.read_namespaced(node, Kind::ConfigMap, attributes),
                ("", "persistentvolumeclaims") if attributes.subresource == "status" => {
                    return match attributes.verb {
                        "update" | "patch" => self.related(node, Kind::Claim, attributes),
                        _ => no("can only get/update/patch this type"),
                    };
                }
                ("", "persistentvolumeclaims") => return self.get(node, Kind::Claim, attributes),
                ("", "persistentvolumes") => return self.get(node, Kind::Volume, attributes),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, Kind::ResourceClaim, attributes),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, attributes),
                ("storage.k8s.io", "volumeattachments") => return self.get(node, Kind::VolumeAttachment, attributes),
                ("storage.k8s.io", "csinodes") => return csi_node(node, attributes),
                ("", "serviceaccounts") => return self.service_account(node, attributes),
                ("coordination.k8s.io", "leases") => return lease(node, attributes),
                ("", "nodes") => return own_node(node, attributes),
                ("", "pods") => return self.pod(node, attributes),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(attributes)) { yes() } else { no("") }
    }

    fn read_namespaced(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Decision {
        if !matches!(attributes.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if attributes.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, kind, attributes)
    }

    fn get(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Decision {
        if attributes.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(node, kind, attributes)
    }

    fn service_account(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        if attributes.verb == "get" && attributes.subresource.is_empty() {
            return self.related(node, Kind::ServiceAccount, attributes);
        }
        if attributes.verb != "create" || attributes.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if attributes.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(node, Kind::ServiceAccount, attributes)
    }

    fn resource_slice(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        if !attributes.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match attributes.verb {
            // NodeRestriction checks the new object.
            "create" => yes(),
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::ResourceSlice, attributes),
            "watch" | "list" | "deletecollection" if selects(attributes.field_selector, "spec.nodeName", node) => yes(),
            "watch" | "list" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
            }
            _ => no("only the following verbs are allowed for a ResourceSlice: \
                     get, watch, list, create, update, patch, delete, deletecollection"),
        }
    }

    fn pod(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        match (attributes.subresource, attributes.verb) {
            ("", "get") => self.get(node, Kind::Pod, attributes),
            ("", "list" | "watch") if selects(attributes.field_selector, "spec.nodeName", node) => yes(),
            ("", "list" | "watch") if !attributes.name.is_empty() => self.related(node, Kind::Pod, attributes),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            // Mirror pods, own status, eviction: NodeRestriction holds them to the node's own pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => yes(),
            _ => no(""),
        }
    }

    fn related(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Decision {
        if attributes.name.is_empty() {
            return no("No Object name found");
        }
        self.refresh();
        if self.graph.read().reaches(kind, attributes.namespace, attributes.name, node) {
            yes()
        } else {
            no(format!("no relationship found between node '{node}' and this object"))
        }
    }

    /// Rebuilds the graph from the lister where nobody feeds it.
    fn refresh(&self) {
        if self.fed.load(std::sync::atomic::Ordering::Acquire) {
            return;
        }
        let now = Some(OBSERVED.map(|(group, resource)| self.lister.version(group, resource)));
        let mut built_from = self.built_from.lock();
        if *built_from == now {
            return;
        }
        let mut graph = Graph::default();
        for (group, resource) in OBSERVED {
            for object in self.lister.list(group, resource, None) {
                graph.observe(group, resource, &object, false);
            }
        }
        *self.graph.write() = graph;
        *built_from = now;
    }
}

fn yes() -> Decision {
    Decision::Allow(Arc::from(""))
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

fn own_node(node: &str, attributes: &Attributes<'_>) -> Decision {
    match (attributes.subresource, attributes.verb) {
        // NodeRestriction holds writes to the node's own object.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") => match attributes.name {
            own if own == node => yes(),
            "" => no(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => no(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => no(""),
    }
}

fn lease(node: &str, attributes: &Attributes<'_>) -> Decision {
    if !matches!(attributes.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if attributes.namespace != LEASES {
        return no(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if attributes.verb != "create" && attributes.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_node(node: &str, attributes: &Attributes<'_>) -> Decision {
    if !matches!(attributes.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !attributes.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if attributes.verb != "create" && attributes.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

/// Whether the field selector demands `field=value`.
fn selects(selector: &str, field: &str, value: &str) -> bool {
    selector.split(',').any(|term| {
        let Some((key, rest)) = term.split_once('=') else { return false };
        key.trim() == field && rest.strip_prefix('=').unwrap_or(rest).trim() == value
    })
}
