//! TokenRequest: a signed token for a service account, bound to a pod, node or Secret if asked.
//!
//! Upstream: pkg/registry/core/serviceaccount/storage/token.go

use api::field::{Errors, Path};
use api::lister::Lister;
use api::status::Status;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::object::{text, texts, uid};
use crate::token::key::SigningKey;
use crate::token::{Claims, Kubernetes, Reference};
use crate::user::service_account_name;

/// The lifetime that kubelets ask for where a pod did not: the mark by which extension recognises them. Upstream: an hour and 7 s.
const WARN_ONLY_SECONDS: i64 = 3607;
/// How long such tokens live really, seconds: a year, so that clients which never read the file again go on.
const EXTENDED_SECONDS: i64 = 24 * 365 * 60 * 60;
/// Shortest lifetime that may be asked for, seconds.
const MIN_SECONDS: i64 = 10 * 60;

/// Makes tokens.
pub struct Issuer {
    /// The `iss` claim: the first `--service-account-issuer`.
    pub issuer: String,
    /// What signs.
    pub key: SigningKey,
    /// Audiences of requests that name none.
    pub api_audiences: Vec<String>,
    /// `--service-account-max-token-expiration`, seconds; 0 for none.
    pub max_seconds: i64,
    /// `--service-account-extend-token-expiration`.
    pub extend: bool,
}

/// An answer to a TokenRequest.
#[derive(Debug)]
pub struct Issued {
    /// The TokenRequest with its status.
    pub object: Value,
    /// Text for a Warning header.
    pub warning: Option<String>,
}

impl Issuer {
    /// Answers a (defaulted) TokenRequest for this service account. `jti` is a fresh random uuid.
    ///
    /// # Errors
    /// Upstream's: 422 for a bad spec, 404 and 409 for the bound object, 400 for objects that cannot be bound.
    pub fn issue(
        &self,
        request: &Value,
        account: &Value,
        lister: &dyn Lister,
        jti: &str,
        now: Timestamp,
    ) -> Result<Issued, Status> {
        let (namespace, name) = (text(account, "/metadata/namespace"), text(account, "/metadata/name"));
        let mut seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
        validate(seconds)?;
        check_metadata(request, namespace, name)?;
        let mut audiences = texts(request, "/spec/audiences");
        if audiences.is_empty() {
            audiences.clone_from(&self.api_audiences);
        }
        let bound = self.bound(request, namespace, name, lister)?;

        let mut warning = None;
        if self.max_seconds > 0 && seconds > self.max_seconds {
            warning = Some(format!("requested expiration of {seconds} seconds shortened to {} seconds", self.max_seconds));
            seconds = self.max_seconds;
        }
        let extended = self.extend
            && bound.pod.is_some()
            && seconds == WARN_ONLY_SECONDS
            && audiences.iter().all(|audience| self.api_audiences.contains(audience));
        let lifetime = if extended { EXTENDED_SECONDS } else { seconds };
        let at = now.as_second();
        let claims = Claims {
            aud: audiences.clone(),
            exp: at + lifetime,
            iat: at,
            nbf: at,
            iss: self.issuer.clone(),
            jti: jti.to_owned(),
            sub: service_account_name(namespace, name),
            kubernetes: Some(Kubernetes {
                namespace: namespace.to_owned(),
                serviceaccount: Reference { name: name.to_owned(), uid: uid(account).to_owned() },
                warnafter: if extended { at + seconds } else { 0 },
                ..bound
            }),
            ..Claims::default()
        };
        let token = self.key.sign(&claims).map_err(Status::internal)?;

        let expires = Timestamp::from_second(at).unwrap_or(now) + SignedDuration::from_secs(seconds);
        let mut object = request.clone();
        object["metadata"]["name"] = name.into();
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["creationTimestamp"] = rfc3339(now).into();
        object["spec"]["audiences"] = json!(audiences);
        object["spec"]["expirationSeconds"] = seconds.into();
        if object["spec"].get("boundObjectRef").is_none() {
            object["spec"]["boundObjectRef"] = Value::Null;
        }
        object["status"] = json!({"expirationTimestamp": rfc3339(expires), "token": token});
        Ok(Issued { object, warning })
    }

    fn bound(&self, request: &Value, namespace: &str, account: &str, lister: &dyn Lister) -> Result<Kubernetes, Status> {
        let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|reference| reference.is_object()) else {
            return Ok(Kubernetes::default());
        };
        let (kind, name) = (text(reference, "/kind"), text(reference, "/name"));
        let version = text(reference, "/apiVersion");
        let (resource, scope) = match (version, kind) {
            ("v1" | "", "Pod") => ("pods", namespace),
            ("v1" | "", "Secret") => ("secrets", namespace),
            ("v1" | "", "Node") => ("nodes", ""),
            _ => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                let message = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
                return Err(Status::bad_request(message));
            }
        };
        let object = lister.get("", resource, scope, name).ok_or_else(|| Status::not_found("", resource, name))?;
        let mut claims = Kubernetes::default();
        let found = Some(Reference { name: name.to_owned(), uid: uid(&object).to_owned() });
        match resource {
            "pods" => {
                if text(&object, "/spec/serviceAccountName") != account {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                    )));
                }
                let node = text(&object, "/spec/nodeName");
                if !node.is_empty() {
                    let uid = lister.get("", "nodes", "", node).map(|node| uid(&node).to_owned()).unwrap_or_default();
                    claims.node = Some(Reference { name: node.to_owned(), uid });
                }
                claims.pod = found;
            }
            "nodes" => claims.node = found,
            _ => claims.secret = found,
        }
        let wanted = text(reference, "/uid");
        if !wanted.is_empty() && wanted != uid(&object) {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", kind, name, why));
        }
        Ok(claims)
    }
}

fn validate(seconds: i64) -> Result<(), Status> {
    let path = Path::new("spec").child("expirationSeconds");
    let mut errors = Errors::new();
    if seconds < MIN_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.add(api::field::ErrorType::TooLong, &path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &errors)) }
}

fn check_metadata(request: &Value, namespace: &str, name: &str) -> Result<(), Status> {
    let (asked_name, asked_namespace) = (text(request, "/metadata/name"), text(request, "/metadata/namespace"));
    let mut errors = Errors::new();
    let metadata = Path::new("metadata");
    if !asked_name.is_empty() && asked_name != name {
        errors.invalid(&metadata.child("name"), asked_name, "must match the service account name");
    }
    if !asked_namespace.is_empty() && asked_namespace != namespace {
        errors.invalid(&metadata.child("namespace"), asked_namespace, "must match the service account namespace");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("authentication.k8s.io", "TokenRequest", name, &errors)) }
}

/// A time as objects have it: whole seconds, UTC.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}
