//! Bootstrap tokens: `abcdef.0123456789abcdef`, and the Secrets in kube-system that hold them.
//! Upstream: staging/src/k8s.io/cluster-bootstrap/token.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::types::BootstrapToken;

const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A token that nobody can guess: 16 secret characters of 36, 82 bits.
pub fn generate() -> String {
    let text = |n: usize| -> String { (0..n).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect() };
    format!("{}.{}", text(6), text(16))
}

/// Id and secret.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| ALPHABET.contains(&b));
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

/// Upstream: BootstrapGroupPattern.
pub fn is_group(group: &str) -> bool {
    group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
        !rest.is_empty()
            && rest.len() <= 256
            && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b":-".contains(&b))
            && !rest.ends_with([':', '-'])
    })
}

pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// The Secret of a token. A zero `ttl` without `expires` never expires.
pub fn secret(token: &BootstrapToken, now: Timestamp) -> Value {
    let (id, secret) = parse(&token.token).unwrap_or_default();
    let mut data: BTreeMap<&str, String> = BTreeMap::new();
    data.insert("token-id", id.to_string());
    data.insert("token-secret", secret.to_string());
    if !token.description.is_empty() {
        data.insert("description", token.description.clone());
    }
    let expires = if token.expires.is_empty() { expiry(token.ttl, now) } else { Some(token.expires.clone()) };
    if let Some(expires) = expires {
        data.insert("expiration", expires);
    }
    for (usage, key) in [("signing", "usage-bootstrap-signing"), ("authentication", "usage-bootstrap-authentication")] {
        if token.usages.iter().any(|known| known == usage) {
            data.insert(key, "true".into());
        }
    }
    if !token.groups.is_empty() {
        data.insert("auth-extra-groups", token.groups.join(","));
    }
    let data: BTreeMap<&str, String> = data.into_iter().map(|(key, value)| (key, STANDARD.encode(value))).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(id), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "data": data,
    })
}

/// RFC 3339 in whole seconds, `None` for a zero duration.
pub fn expiry(ttl: Duration, now: Timestamp) -> Option<String> {
    if ttl.is_zero() {
        return None;
    }
    let end = Timestamp::from_second(now.as_second().saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))).ok()?;
    Some(end.to_string())
}

/// A line of `token list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub token: String,
    pub expires: Option<Timestamp>,
    pub usages: Vec<&'static str>,
    pub description: String,
    pub groups: Vec<String>,
}

/// Reads a token's Secret; `None` when it is not one that can be used.
pub fn of_secret(secret: &Value) -> Option<Listed> {
    if secret["type"] != "bootstrap.kubernetes.io/token" {
        return None;
    }
    let field = |key: &str| -> Option<String> {
        let bytes = STANDARD.decode(secret["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let token = format!("{}.{}", field("token-id")?, field("token-secret")?);
    parse(&token)?;
    let used = |key: &str| field(key).as_deref() == Some("true");
    let mut usages = Vec::new();
    if used("usage-bootstrap-authentication") {
        usages.push("authentication");
    }
    if used("usage-bootstrap-signing") {
        usages.push("signing");
    }
    Some(Listed {
        token,
        expires: field("expiration").and_then(|text| text.parse().ok()),
        usages,
        description: field("description").unwrap_or_default(),
        groups: field("auth-extra-groups").map(|g| g.split(',').map(str::to_string).collect()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_form() {
        for _ in 0..50 {
            assert!(parse(&generate()).is_some());
        }
        for bad in [
            "",
            "abcdef",
            "abcdef.0123456789abcde",
            "abcdeF.0123456789abcdef",
            "abcdef.0123456789abcdef0",
            "abcdef-0123456789abcdef",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
        assert!(
            is_group("system:bootstrappers:kubeadm:default-node-token")
                && !is_group("system:nodes")
                && !is_group("system:bootstrappers:A")
        );
    }

    #[test]
    fn a_secret_is_kubeadms_and_reads_back() {
        let token = BootstrapToken { token: "abcdef.0123456789abcdef".into(), ..Default::default() };
        let now: Timestamp = "2026-11-20T20:21:28Z".parse().unwrap();
        let secret = secret(&token, now);
        // The values of reference/kubeadm/init-objects.txt.
        for (key, wanted) in [
            ("auth-extra-groups", "c3lzdGVtOmJvb3RzdHJhcHBlcnM6a3ViZWFkbTpkZWZhdWx0LW5vZGUtdG9rZW4="),
            ("expiration", "MjAyNi0xMS0yMVQyMDoyMToyOFo="),
            ("token-id", "YWJjZGVm"),
            ("token-secret", "MDEyMzQ1Njc4OWFiY2RlZg=="),
            ("usage-bootstrap-authentication", "dHJ1ZQ=="),
            ("usage-bootstrap-signing", "dHJ1ZQ=="),
        ] {
            assert_eq!(secret["data"][key], wanted, "{key}");
        }
        let listed = of_secret(&secret).unwrap();
        assert_eq!((listed.token.as_str(), listed.usages.len(), listed.groups.len()), ("abcdef.0123456789abcdef", 2, 1));
        assert_eq!(of_secret(&json!({"type": "Opaque"})), None);
        assert_eq!(expiry(Duration::ZERO, now), None);
    }
}
