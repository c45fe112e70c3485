//! Tokens of service accounts: the keys that sign and verify them, their claims, and issuing (TokenRequest).
//!
//! Upstream: pkg/serviceaccount, pkg/registry/core/serviceaccount/storage/token.go

pub mod issue;
pub mod key;

use serde::{Deserialize, Serialize};

/// The issuer of tokens in Secrets, from before TokenRequest.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a bound token.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Claims {
    /// For whom the token is.
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// When it ends, seconds since 1970.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "seconds")]
    pub exp: i64,
    /// When it was made.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "seconds")]
    pub iat: i64,
    /// Who made it.
    #[serde(default)]
    pub iss: String,
    /// Its own identifier.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// From when it is good.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "seconds")]
    pub nbf: i64,
    /// `system:serviceaccount:<namespace>:<name>`.
    #[serde(default)]
    pub sub: String,

    /// Legacy tokens: the namespace.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default, skip_serializing_if = "String::is_empty")]
    pub legacy_namespace: String,
    /// Legacy tokens: the Secret that holds the token.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default, skip_serializing_if = "String::is_empty")]
    pub legacy_secret: String,
    /// Legacy tokens: the service account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name", default, skip_serializing_if = "String::is_empty")]
    pub legacy_name: String,
    /// Legacy tokens: its uid.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid", default, skip_serializing_if = "String::is_empty")]
    pub legacy_uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Kubernetes {
    /// The service account's namespace.
    #[serde(default)]
    pub namespace: String,
    /// The node that the token, or its pod, is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The Secret it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The service account.
    #[serde(default)]
    pub serviceaccount: Reference,
    /// After when its use is noted as stale.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "seconds")]
    pub warnafter: i64,
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reference {
    /// `metadata.name`.
    #[serde(default)]
    pub name: String,
    /// `metadata.uid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// NumericDate may have a fraction.
fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    // Saturates: a date beyond i64 is as good as the end of time.
    Ok(number as i64)
}

/// `aud` is a text or a list of texts.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::One(one) => vec![one],
        Either::Many(many) => many,
    })
}
