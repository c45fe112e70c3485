//! The certificates.k8s.io group.
//!
//! Upstream: pkg/registry/certificates/certificates

use serde_json::{Value, json};

use crate::column::{self, since, text};
use crate::identifier;
use crate::resource::{Context, Resource};
use crate::rules::Rules;
use crate::tree::{Tree, same};

/// CertificateSigningRequests: who asks is recorded by the server, the spec never changes, approval and certificate have their own subresources.
pub fn signing_request(resource: &mut Resource) {
    resource.strategy = Rules {
        create,
        update: |_, new, old| new.keep("spec", old),
        subresource: approve,
        status_update: |context, new, old| {
            // The certificate's writer does not approve.
            let approved = |object: &Value| -> Vec<Value> {
                object
                    .at("status")
                    .items("conditions")
                    .iter()
                    .filter(|c| matches!(c.text("type"), "Approved" | "Denied"))
                    .cloned()
                    .collect()
            };
            let others =
                new.at("status").items("conditions").iter().filter(|c| !matches!(c.text("type"), "Approved" | "Denied")).cloned();
            let all: Vec<Value> = approved(old).into_iter().chain(others).collect();
            if all.is_empty() {
                new.child("status").drop("conditions")
            } else {
                new.child("status").set("conditions", all)
            }
            condition_times(context, new, old);
        },
        status: true,
        name: identifier::name_is_free,
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![("spec.signerName", |object| object.at("spec").text("signerName").to_owned())];
    resource.columns = vec![
        column::name(),
        column::age(),
        text("SignerName", "signerName indicates the requested signer, and is a qualified name.", |object, _| {
            object.at("spec").text("signerName").into()
        }),
        text("Requestor", "username contains the name of the user that created the CertificateSigningRequest.", |object, _| {
            object.at("spec").text("username").into()
        }),
        text(
            "RequestedDuration",
            "expirationSeconds is the requested duration of validity of the issued certificate.",
            |object, _| {
                object.at("spec").int("expirationSeconds").map_or_else(|| "<none>".to_owned(), column::human_duration).into()
            },
        ),
        text(
            "Condition",
            "conditions applied to the request. Known conditions are \"Approved\", \"Denied\", and \"Failed\".",
            |object, _| condition(object).into(),
        ),
    ];
}

fn create(context: &Context, object: &mut Value) {
    let spec = object.child("spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.drop(field);
    }
    if !context.user.is_empty() {
        spec.set("username", context.user.clone());
    }
    if !context.user_uid.is_empty() {
        spec.set("uid", context.user_uid.clone());
    }
    if !context.user_groups.is_empty() {
        spec.set("groups", context.user_groups.clone());
    }
    if !context.user_extra.is_empty() {
        let extra: serde_json::Map<String, Value> =
            context.user_extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
        spec.set("extra", extra);
    }
    object.set("status", json!({}));
}

/// `approval` writes conditions only.
fn approve(context: &Context, new: &mut Value, old: &Value) {
    let conditions = new.path("status.conditions").clone();
    let metadata = new.at("metadata").clone();
    let api_version = new.at("apiVersion").clone();
    *new = old.clone();
    new.set("apiVersion", api_version);
    new.set("metadata", metadata);
    let status = new.child("status");
    if conditions.is_null() {
        status.drop("conditions")
    } else {
        status.set("conditions", conditions)
    }
    condition_times(context, new, old);
}

/// New conditions get the time of the request; unchanged ones keep theirs.
fn condition_times(context: &Context, new: &mut Value, old: &Value) {
    let before = old.path("status.conditions").as_array().cloned().unwrap_or_default();
    for condition in new.child("status").items_mut("conditions") {
        condition.fill_text("status", "True");
        if before.iter().any(|other| same(other, condition)) {
            continue;
        }
        condition.set("lastUpdateTime", context.now.clone());
        if condition.at("lastTransitionTime").is_null() {
            let kept = before
                .iter()
                .find(|other| other.text("type") == condition.text("type") && other.text("status") == condition.text("status"));
            let time = kept.map_or_else(|| context.now.clone(), |kept| kept.text("lastTransitionTime").to_owned());
            condition.set("lastTransitionTime", time);
        }
    }
}

fn condition(object: &Value) -> String {
    let conditions = object.at("status").items("conditions");
    let has = |kind: &str| conditions.iter().any(|condition| condition.text("type") == kind);
    let mut out = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        out.push_str(",Failed");
    }
    if !object.at("status").text("certificate").is_empty() {
        out.push_str(",Issued");
    }
    out
}

/// ClusterTrustBundles.
pub fn cluster_trust_bundle(resource: &mut Resource) {
    resource.selectable = vec![("spec.signerName", |object| object.at("spec").text("signerName").to_owned())];
    resource.columns = vec![
        column::name(),
        text("SignerName", "signerName indicates the associated signer, if any.", |object, _| {
            object.at("spec").text("signerName").into()
        }),
    ];
}

/// PodCertificateRequests.
pub fn pod_certificate_request(resource: &mut Resource) {
    resource.strategy = Rules { create: |_, object| object.set("status", json!({})), status: true, ..Rules::GENERIC }.strategy();
    resource.selectable = vec![
        ("spec.signerName", |object| object.at("spec").text("signerName").to_owned()),
        ("spec.podName", |object| object.at("spec").text("podName").to_owned()),
        ("spec.nodeName", |object| object.at("spec").text("nodeName").to_owned()),
    ];
    resource.columns = vec![
        column::name(),
        text("PodName", "The pod that asks.", |object, _| object.at("spec").text("podName").into()),
        text("ServiceAccountName", "The pod's service account.", |object, _| object.at("spec").text("serviceAccountName").into()),
        text("NodeName", "The pod's node.", |object, _| object.at("spec").text("nodeName").into()),
        text("SignerName", "The requested signer.", |object, _| object.at("spec").text("signerName").into()),
        text("State", "Issued, Denied, Failed or Pending.", |object, _| {
            object
                .at("status")
                .items("conditions")
                .iter()
                .map(|c| c.text("type"))
                .find(|kind| matches!(*kind, "Issued" | "Denied" | "Failed"))
                .unwrap_or("Pending")
                .into()
        }),
        text("Age", column::CREATION_TIMESTAMP, |object, now| since(object.at("metadata").at("creationTimestamp"), now).into()),
    ];
}
