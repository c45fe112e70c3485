//! The default roles and bindings, and what must be written so that a cluster has them.
//!
//! The data is in `manifests/rbac/`, embedded. Upstream: plugin/pkg/auth/authorizer/rbac/bootstrappolicy

use std::sync::{Arc, LazyLock};

use api::lister::Lister;
use serde_json::{Value, json};

use crate::authz::rbac::GROUP;
use crate::authz::rule::{Rule, missing};
use crate::object::{list, text};

/// Marks objects that are reconciled at start, unless somebody sets it to "false".
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const LABEL: &str = "kubernetes.io/bootstrapping";
/// How deep roles may aggregate roles that aggregate: admin ← edit ← view is three.
const MAX_DEPTH: usize = 8;

/// One resource of the default policy.
pub struct Defaults {
    /// `clusterroles`, …
    pub resource: &'static str,
    /// `ClusterRole`, …
    pub kind: &'static str,
    /// Complete objects, aggregated rules included.
    pub objects: Vec<Value>,
}

/// What to write. Objects are complete, with `apiVersion` and `kind`.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is not there.
    Create { resource: &'static str, object: Value },
    /// It lacks something; `object` is the present one with that added.
    Update { resource: &'static str, object: Value },
    /// A binding to another role: that cannot be changed, so delete it and create this.
    Recreate { resource: &'static str, object: Value },
}

/// All defaults, in the order in which they must be created.
pub fn defaults() -> &'static [Defaults] {
    static DEFAULTS: LazyLock<Vec<Defaults>> = LazyLock::new(|| {
        let mut roles = load("ClusterRole", include_str!("../../../manifests/rbac/cluster-roles.json"));
        let all = roles.clone();
        for role in &mut roles {
            if role.get("aggregationRule").is_some() {
                role["rules"] = aggregated(role, &all, 0).iter().map(Rule::to_value).collect();
            }
        }
        let bindings = load("ClusterRoleBinding", include_str!("../../../manifests/rbac/cluster-role-bindings.json"));
        let own = load("Role", include_str!("../../../manifests/rbac/roles.json"));
        let own_bindings = load("RoleBinding", include_str!("../../../manifests/rbac/role-bindings.json"));
        vec![
            Defaults { resource: "clusterroles", kind: "ClusterRole", objects: roles },
            Defaults { resource: "clusterrolebindings", kind: "ClusterRoleBinding", objects: bindings },
            Defaults { resource: "roles", kind: "Role", objects: own },
            Defaults { resource: "rolebindings", kind: "RoleBinding", objects: own_bindings },
        ]
    });
    &DEFAULTS
}

/// The rules of a default cluster role; none where there is no such role.
pub fn cluster_role_rules(name: &str) -> Vec<Rule> {
    let roles = &defaults()[0].objects;
    roles.iter().find(|role| text(role, "/metadata/name") == name).map_or(Vec::new(), Rule::of_role)
}

/// What to write so that the cluster has all defaults. Namespaces of roles are those of the objects (kube-system, kube-public):
/// the caller makes sure that they exist.
pub fn reconcile(lister: &dyn Lister) -> Vec<Action> {
    let mut actions = Vec::new();
    for Defaults { resource, objects, .. } in defaults() {
        for expected in objects {
            let (namespace, name) = (text(expected, "/metadata/namespace"), text(expected, "/metadata/name"));
            actions.extend(reconcile_one(resource, lister.get(GROUP, resource, namespace, name), expected));
        }
    }
    actions
}

/// What to write for one object. Rights that somebody added stay; rights, subjects and labels that are missing are added.
fn reconcile_one(resource: &'static str, existing: Option<Arc<Value>>, expected: &Value) -> Option<Action> {
    let Some(existing) = existing else { return Some(Action::Create { resource, object: expected.clone() }) };
    if existing.pointer("/metadata/annotations").and_then(|all| all.get(AUTOUPDATE)).and_then(Value::as_str) == Some("false") {
        return None;
    }
    let mut object = (*existing).clone();
    object["apiVersion"] = expected["apiVersion"].clone();
    object["kind"] = expected["kind"].clone();
    let mut changed = add_entries(&mut object, expected, "labels") | add_entries(&mut object, expected, "annotations");
    if expected.get("roleRef").is_some() {
        if object["roleRef"] != expected["roleRef"] {
            let mut object = expected.clone();
            let mut subjects = list(&existing, "/subjects").to_vec();
            let new: Vec<Value> = list(expected, "/subjects").iter().filter(|one| !subjects.contains(one)).cloned().collect();
            subjects.extend(new);
            object["subjects"] = subjects.into();
            return Some(Action::Recreate { resource, object });
        }
        let mut subjects = list(&object, "/subjects").to_vec();
        let before = subjects.len();
        for subject in list(expected, "/subjects") {
            if !subjects.contains(subject) {
                subjects.push(subject.clone());
            }
        }
        changed |= subjects.len() > before;
        object["subjects"] = subjects.into();
    } else if let Some(aggregation) = expected.get("aggregationRule") {
        // The rules are the aggregation controller's.
        if object.get("aggregationRule") != Some(aggregation) {
            object["aggregationRule"] = aggregation.clone();
            changed = true;
        }
    } else {
        let lacking = missing(&Rule::of_role(&object), &Rule::of_role(expected));
        if !lacking.is_empty() {
            let mut rules = list(&object, "/rules").to_vec();
            rules.extend(lacking.iter().map(Rule::to_value));
            object["rules"] = rules.into();
            changed = true;
        }
    }
    changed.then_some(Action::Update { resource, object })
}

fn add_entries(object: &mut Value, expected: &Value, map: &str) -> bool {
    let mut changed = false;
    let entries = expected.pointer(&format!("/metadata/{map}")).and_then(Value::as_object);
    for (key, value) in entries.into_iter().flatten() {
        let own = &mut object["metadata"][map];
        if own.get(key) != Some(value) {
            own[key] = value.clone();
            changed = true;
        }
    }
    changed
}

/// The rules that the aggregation controller would give the role: those of all roles it selects, in name order, each once.
fn aggregated(role: &Value, all: &[Value], depth: usize) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    if depth >= MAX_DEPTH {
        return out;
    }
    let selectors = list(role, "/aggregationRule/clusterRoleSelectors");
    for other in all {
        let selected = selectors.iter().any(|selector| {
            let wanted = selector.get("matchLabels").and_then(Value::as_object);
            wanted.is_some_and(|wanted| wanted.iter().all(|(key, value)| other["metadata"]["labels"].get(key) == Some(value)))
        });
        if !selected || text(other, "/metadata/name") == text(role, "/metadata/name") {
            continue;
        }
        let rules = if other.get("aggregationRule").is_some() { aggregated(other, all, depth + 1) } else { Rule::of_role(other) };
        for rule in rules {
            if !out.contains(&rule) {
                out.push(rule);
            }
        }
    }
    out
}

