//! The review kinds, answered: object in, object with status out.
//!
//! Upstream: pkg/registry/{authentication,authorization}

use std::collections::BTreeMap;

use api::field::{Errors, Path};
use api::status::Status;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::authn::Authenticator;
use crate::authz::{Attributes, Authorizers, Decision};
use crate::object::{text, texts};
use crate::token::issue::rfc3339;
use crate::user::User;

const AUTHORIZATION: &str = "authorization.k8s.io";

/// SubjectAccessReview: may the user in the spec.
///
/// # Errors
/// 422 for a spec that asks nothing, or too much.
pub fn subject_access_review(authorizers: &Authorizers, review: &Value) -> Result<Value, Status> {
    let mut errors = spec_errors(review, true);
    errors.extend(metadata_errors(review, &[]));
    refuse("SubjectAccessReview", review, errors)?;
    Ok(answer(authorizers, &spec_user(review), review))
}

/// LocalSubjectAccessReview: the same within one namespace.
///
/// # Errors
/// 422 for a spec that asks nothing or too much, 400 where it names another namespace.
pub fn local_subject_access_review(authorizers: &Authorizers, review: &Value, namespace: &str) -> Result<Value, Status> {
    let mut errors = spec_errors(review, true);
    errors.extend(metadata_errors(review, &["namespace"]));
    let asked = text(review, "/spec/resourceAttributes/namespace");
    let spec = Path::new("spec");
    if asked != text(review, "/metadata/namespace") {
        errors.invalid(&spec.child("resourceAttributes.namespace"), asked, "must match metadata.namespace");
    }
    if let Some(attributes) = review.pointer("/spec/nonResourceAttributes").filter(|value| !value.is_null()) {
        errors.invalid(&spec.child("nonResourceAttributes"), attributes.clone(), "disallowed on this kind of request");
    }
    refuse("LocalSubjectAccessReview", review, errors)?;
    if asked != namespace {
        return Err(Status::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {namespace}")));
    }
    Ok(answer(authorizers, &spec_user(review), review))
}

/// SelfSubjectAccessReview: may I.
///
/// # Errors
/// 422 for a spec that asks nothing, or too much.
pub fn self_subject_access_review(authorizers: &Authorizers, review: &Value, user: &User) -> Result<Value, Status> {
    let mut errors = spec_errors(review, false);
    errors.extend(metadata_errors(review, &[]));
    refuse("SelfSubjectAccessReview", review, errors)?;
    Ok(answer(authorizers, user, review))
}

/// SelfSubjectRulesReview: what may I in the namespace.
///
/// # Errors
/// 400 without a namespace.
pub fn self_subject_rules_review(authorizers: &Authorizers, review: &Value, user: &User) -> Result<Value, Status> {
    let namespace = text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let found = authorizers.rules_for(user, namespace);
    let (mut resource, mut other) = (Vec::new(), Vec::new());
    for rule in &found.rules {
        if !rule.resources.is_empty() {
            let mut value = rule.to_value();
            value.as_object_mut().map(|value| value.remove("nonResourceURLs"));
            resource.push(value);
        }
        if !rule.non_resource_urls.is_empty() {
            other.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let mut out = review.clone();
    out["status"] = json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": found.incomplete});
    if !found.errors.is_empty() {
        out["status"]["evaluationError"] = found.error().into();
    }
    Ok(out)
}

/// TokenReview: whose token is this.
///
/// # Errors
/// 400 without a token.
pub fn token_review(authenticator: &Authenticator, review: &Value, now: Timestamp) -> Result<Value, Status> {
    let token = text(review, "/spec/token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = texts(review, "/spec/audiences");
    let mut out = review.clone();
    out["status"] = match authenticator.authenticate_token(token, &audiences, now) {
        Ok(Some(identity)) => {
            let mut status = json!({"authenticated": true, "user": identity.user.to_value()});
            if !identity.audiences.is_empty() {
                status["audiences"] = json!(identity.audiences);
            }
            status
        }
        Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
        Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
    };
    Ok(out)
}

/// SelfSubjectReview: who am I.
pub fn self_subject_review(review: &Value, user: &User, now: Timestamp) -> Value {
    let mut out = review.clone();
    out["metadata"] = json!({"creationTimestamp": rfc3339(now)});
    out["status"] = json!({"userInfo": user.to_value()});
    out
}

fn answer(authorizers: &Authorizers, user: &User, review: &Value) -> Value {
    let decision = match review.pointer("/spec/resourceAttributes").filter(|value| value.is_object()) {
        Some(asked) => {
            let field = selector(asked.get("fieldSelector"));
            authorizers.authorize(&Attributes {
                user,
                verb: text(asked, "/verb"),
                resource_request: true,
                group: text(asked, "/group"),
                version: text(asked, "/version"),
                resource: text(asked, "/resource"),
                subresource: text(asked, "/subresource"),
                namespace: text(asked, "/namespace"),
                name: text(asked, "/name"),
                path: "",
                field_selector: &field,
                label_selector: text(asked, "/labelSelector/rawSelector"),
            })
        }
        None => {
            let asked = &review["spec"]["nonResourceAttributes"];
            authorizers.authorize(&Attributes::path(user, text(asked, "/verb"), text(asked, "/path")))
        }
    };
    let mut status = Map::new();
    status.insert("allowed".to_owned(), decision.allowed().into());
    if matches!(decision, Decision::Deny(_)) {
        status.insert("denied".to_owned(), true.into());
    }
    if !decision.reason().is_empty() {
        status.insert("reason".to_owned(), decision.reason().into());
    }
    let mut out = review.clone();
    out["status"] = status.into();
    out
}

/// A selector of the spec in the form of the request parameter.
fn selector(spec: Option<&Value>) -> String {
    let Some(spec) = spec else { return String::new() };
    let raw = text(spec, "/rawSelector");
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let terms: Vec<String> = crate::object::list(spec, "/requirements")
        .iter()
        .filter(|term| text(term, "/operator") == "In" && crate::object::list(term, "/values").len() == 1)
        .map(|term| format!("{}={}", text(term, "/key"), text(term, "/values/0")))
        .collect();
    terms.join(",")
}

fn spec_user(review: &Value) -> User {
    let mut extra = BTreeMap::new();
    for (key, values) in review.pointer("/spec/extra").and_then(Value::as_object).into_iter().flatten() {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        extra.insert(key.to_lowercase(), values);
    }
    User {
        name: text(review, "/spec/user").to_owned(),
        uid: text(review, "/spec/uid").to_owned(),
        groups: texts(review, "/spec/groups"),
        extra,
    }
}

fn spec_errors(review: &Value, with_user: bool) -> Errors {
    let mut errors = Errors::new();
    let spec = Path::new("spec");
    let present = |key: &str| review.pointer(&format!("/spec/{key}")).filter(|value| !value.is_null());
    let (resource, other) = (present("resourceAttributes"), present("nonResourceAttributes"));
    match (resource, other) {
        (Some(_), Some(other)) => errors.invalid(
            &spec.child("nonResourceAttributes"),
            other.clone(),
            "cannot be specified in combination with resourceAttributes",
        ),
        (None, None) => errors.invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    if with_user && text(review, "/spec/user").is_empty() && texts(review, "/spec/groups").is_empty() {
        errors.invalid(&spec.child("user"), "", "at least one of user or group must be specified");
    }
    errors
}

/// Reviews are not kept: metadata may hold nothing but what `allowed` names.
fn metadata_errors(review: &Value, allowed: &[&str]) -> Errors {
    let mut errors = Errors::new();
    let metadata = review.get("metadata").and_then(Value::as_object);
    let ignored = |key: &str| key == "managedFields" || allowed.contains(&key);
    let empty = |value: &Value| value.is_null() || value == "" || value.as_object().is_some_and(Map::is_empty);
    if metadata.is_some_and(|all| all.iter().any(|(key, value)| !ignored(key) && !empty(value))) {
        let detail = if allowed.is_empty() { "must be empty" } else { "must be empty except for namespace" };
        errors.invalid(&Path::new("metadata"), review["metadata"].clone(), detail);
    }
    errors
}

fn refuse(kind: &str, review: &Value, errors: Errors) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(AUTHORIZATION, kind, text(review, "/metadata/name"), &errors))
}
