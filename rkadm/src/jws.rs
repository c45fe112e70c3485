//! The signature on `cluster-info`: a JWS (HS256) whose payload is left out, keyed by the token's secret.
//! Upstream: staging/src/k8s.io/cluster-bootstrap/token/jws.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

/// Key of the signature for a token id in the ConfigMap's data.
pub fn data_key(token_id: &str) -> String {
    format!("jws-kubeconfig-{token_id}")
}

/// `header..signature` over `content`.
pub fn sign(content: &str, token_id: &str, token_secret: &str) -> Option<String> {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{token_id}"}}"#));
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = EncodingKey::from_secret(token_secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).ok()?;
    Some(format!("{header}..{signature}"))
}

/// Whether a detached signature is the one that the holder of the secret makes.
pub fn verify(detached: &str, content: &str, token_secret: &str) -> bool {
    let parts: Vec<&str> = detached.split('.').collect();
    let [header, "", signature] = parts.as_slice() else { return false };
    let Some(header_json) =
        URL_SAFE_NO_PAD.decode(header).ok().and_then(|h| serde_json::from_slice::<serde_json::Value>(&h).ok())
    else {
        return false;
    };
    if header_json["alg"] != "HS256" {
        return false;
    }
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = DecodingKey::from_secret(token_secret.as_bytes());
    jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, Algorithm::HS256).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_verify_and_forgeries_do_not() {
        let signed = sign("apiVersion: v1\n", "abcdef", "0123456789abcdef").unwrap();
        assert!(signed.contains("..") && verify(&signed, "apiVersion: v1\n", "0123456789abcdef"));
        assert!(!verify(&signed, "apiVersion: v2\n", "0123456789abcdef"));
        assert!(!verify(&signed, "apiVersion: v1\n", "0123456789abcdee"));
        // {"alg":"none"}
        assert!(!verify("eyJhbGciOiJub25lIn0..", "apiVersion: v1\n", "0123456789abcdef"));
        for bad in ["", "a.b.c", "..", "x"] {
            assert!(!verify(bad, "", ""));
        }
    }

    #[test]
    fn an_upstream_signature_verifies() {
        // Upstream's own test vector: pkg/controller/bootstrap, cluster-bootstrap/token/jws/jws_test.go.
        let signed = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert!(verify(signed, "Hello from the other side. I must have called a thousand times.", "my voice is my passcode"));
    }
}
