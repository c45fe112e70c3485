//! `EncryptionConfiguration`, checked.
//!
//! Upstream: apiserver/pkg/apis/apiserver/{types,validation}

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::cipher::Cipher;
use super::{Key, Keys, Place};

/// Resources and the keys for them.
pub(super) struct Row {
    pub(super) resources: Vec<String>,
    pub(super) keys: Keys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Rows>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Secrets>,
    aescbc: Option<Secrets>,
    secretbox: Option<Secrets>,
    /// `identity: {}`; YAML may leave the braces out.
    #[serde(default, deserialize_with = "present")]
    identity: bool,
    #[serde(default, deserialize_with = "present")]
    kms: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Secrets {
    #[serde(default)]
    keys: Vec<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(from).map(|_| true)
}

/// Reads a configuration.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<Vec<Row>, String> {
    let file: File = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    if file.kind != "EncryptionConfiguration" || file.api_version != "apiserver.config.k8s.io/v1" {
        return Err(format!(
            "got unexpected config type: {}, {}: expected apiserver.config.k8s.io/v1, EncryptionConfiguration",
            file.api_version, file.kind
        ));
    }
    if file.resources.is_empty() {
        return Err("resources: Required value: resources must be specified".to_owned());
    }
    let mut out = Vec::with_capacity(file.resources.len());
    for (at, row) in file.resources.into_iter().enumerate() {
        if row.resources.is_empty() {
            return Err(format!("resources[{at}].resources: Required value: must contain at least one resource"));
        }
        if let Some(name) = row.resources.iter().find(|name| name.chars().any(|c| c.is_ascii_uppercase())) {
            return Err(format!("resources[{at}].resources: Invalid value: {name:?}: resource name should be lowercase"));
        }
        if row.providers.is_empty() {
            return Err(format!("resources[{at}].providers: Required value: must contain at least one provider"));
        }
        let mut keys = Vec::new();
        for (index, provider) in row.providers.into_iter().enumerate() {
            read(provider, &format!("resources[{at}].providers[{index}]"), &mut keys)?;
        }
        out.push(Row { resources: row.resources, keys });
    }
    Ok(out)
}

fn read(provider: Provider, path: &str, keys: &mut Keys) -> Result<(), String> {
    let Provider { aesgcm, aescbc, secretbox, identity, kms } = provider;
    if kms {
        return Err(format!("{path}.kms: the provider kms is not yet supported by rk"));
    }
    let count = [aesgcm.is_some(), aescbc.is_some(), secretbox.is_some(), identity].into_iter().filter(|given| *given).count();
    if count != 1 {
        let why = if count == 0 {
            "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
        } else {
            "more than one provider specified in a single element, should split into different list elements"
        };
        return Err(format!("{path}: {why}"));
    }
    if identity {
        keys.push(Key { prefix: Vec::new(), cipher: Cipher::Identity });
    }
    type Make = fn(&[u8]) -> Result<Cipher, String>;
    let kinds: [(&str, Option<Secrets>, Make); 3] =
        [("aesgcm", aesgcm, Cipher::gcm), ("aescbc", aescbc, Cipher::cbc), ("secretbox", secretbox, Cipher::secret_box)];
    for (kind, secrets, make) in kinds {
        let Some(secrets) = secrets else { continue };
        if secrets.keys.is_empty() {
            return Err(format!("{path}.{kind}.keys: Required value: must contain at least one key"));
        }
        for (index, Secret { name, secret }) in secrets.keys.into_iter().enumerate() {
            let at = format!("{path}.{kind}.keys[{index}]");
            if name.is_empty() {
                return Err(format!("{at}.name: Required value: name must be specified"));
            }
            if secret.is_empty() {
                return Err(format!("{at}.secret: Required value: secret must be specified"));
            }
            // The secret itself is never told.
            let secret = STANDARD
                .decode(secret.trim())
                .map_err(|_| format!("{at}.secret: Invalid value: \"REDACTED\": secret must be base64 encoded"))?;
            let cipher = make(&secret).map_err(|why| format!("{at}.secret: Invalid value: \"REDACTED\": {why}"))?;
            keys.push(Key { prefix: format!("k8s:enc:{kind}:v1:{name}:").into_bytes(), cipher });
        }
    }
    Ok(())
}

/// Whether a name of the configuration means this resource: `secrets`, `deployments.apps`, `*.`, `*.apps`, `*.*`.
pub(super) fn names(name: &str, place: &Place) -> bool {
    match name.split_once('.') {
        None => place.group.is_empty() && name == place.plural,
        Some(("*", "*")) => true,
        Some((plural, group)) => (plural == "*" || plural == place.plural) && group == place.group,
    }
}
