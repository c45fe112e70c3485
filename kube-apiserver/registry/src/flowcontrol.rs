//! The flowcontrol.apiserver.k8s.io group.
//!
//! Upstream: pkg/apis/flowcontrol/v1/defaults.go

use api::field::{ErrorType, Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, integer, text};
use crate::identifier;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// FlowSchemas.
pub fn flow_schema(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| object.child("spec").fill_int("matchingPrecedence", 1000),
        validate: |_, object, errors| validate_schema(object, errors),
        validate_update: |_, new, _, errors| validate_schema(new, errors),
        create: |_, object| object.set("status", json!({})),
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("PriorityLevel", "The PriorityLevelConfiguration that requests go to.", |object, _| {
            object.path("spec.priorityLevelConfiguration").text("name").into()
        }),
        integer("MatchingPrecedence", "Lower values are tried first.", |object, _| {
            object.at("spec").int("matchingPrecedence").unwrap_or(0).into()
        }),
        text("DistinguisherMethod", "How flows are told apart.", |object, _| {
            match object.path("spec.distinguisherMethod").text("type") {
                "" => "<none>".into(),
                kind => kind.into(),
            }
        }),
        column::age(),
        text("MissingPL", "Whether the priority level is missing.", |object, _| {
            let dangling = object.at("status").items("conditions").iter().find(|c| c.text("type") == "Dangling");
            dangling.map_or("?", |condition| condition.text("status")).into()
        }),
    ];
}

/// PriorityLevelConfigurations.
pub fn priority_level(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        validate: |_, object, errors| validate_level(object, errors),
        validate_update: |_, new, _, errors| validate_level(new, errors),
        create: |_, object| object.set("status", json!({})),
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Type", "Exempt or Limited.", |object, _| object.at("spec").text("type").into()),
        text("NominalConcurrencyShares", "Share of the server's concurrency.", |object, _| {
            let part = if object.at("spec").text("type") == "Exempt" { "spec.exempt" } else { "spec.limited" };
            match object.path(part).int("nominalConcurrencyShares") {
                Some(shares) => shares.into(),
                None => "<none>".into(),
            }
        }),
        text("Queues", "Number of queues.", |object, _| queue(object, "queues")),
        text("HandSize", "Queues dealt to a flow.", |object, _| queue(object, "handSize")),
        text("QueueLengthLimit", "Requests a queue may hold.", |object, _| queue(object, "queueLengthLimit")),
        column::age(),
    ];
}

