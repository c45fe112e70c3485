//! Bootstrap tokens: Secrets of kube-system from which new nodes get their first credentials.
//!
//! Upstream: staging/src/k8s.io/cluster-bootstrap

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
pub const NAMESPACE: &str = "kube-system";

fn field<'a>(secret: &'a Secret, name: &str) -> &'a str {
    secret.data.as_ref().and_then(|data| data.get(name)).and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or("")
}

/// When the token ends, if it says so; an unreadable time has passed.
pub fn expiration(secret: &Secret) -> Option<Timestamp> {
    match field(secret, "expiration") {
        "" => None,
        text => Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH)),
    }
}

/// The id and secret of a token that may sign cluster-info; `None` if it is malformed, expired or not meant for it.
/// Upstream: validateSecretForSigning.
pub fn for_signing(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let (id, key) = (field(secret, "token-id"), field(secret, "token-secret"));
    let name = secret.name_any();
    let fits = !id.is_empty() && !key.is_empty() && name.strip_prefix("bootstrap-token-") == Some(id);
    let lives = expiration(secret).is_none_or(|at| at > now);
    (fits && lives && field(secret, "usage-bootstrap-signing") == "true").then(|| (id.to_owned(), key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_living_signing_tokens_with_the_right_name_sign() {
        let now: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        let secret = |name: &str, expiration: &str, signing: &str| -> Secret {
            let b64 = |text: &str| json!(k8s_openapi::ByteString(text.as_bytes().to_vec()));
            serde_json::from_value(
                json!({"metadata": {"name": name}, "data": {"token-id": b64("abcdef"), "token-secret": b64("0123456789abcdef"),
                "expiration": b64(expiration), "usage-bootstrap-signing": b64(signing)}}),
            )
            .unwrap()
        };
        let rows = [
            ("bootstrap-token-abcdef", "", "true", true),
            ("bootstrap-token-abcdef", "2024-01-02T00:00:00Z", "true", true),
            ("bootstrap-token-abcdef", "2023-01-02T00:00:00Z", "true", false),
            ("bootstrap-token-abcdef", "soon", "true", false),
            ("bootstrap-token-other", "", "true", false),
            ("bootstrap-token-abcdef", "", "", false),
        ];
        for (name, expiration, signing, expected) in rows {
            assert_eq!(for_signing(&secret(name, expiration, signing), now).is_some(), expected, "{name} {expiration} {signing}");
        }
    }
}
