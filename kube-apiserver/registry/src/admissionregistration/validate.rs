//! Validation of webhook configurations and admission policies. Expressions are compiled by whoever runs them.
//!
//! Upstream: pkg/apis/admissionregistration/validation

use api::field::{Errors, Path};
use serde_json::Value;

use crate::cel;
use crate::check;
use crate::identifier;
use crate::tree::Tree;

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

pub(super) fn webhooks(object: &Value, errors: &mut Errors) {
    let mut names = Vec::new();
    for (index, webhook) in object.items("webhooks").iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        self::webhook(webhook, &path, errors);
        versions(webhook, &path.child("admissionReviewVersions"), errors);
        let name = webhook.text("name");
        if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        names.push(name);
    }
}

fn versions(webhook: &Value, path: &Path, errors: &mut Errors) {
    let all = webhook.items("admissionReviewVersions");
    if all.is_empty() {
        errors.required(path, "must specify one of v1, v1beta1");
        return;
    }
    let mut known = false;
    let mut seen = Vec::new();
    for (index, version) in all.iter().enumerate() {
        let version = version.as_str().unwrap_or("");
        if seen.contains(&version) {
            errors.invalid(&path.index(index), version, "duplicate version");
            continue;
        }
        seen.push(version);
        check::each(identifier::dns1035_label(version), version, &path.index(index), errors);
        known |= matches!(version, "v1" | "v1beta1");
    }
    if !known {
        errors.invalid(path, all.to_vec(), "must include at least one of v1, v1beta1");
    }
}