fn queue(object: &Value, field: &str) -> Value {
    object.path("spec.limited.limitResponse.queuing").int(field).map_or_else(|| "<none>".into(), Value::from)
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    if spec.text("type") == "Exempt" && !spec.has("exempt") {
        spec.set("exempt", json!({}));
    }
    if let Some(exempt) = spec.child_if("exempt") {
        exempt.fill("nominalConcurrencyShares", 0);
        exempt.fill("lendablePercent", 0);
    }
    if let Some(limited) = spec.child_if("limited") {
        limited.fill("nominalConcurrencyShares", 30);
        limited.fill("lendablePercent", 0);
        if let Some(queuing) = limited.child("limitResponse").child_if("queuing") {
            queuing.fill_int("handSize", 8);
            queuing.fill_int("queues", 64);
            queuing.fill_int("queueLengthLimit", 50);
        }
    }
}

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn validate_schema(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    let precedence = spec.int("matchingPrecedence").unwrap_or(0);
    let at = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > 10000 {
        errors.invalid(&at, precedence, "must not be greater than 10000");
    }
    if precedence == 1 && object.at("metadata").text("name") != "exempt" {
        errors.invalid(&at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if spec.has("distinguisherMethod") {
        let kind = spec.at("distinguisherMethod").text("type");
        if !matches!(kind, "ByNamespace" | "ByUser") {
            errors.not_supported(&path.child("distinguisherMethod"), kind, &["ByNamespace", "ByUser"]);
        }
    }
    let level = spec.at("priorityLevelConfiguration").text("name");
    let at = path.child("priorityLevelConfiguration.name");
    if level.is_empty() {
        errors.required(&at, "must reference a priority level");
    } else {
        check::subdomain(level, &at, errors);
    }
    for (index, rule) in spec.items("rules").iter().enumerate() {
        let path = path.child("rules").index(index);
        if rule.items("subjects").is_empty() {
            errors.required(&path.child("subjects"), "subjects must contain at least one value");
        }
        for (index, subject) in rule.items("subjects").iter().enumerate() {
            self::subject(subject, &path.child("subjects").index(index), errors);
        }
        if rule.items("resourceRules").is_empty() && rule.items("nonResourceRules").is_empty() {
            errors.required(&path, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        for (index, resource) in rule.items("resourceRules").iter().enumerate() {
            resource_rule(resource, &path.child("resourceRules").index(index), errors);
        }
        for (index, other) in rule.items("nonResourceRules").iter().enumerate() {
            let path = path.child("nonResourceRules").index(index);
            verbs(other, &path, errors);
            if other.items("nonResourceURLs").is_empty() {
                errors.required(&path.child("nonResourceURLs"), "nonResourceURLs must contain at least one value");
            }
        }
    }
}

fn subject(subject: &Value, path: &Path, errors: &mut Errors) {
    let parts = [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
    let kind = subject.text("kind");
    let Some((_, field)) = parts.iter().find(|(known, _)| *known == kind) else {
        errors.not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    for (other, key) in parts {
        if other != kind && subject.has(key) {
            let article = format!("{key} is forbidden when subject kind is not '{other}'");
            errors.forbidden(&path.child(key), article);
        }
    }
    let body = subject.at(field);
    let at = path.child(field);
    if body.is_null() {
        errors.required(&at, format!("{field} is required when subject kind is '{kind}'"));
        return;
    }
    if kind == "ServiceAccount" {
        let namespace = body.text("namespace");
        if namespace.is_empty() {
            errors.required(&at.child("namespace"), "must specify namespace for service account");
        } else {
            check::label_name(namespace, &at.child("namespace"), errors);
        }
        let name = body.text("name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if name != "*" {
            check::subdomain(name, &at.child("name"), errors);
        }
    } else if body.text("name").is_empty() {
        errors.required(&at.child("name"), "");
    }
}

fn verbs(rule: &Value, path: &Path, errors: &mut Errors) {
    let all = rule.items("verbs");
    let at = path.child("verbs");
    if all.is_empty() {
        errors.required(&at, "verbs must contain at least one value");
    } else if all.iter().any(|verb| verb == "*") {
        if all.len() > 1 {
            errors.invalid(&at, all.to_vec(), "if '*' is present, must not specify other verbs");
        }
    } else if !all.iter().all(|verb| verb.as_str().is_some_and(|verb| VERBS.contains(&verb))) {
        let allowed = VERBS.iter().map(|verb| format!("{verb:?}")).collect::<Vec<_>>().join(", ");
        errors.add(ErrorType::NotSupported, &at, all.to_vec(), format!("supported values: {allowed}"));
    }
}

fn resource_rule(rule: &Value, path: &Path, errors: &mut Errors) {
    verbs(rule, path, errors);
    for (field, what, word) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let all = rule.items(field);
        if all.is_empty() {
            errors.required(&path.child(field), format!("resource rules must supply at least one {what}"));
        } else if all.len() > 1 && all.iter().any(|item| item == "*") {
            errors.invalid(&path.child(field), all.to_vec(), format!("if '*' is present, must not specify other {word}"));
        }
    }
    let namespaces = rule.items("namespaces");
    let at = path.child("namespaces");
    if namespaces.is_empty() && !rule.truth("clusterScope") {
        errors.required(&at, "resource rules that are not cluster scoped must supply at least one namespace");
    } else if namespaces.len() > 1 && namespaces.iter().any(|namespace| namespace == "*") {
        errors.invalid(&at, namespaces.to_vec(), "if '*' is present, must not specify other namespaces");
    } else {
        for (index, namespace) in namespaces.iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or("");
            if namespace != "*" {
                for message in identifier::dns1123_label(namespace) {
                    let why = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                    errors.invalid(&at.index(index), namespace, why);
                }
            }
        }
    }
}

fn validate_level(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    match spec.text("type") {
        "Exempt" => {
            if spec.has("limited") {
                errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
        }
        "Limited" => {
            if spec.has("exempt") {
                errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
            }
            if spec.has("limited") {
                limited(spec.at("limited"), &path.child("limited"), errors);
            } else {
                errors.required(&path.child("limited"), "must not be empty when type is Limited");
            }
        }
        other => errors.not_supported(&path.child("type"), other, &["Exempt", "Limited"]),
    }
}

fn limited(limited: &Value, path: &Path, errors: &mut Errors) {
    if let Some(shares) = limited.int("nominalConcurrencyShares").filter(|shares| *shares < 0) {
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    let response = limited.at("limitResponse");
    let at = path.child("limitResponse");
    match response.text("type") {
        "Reject" => {
            if response.has("queuing") {
                errors.forbidden(&at.child("queuing"), "must be nil if limited.limitResponse.type is not Limited");
            }
        }
        "Queue" => {
            if response.has("queuing") {
                queuing(response.at("queuing"), &at.child("queuing"), errors);
            } else {
                errors.required(&at.child("queuing"), "must not be empty if limited.limitResponse.type is Limited");
            }
        }
        other => errors.not_supported(&at.child("type"), other, &["Queue", "Reject"]),
    }
    if let Some(percent) = limited.int("lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
    if let Some(percent) = limited.int("borrowingLimitPercent").filter(|percent| *percent < 0) {
        errors.invalid(&path.child("borrowingLimitPercent"), percent, "if specified, must be a non-negative integer");
    }
}

fn queuing(queuing: &Value, path: &Path, errors: &mut Errors) {
    let (queues, hand) = (queuing.int("queues").unwrap_or(0), queuing.int("handSize").unwrap_or(0));
    for field in ["queueLengthLimit", "queues"] {
        let number = queuing.int(field).unwrap_or(0);
        if number <= 0 {
            errors.invalid(&path.child(field), number, "must be positive");
        }
    }
    if queues > 10_000_000 {
        errors.invalid(&path.child("queues"), queues, "must not be greater than 10000000");
    }
    if hand <= 0 {
        errors.invalid(&path.child("handSize"), hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&path.child("handSize"), hand, format!("should not be greater than queues ({queues})"));
    }
}
