//! The certificates.k8s.io group.
//!
//! Upstream: pkg/registry/certificates/certificates

use api::field::{ErrorType, Errors, Path};
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
        validate: |_, object, errors| validate(object, errors),
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

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    if let Err(why) = parse_request(spec.text("request")) {
        let value = if spec.text("request").is_empty() { Value::Null } else { spec.at("request").clone() };
        errors.invalid(&path.child("request"), value, why);
    }
    let usages = spec.items("usages");
    if usages.is_empty() {
        errors.required(&path.child("usages"), "");
    }
    let mut seen = Vec::new();
    for (index, usage) in usages.iter().enumerate() {
        let usage = usage.as_str().unwrap_or("");
        if !USAGES.contains(&usage) {
            errors.not_supported(&path.child("usages").index(index), usage, USAGES);
        }
        if seen.contains(&usage) {
            errors.duplicate(&path.child("usages").index(index), usage);
        }
        seen.push(usage);
    }
    let signer = spec.text("signerName");
    let at = path.child("signerName");
    if signer.is_empty() {
        errors.required(&at, "");
    } else {
        signer_name(signer, &at, errors);
    }
    if let Some(seconds) = spec.int("expirationSeconds").filter(|seconds| *seconds < 600) {
        errors.invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

fn signer_name(signer: &str, path: &Path, errors: &mut Errors) {
    if signer.len() > 253 + 1 + 63 * 5 {
        errors.too_long(path, 253 + 1 + 63 * 5);
    }
    let Some((domain, name)) = signer.split_once('/') else {
        errors.invalid(path, signer, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    for message in identifier::dns1123_subdomain(domain) {
        errors.invalid(path, domain, format!("validating domain segment: {message}"));
    }
    if !domain.contains('.') {
        errors.add(ErrorType::Invalid, path, domain, "should be a domain with at least two segments separated by dots");
    }
    for part in name.split('.') {
        for message in identifier::dns1123_subdomain(part) {
            errors.invalid(path, name, format!("validating label {part:?}: {message}"));
        }
    }
}

/// Whether the text is a signing request in PEM, in base64.
fn parse_request(encoded: &str) -> Result<(), String> {
    use base64::Engine;
    use x509_parser::prelude::FromDer;
    let pem = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    let block = match x509_parser::pem::parse_x509_pem(&pem) {
        Ok((_, block)) if block.label == "CERTIFICATE REQUEST" => block,
        _ => return Err("PEM block type must be CERTIFICATE REQUEST".to_owned()),
    };
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
        .map_err(|error| format!("asn1: structure error: {error}"))?;
    request.verify_signature().map_err(|error| error.to_string())
}
