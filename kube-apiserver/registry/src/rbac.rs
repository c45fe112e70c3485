//! The rbac.authorization.k8s.io group.
//!
//! Upstream: pkg/registry/rbac, pkg/apis/rbac/v1/defaults.go

use serde_json::Value;

use crate::column::{self, text, wide};
use crate::identifier;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// The group's name, the default of references to its kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles.
pub fn role(resource: &mut Resource) {
    resource.strategy = Rules { create_on_update: true, name: identifier::path_segment, ..Rules::GENERIC }.strategy();
    resource.columns = column::generic();
}

/// ClusterRoles.
pub fn cluster_role(resource: &mut Resource) {
    role(resource);
}

/// RoleBindings.
pub fn role_binding(resource: &mut Resource) {
    resource.strategy =
        Rules { default: default_binding, create_on_update: true, name: identifier::path_segment, ..Rules::GENERIC }.strategy();
    resource.columns = vec![
        column::name(),
        text(
            "Role",
            "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace.",
            |object, _| format!("{}/{}", object.at("roleRef").text("kind"), object.at("roleRef").text("name")).into(),
        ),
        column::age(),
        wide(text("Users", "Users in the roleBinding", |object, _| subjects(object, "User").into())),
        wide(text("Groups", "Groups in the roleBinding", |object, _| subjects(object, "Group").into())),
        wide(text("ServiceAccounts", "ServiceAccounts in the roleBinding", |object, _| {
            subjects(object, "ServiceAccount").into()
        })),
    ];
}

/// ClusterRoleBindings.
pub fn cluster_role_binding(resource: &mut Resource) {
    role_binding(resource);
}

fn default_binding(object: &mut Value) {
    object.child("roleRef").fill_text("apiGroup", GROUP);
    for subject in object.items_mut("subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.fill_text("apiGroup", GROUP);
        }
    }
}

fn subjects(object: &Value, kind: &str) -> String {
    object
        .items("subjects")
        .iter()
        .filter(|subject| subject.text("kind") == kind)
        .map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", subject.text("namespace"), subject.text("name")),
            _ => subject.text("name").to_owned(),
        })
        .collect::<Vec<_>>()
        .join(", ")
}