fn webhook(webhook: &Value, path: &Path, errors: &mut Errors) {
    qualified_domain(webhook.text("name"), &path.child("name"), errors);
    check::label_selector(webhook.at("namespaceSelector"), &path.child("namespaceSelector"), errors);
    check::label_selector(webhook.at("objectSelector"), &path.child("objectSelector"), errors);
    for (index, rule) in webhook.items("rules").iter().enumerate() {
        self::rule(rule, &path.child("rules").index(index), errors);
    }
    one_of(webhook, "failurePolicy", &["Fail", "Ignore"], path, errors);
    one_of(webhook, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    one_of(webhook, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
    if webhook.has("sideEffects") {
        one_of(webhook, "sideEffects", &["None", "NoneOnDryRun"], path, errors);
    } else {
        errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
    }
    if let Some(seconds) = webhook.int("timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        errors.invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    client(webhook.at("clientConfig"), &path.child("clientConfig"), errors);
    expressions(webhook, path, errors);
}

fn one_of(object: &Value, field: &str, allowed: &[&str], path: &Path, errors: &mut Errors) {
    let value = object.text(field);
    if object.has(field) && !allowed.contains(&value) {
        errors.not_supported(&path.child(field), value, allowed);
    }
}

/// A name of three segments at least.
fn qualified_domain(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let messages = identifier::dns1123_subdomain(name);
    if !messages.is_empty() {
        check::each(messages, name, path, errors);
    } else if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

fn client(config: &Value, path: &Path, errors: &mut Errors) {
    match (config.has("url"), config.has("service")) {
        (true, true) | (false, false) => errors.required(path, "exactly one of url or service is required"),
        (true, false) => url(config.text("url"), &path.child("url"), errors),
        (false, true) => {
            let service = config.at("service");
            let path = path.child("service");
            // Upstream has the two fields crossed.
            for (field, told) in [("name", "namespace"), ("namespace", "name")] {
                if service.text(field).is_empty() {
                    errors.required(&path.child(told), "");
                }
            }
            if service.has("path") {
                service_path(service.text("path"), &path.child("path"), errors);
            }
            let port = service.int("port").unwrap_or(443);
            for message in identifier::port_number(port) {
                errors.invalid(&path.child("port"), port, format!("port is not valid: {message}"));
            }
        }
    }
}

fn url(url: &str, path: &Path, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host_only = host.rsplit('@').next().unwrap_or("");
    if host_only.is_empty() {
        errors.invalid(path, host_only, format!("host must be specified{FORM}"));
    }
    if host.contains('@') {
        errors.invalid(path, host.split('@').next().unwrap_or(""), "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = rest.split('#').next().unwrap_or("").split_once('?') {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service_path(text: &str, path: &Path, errors: &mut Errors) {
    if text.is_empty() || text == "/" {
        return;
    }
    if text == "//" {
        errors.invalid(path, text, "segment[0] may not be empty");
        return;
    }
    if !text.starts_with('/') {
        errors.invalid(path, text, "must start with a '/'");
    }
    let body = text.strip_prefix('/').unwrap_or(text);
    let body = body.strip_suffix('/').unwrap_or(body);
    for (index, part) in body.split('/').enumerate() {
        if part.is_empty() {
            errors.invalid(path, text, format!("segment[{index}] may not be empty"));
            continue;
        }
        for message in identifier::dns1123_subdomain(part) {
            errors.invalid(path, text, format!("segment[{index}]: {message}"));
        }
    }
}

fn rule(rule: &Value, path: &Path, errors: &mut Errors) {
    let operations = rule.items("operations");
    let at = path.child("operations");
    if operations.is_empty() {
        errors.required(&at, "");
    }
    if operations.len() > 1 && operations.iter().any(|operation| operation == "*") {
        errors.invalid(&at, operations.to_vec(), "if '*' is present, must not specify other operations");
    }
    for (index, operation) in operations.iter().enumerate() {
        let operation = operation.as_str().unwrap_or("");
        if !OPERATIONS.contains(&operation) {
            errors.not_supported(&at.index(index), operation, OPERATIONS);
        }
    }
    for (field, word, empty) in [("apiGroups", "API groups", true), ("apiVersions", "API versions", false)] {
        let all = rule.items(field);
        let at = path.child(field);
        if all.is_empty() {
            errors.required(&at, "");
        }
        if all.len() > 1 && all.iter().any(|item| item == "*") {
            errors.invalid(&at, all.to_vec(), format!("if '*' is present, must not specify other {word}"));
        }
        if !empty {
            for (index, item) in all.iter().enumerate() {
                if item == "" {
                    errors.required(&at.index(index), "");
                }
            }
        }
    }
    resources(rule, &path.child("resources"), errors);
    one_of(rule, "scope", &["*", "Cluster", "Namespaced"], path, errors);
}

fn resources(rule: &Value, path: &Path, errors: &mut Errors) {
    let all = rule.items("resources");
    if all.is_empty() {
        errors.required(path, "");
    }
    let mut whole = Vec::new();
    let mut subs = Vec::new();
    let mut double = false;
    for (index, item) in all.iter().enumerate() {
        let item = item.as_str().unwrap_or("");
        if item.is_empty() {
            errors.required(&path.index(index), "");
            continue;
        }
        double |= item == "*/*";
        if let Some((resource, sub)) = item.split_once('/') {
            if whole.contains(&resource) {
                errors.invalid(&path.index(index), item, format!("if '{resource}/*' is present, must not specify {item}"));
            }
            if subs.contains(&sub) {
                errors.invalid(&path.index(index), item, format!("if '*/{sub}' is present, must not specify {item}"));
            }
            if sub == "*" {
                whole.push(resource);
            }
            if resource == "*" {
                subs.push(sub);
            }
        }
    }
    if all.len() > 1 && double {
        errors.invalid(path, all.to_vec(), "if '*/*' is present, must not specify other resources");
    }
    let star = all.iter().any(|item| item == "*");
    if star && all.iter().any(|item| item.as_str().is_some_and(|item| item != "*" && !item.contains('/'))) {
        errors.invalid(path, all.to_vec(), "if '*' is present, must not specify other resources without subresources");
    }
}

pub(super) fn policy(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    one_of(spec, "failurePolicy", &["Fail", "Ignore"], &path, errors);
    if spec.has("paramKind") {
        let kind = spec.at("paramKind");
        for field in ["apiVersion", "kind"] {
            if kind.text(field).is_empty() {
                errors.required(&path.child("paramKind").child(field), "");
            }
        }
    }
    let at = path.child("matchConstraints");
    if spec.has("matchConstraints") {
        constraints(spec.at("matchConstraints"), &at, errors);
        if spec.at("matchConstraints").items("resourceRules").is_empty() {
            errors.required(&at.child("resourceRules"), "");
        }
    } else {
        errors.required(&at, "");
    }
    expressions(spec, &path, errors);
    for (index, annotation) in spec.items("auditAnnotations").iter().enumerate() {
        let path = path.child("auditAnnotations").index(index);
        if annotation.text("key").is_empty() {
            errors.required(&path.child("key"), "");
        }
        let expression = annotation.text("valueExpression");
        if expression.trim().is_empty() {
            errors.required(&path.child("valueExpression"), "valueExpression is not specified");
        } else {
            cel::check(expression, &path.child("valueExpression"), errors);
        }
    }
    if spec.items("validations").is_empty() && spec.items("auditAnnotations").is_empty() {
        for field in ["validations", "auditAnnotations"] {
            errors.required(&path.child(field), "validations or auditAnnotations must contain at least one item");
        }
    }
    for (index, validation) in spec.items("validations").iter().enumerate() {
        let path = path.child("validations").index(index);
        if validation.text("expression").trim().is_empty() {
            errors.required(&path.child("expression"), "expression is not specified");
        } else {
            cel::check(validation.text("expression"), &path.child("expression"), errors);
        }
        if !validation.text("messageExpression").is_empty() {
            cel::check(validation.text("messageExpression"), &path.child("messageExpression"), errors);
        }
        one_of(validation, "reason", &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"], &path, errors);
    }
}

/// Conditions and variables, which policies of either sort and webhooks share.
fn expressions(holder: &Value, path: &Path, errors: &mut Errors) {
    for list in ["matchConditions", "variables"] {
        let mut names = Vec::new();
        for (index, item) in holder.items(list).iter().enumerate() {
            let path = path.child(list).index(index);
            let (name, expression) = (item.text("name"), item.text("expression"));
            if expression.trim().is_empty() {
                errors.required(&path.child("expression"), if list == "variables" { "expression is not specified" } else { "" });
            } else {
                cel::check(expression, &path.child("expression"), errors);
            }
            if name.is_empty() {
                errors.required(&path.child("name"), if list == "variables" { "name is not specified" } else { "" });
            } else if list == "matchConditions" {
                check::qualified(name, &path.child("name"), errors);
                if names.contains(&name) {
                    errors.duplicate(&path.child("name"), name);
                }
            }
            names.push(name);
        }
    }
}

/// Mutating policies: what they look at, and how they change it.
pub(super) fn mutating_policy(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    one_of(spec, "failurePolicy", &["Fail", "Ignore"], &path, errors);
    if spec.has("paramKind") {
        for field in ["apiVersion", "kind"] {
            if spec.at("paramKind").text(field).is_empty() {
                errors.required(&path.child("paramKind").child(field), "");
            }
        }
    }
    let at = path.child("matchConstraints");
    if spec.has("matchConstraints") {
        constraints(spec.at("matchConstraints"), &at, errors);
        if spec.at("matchConstraints").items("resourceRules").is_empty() {
            errors.required(&at.child("resourceRules"), "");
        }
    } else {
        errors.required(&at, "");
    }
    expressions(spec, &path, errors);
    if spec.items("mutations").is_empty() {
        errors.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    for (index, mutation) in spec.items("mutations").iter().enumerate() {
        let path = path.child("mutations").index(index);
        let (wanted, other) = match mutation.text("patchType") {
            "" => {
                errors.required(&path.child("patchType"), "");
                continue;
            }
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            kind => {
                errors.not_supported(&path.child("patchType"), kind, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        let kind = mutation.text("patchType");
        let expression = mutation.at(wanted).text("expression");
        let at = path.child(wanted).child("expression");
        if expression.trim().is_empty() {
            errors.required(&at, "expression is not specified");
        } else {
            cel::check(expression, &at, errors);
        }
        if mutation.has(other) {
            errors.forbidden(&path.child(other), format!("may not be specified when patchType is {kind}"));
        }
    }
    match spec.text("reinvocationPolicy") {
        "" => errors.required(&path.child("reinvocationPolicy"), ""),
        "Never" | "IfNeeded" => {}
        other => errors.not_supported(&path.child("reinvocationPolicy"), other, &["IfNeeded", "Never"]),
    }
}

fn constraints(resources: &Value, path: &Path, errors: &mut Errors) {
    one_of(resources, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    for key in ["namespaceSelector", "objectSelector"] {
        check::label_selector(resources.at(key), &path.child(key), errors);
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in resources.items(key).iter().enumerate() {
            self::rule(rule, &path.child(key).index(index), errors);
        }
    }
}

pub(super) fn binding(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    let policy = spec.text("policyName");
    if policy.is_empty() {
        errors.required(&path.child("policyName"), "");
    } else {
        check::subdomain(policy, &path.child("policyName"), errors);
    }
    if spec.has("paramRef") {
        let param = spec.at("paramRef");
        match (!param.text("name").is_empty(), param.has("selector")) {
            (true, true) => errors.forbidden(&path.child("paramRef.name"), "name and selector are mutually exclusive"),
            (false, false) => errors.required(&path.child("paramRef"), "one of name or selector must be specified"),
            _ => {}
        }
    }
    if spec.has("matchResources") {
        constraints(spec.at("matchResources"), &path.child("matchResources"), errors);
    }
    // Only bindings of validating policies have actions.
    if object.text("kind") != "ValidatingAdmissionPolicyBinding" {
        return;
    }
    let at = path.child("validationActions");
    let actions = spec.items("validationActions");
    if actions.is_empty() {
        errors.required(&at, "at least one validation action is required");
    }
    for (index, action) in actions.iter().enumerate() {
        let action = action.as_str().unwrap_or("");
        if !matches!(action, "Deny" | "Warn" | "Audit") {
            errors.not_supported(&at.index(index), action, &["Audit", "Deny", "Warn"]);
        }
        if actions[..index].iter().any(|other| other == action) {
            errors.duplicate(&at.index(index), action);
        }
    }
    if actions.iter().any(|action| action == "Deny") && actions.iter().any(|action| action == "Warn") {
        errors.invalid(&at, actions.to_vec(), "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
    }
}
