//! The rbac.authorization.k8s.io group.
//!
//! Upstream: pkg/registry/rbac, pkg/apis/rbac/v1/defaults.go

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text, wide};
use crate::identifier;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// The group's name, the default of references to its kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles.
pub fn role(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| rules(object, true, errors),
        validate_update: |_, new, _, errors| rules(new, true, errors),
        create_on_update: true,
        name: identifier::path_segment,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = column::generic();
}

/// ClusterRoles.
pub fn cluster_role(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| cluster(object, errors),
        validate_update: |_, new, _, errors| cluster(new, errors),
        create_on_update: true,
        name: identifier::path_segment,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = column::generic();
}

/// RoleBindings.
pub fn role_binding(resource: &mut Resource) {
    resource.strategy = Rules {
        default: default_binding,
        validate: |_, object, errors| binding(object, true, errors),
        validate_update: |_, new, old, errors| {
            binding(new, true, errors);
            same_role(new, old, errors);
        },
        create_on_update: true,
        name: identifier::path_segment,
        ..Rules::GENERIC
    }
    .strategy();
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
    resource.strategy = Rules {
        default: default_binding,
        validate: |_, object, errors| binding(object, false, errors),
        validate_update: |_, new, old, errors| {
            binding(new, false, errors);
            same_role(new, old, errors);
        },
        create_on_update: true,
        name: identifier::path_segment,
        ..Rules::GENERIC
    }
    .strategy();
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

fn rules(object: &Value, namespaced: bool, errors: &mut Errors) {
    for (index, rule) in object.items("rules").iter().enumerate() {
        let path = Path::new("rules").index(index);
        if rule.items("verbs").is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        let (groups, resources) = (rule.items("apiGroups"), rule.items("resources"));
        if !rule.items("nonResourceURLs").is_empty() {
            let (urls, at) = (rule.at("nonResourceURLs").clone(), path.child("nonResourceURLs"));
            if namespaced {
                errors.invalid(&at, urls.clone(), "namespaced rules cannot apply to non-resource URLs");
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.items("resourceNames").is_empty() {
                errors.invalid(&at, urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if groups.is_empty() {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if resources.is_empty() {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn cluster(object: &Value, errors: &mut Errors) {
    rules(object, false, errors);
    let rule = object.at("aggregationRule");
    if rule.is_null() {
        return;
    }
    let path = Path::new("aggregationRule.clusterRoleSelectors");
    let selectors = rule.items("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (index, selector) in selectors.iter().enumerate() {
        let path = path.index(index);
        let before = errors.0.len();
        check::label_selector(selector, &path, errors);
        if errors.0.len() > before || check::selects(selector, &Value::Null).is_none() {
            errors.add_shown(ErrorType::Invalid, &path, "null", "invalid label selector.");
        }
    }
}

fn binding(object: &Value, namespaced: bool, errors: &mut Errors) {
    let role = object.at("roleRef");
    let path = Path::new("roleRef");
    if role.text("apiGroup") != GROUP {
        errors.not_one_of(&path.child("apiGroup"), role.text("apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.text("kind")) {
        errors.not_one_of(&path.child("kind"), role.text("kind"), kinds);
    }
    if role.text("name").is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        check::each(identifier::path_segment(role.text("name"), false), role.text("name"), &path.child("name"), errors);
    }
    for (index, subject) in object.items("subjects").iter().enumerate() {
        let path = Path::new("subjects").index(index);
        let (name, group) = (subject.text("name"), subject.text("apiGroup"));
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        match subject.text("kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    check::subdomain(name, &path.child("name"), errors);
                }
                if !group.is_empty() {
                    errors.not_one_of(&path.child("apiGroup"), group, &[""]);
                }
                if !namespaced && subject.text("namespace").is_empty() {
                    errors.required(&path.child("namespace"), "");
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.not_one_of(&path.child("apiGroup"), group, &[GROUP]);
                }
            }
            other => errors.not_one_of(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
        }
    }
}

fn same_role(new: &Value, old: &Value, errors: &mut Errors) {
    let role = new.at("roleRef");
    if role != old.at("roleRef") {
        let shown = crate::internal::compact("RoleRef", role);
        errors.add_shown(ErrorType::Invalid, &Path::new("roleRef"), shown, "cannot change roleRef");
    }
}