fn load(kind: &str, data: &str) -> Vec<Value> {
    let items: Vec<Value> = serde_json::from_str(data).expect("embedded data is well-formed: a test loads it");
    let mut objects: Vec<Value> = items.into_iter().map(|item| complete(kind, item)).collect();
    objects.sort_by(|a, b| text(a, "/metadata/name").cmp(text(b, "/metadata/name")));
    objects
}

/// The full object of one compact line.
fn complete(kind: &str, mut item: Value) -> Value {
    let mut metadata = json!({
        "name": item["name"].take(), "annotations": {AUTOUPDATE: "true"}, "labels": {LABEL: "rbac-defaults"},
    });
    if let Some(namespace) = item.get_mut("namespace") {
        metadata["namespace"] = namespace.take();
    }
    if let Some(labels) = item.get("labels").and_then(Value::as_object) {
        for (key, value) in labels {
            metadata["labels"][key] = value.clone();
        }
    }
    let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata});
    for key in ["aggregationRule", "rules", "roleRef", "subjects"] {
        if let Some(value) = item.get_mut(key) {
            object[key] = value.take();
        }
    }
    if kind.ends_with("Role") && object.get("rules").is_none() {
        object["rules"] = Value::Null;
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_complete_and_names_are_unique() {
        for Defaults { resource, objects, .. } in defaults() {
            let names: std::collections::BTreeSet<_> =
                objects.iter().map(|object| (text(object, "/metadata/namespace"), text(object, "/metadata/name"))).collect();
            assert_eq!(names.len(), objects.len(), "{resource}");
            assert!(objects.iter().all(|object| object["metadata"]["labels"][LABEL] == "rbac-defaults"));
        }
        // 71 are upstream's, rk-service-lb is ours.
        assert_eq!(defaults()[0].objects.len(), 72);
    }

    #[test]
    fn admin_can_what_edit_and_view_can() {
        let admin = cluster_role_rules("admin");
        assert!(missing(&admin, &cluster_role_rules("edit")).is_empty());
        assert!(missing(&admin, &cluster_role_rules("view")).is_empty());
        assert!(!missing(&cluster_role_rules("view"), &cluster_role_rules("edit")).is_empty());
        assert!(!cluster_role_rules("view").is_empty());
    }

    #[test]
    fn what_is_missing_is_added_and_what_was_added_stays() {
        let expected = &defaults()[0].objects.iter().find(|role| text(role, "/metadata/name") == "system:discovery").unwrap();
        assert_eq!(reconcile_one("clusterroles", Some(Arc::new((*expected).clone())), expected), None);
        let mut less = (*expected).clone();
        less["rules"] = json!([{"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}]);
        less["metadata"]["labels"] = json!({"mine": "yes"});
        let Some(Action::Update { object, .. }) = reconcile_one("clusterroles", Some(Arc::new(less.clone())), expected) else {
            panic!()
        };
        assert!(missing(&Rule::of_role(&object), &Rule::of_role(expected)).is_empty());
        assert_eq!(object["rules"][0]["apiGroups"][0], "x");
        assert_eq!(object["metadata"]["labels"]["mine"], "yes");
        less["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(reconcile_one("clusterroles", Some(Arc::new(less)), expected), None);
    }

    #[test]
    fn a_binding_to_another_role_is_made_anew() {
        let expected = &defaults()[1].objects[0];
        let mut other = expected.clone();
        other["roleRef"]["name"] = "else".into();
        assert!(matches!(reconcile_one("clusterrolebindings", Some(Arc::new(other)), expected), Some(Action::Recreate { .. })));
    }
}
