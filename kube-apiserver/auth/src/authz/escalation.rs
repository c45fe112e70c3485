//! Nobody grants more than they hold: checks for writes of roles and bindings.
//!
//! Upstream: pkg/registry/rbac/{escalation_check.go,validation/rule.go,*/policybased}

use api::status::Status;
use serde_json::Value;

use crate::authz::rbac::GROUP;
use crate::authz::rule::{Rule, compact, compact_text, everything, missing};
use crate::authz::{Attributes, Authorizers};
use crate::object::{aggregate, quoted, text};
use crate::user::{MASTERS, User};

/// Checks a create (`old` is `None`) or update of a Role or ClusterRole. `name` is that of the request, "" on create.
///
/// # Errors
/// 403, naming the missing rights.
pub fn check_role(
    authorizers: &Authorizers,
    user: &User,
    resource: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let (namespace, name) = (text(new, "/metadata/namespace"), text(new, "/metadata/name"));
    if user.in_group(MASTERS) {
        return Ok(());
    }
    let request_name = if old.is_some() { name } else { "" };
    if authorizers.authorize(&Attributes::resource(user, "escalate", GROUP, resource, namespace, request_name)).allowed() {
        return Ok(());
    }
    let unchanged =
        |key: &str| old.is_some_and(|old| old.get(key).unwrap_or(&Value::Null) == new.get(key).unwrap_or(&Value::Null));
    if unchanged("rules") && unchanged("aggregationRule") {
        return Ok(());
    }
    let forbid = |why: String| Status::forbidden(GROUP, resource, name, why);
    confirm(authorizers, user, namespace, &Rule::of_role(new)).map_err(forbid)?;
    let aggregates = |role: &Value| role.get("aggregationRule").is_some_and(|rule| !rule.is_null());
    if aggregates(new) || old.is_some_and(aggregates) {
        let full = confirm(authorizers, user, namespace, &everything());
        full.map_err(|why| forbid(format!("must have cluster-admin privileges to use the aggregationRule: {why}")))?;
    }
    Ok(())
}

/// Checks a create or update of a RoleBinding or ClusterRoleBinding.
///
/// # Errors
/// 403, naming the missing rights, or 404 for the role.
pub fn check_binding(authorizers: &Authorizers, user: &User, resource: &str, new: &Value) -> Result<(), Status> {
    let (namespace, name) = (text(new, "/metadata/namespace"), text(new, "/metadata/name"));
    let role_ref = &new["roleRef"];
    let role_name = text(role_ref, "/name");
    let role_resource = match text(role_ref, "/kind") {
        "Role" => "roles",
        "ClusterRole" => "clusterroles",
        _ => "",
    };
    if user.in_group(MASTERS)
        || (!role_resource.is_empty()
            && authorizers.authorize(&Attributes::resource(user, "bind", GROUP, role_resource, namespace, role_name)).allowed())
    {
        return Ok(());
    }
    let rules = authorizers.rbac.role_rules(role_ref, namespace);
    let rules = rules.map_err(|why| {
        if role_resource.is_empty() {
            Status::internal(why)
        } else {
            Status::not_found(GROUP, role_resource.trim_end_matches('s'), role_name)
        }
    })?;
    confirm(authorizers, user, namespace, &rules).map_err(|why| Status::forbidden(GROUP, resource, name, why))
}

fn confirm(authorizers: &Authorizers, user: &User, namespace: &str, rules: &[Rule]) -> Result<(), String> {
    let held = authorizers.rbac.rules_for(user, namespace);
    let missing = missing(&held.rules, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = compact(&missing).iter().map(compact_text).collect();
    lines.sort();
    lines.dedup();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        lines.join("\n")
    );
    if !held.errors.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", aggregate(&held.errors)));
    }
    Err(message)
}
