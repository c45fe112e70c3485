//! OpenID Connect: tokens that another issuer signed, verified by the keys it publishes.
//!
//! Nothing is fetched here: whoever holds an [`Oidc`] brings it keys ([`Oidc::set_keys`]) whenever it asks for them ([`Oidc::wanted`]).
//!
//! Upstream: apiserver/plugin/pkg/authenticator/token/oidc

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

use crate::authn::{Answer, Identity};
use crate::user::User;

/// Clocks may differ by so much, seconds.
const LEEWAY: i64 = 60;

/// A claim and what is put before its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Often the issuer, or nothing.
    pub prefix: String,
}

/// An issuer and how its claims become users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// As in the tokens' `iss`.
    pub url: String,
    /// Where its configuration is, if not below `url`.
    pub discovery_url: Option<String>,
    /// Authorities of its certificate, PEM; the system's where there are none.
    pub ca: Option<Vec<u8>>,
    /// One of them must be in `aud`.
    pub audiences: Vec<String>,
    /// The user's name.
    pub username: Claim,
    /// The groups.
    pub groups: Option<Claim>,
    /// The uid.
    pub uid: Option<String>,
    /// Claims that must have these values; `None`: be there.
    pub required: BTreeMap<String, String>,
    /// How tokens may be signed.
    pub algorithms: Vec<Algorithm>,
}

/// One issuer's tokens.
pub struct Oidc {
    /// Its configuration.
    pub issuer: Issuer,
    keys: ArcSwapOption<Vec<Key>>,
    /// Told when a token came that none of the keys fits.
    pub wanted: Notify,
}

struct Key {
    id: String,
    key: DecodingKey,
    algorithm: Option<Algorithm>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

impl Oidc {
    /// Without keys yet.
    pub fn new(issuer: Issuer) -> Arc<Self> {
        Arc::new(Self { issuer, keys: ArcSwapOption::empty(), wanted: Notify::new() })
    }

    /// The keys that the issuer publishes (a JWK set). Keys of kinds that are not known here are passed over.
    ///
    /// # Errors
    /// It is no key set.
    pub fn set_keys(&self, document: &[u8]) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Loose {
            keys: Vec<Value>,
        }
        let set: Loose = serde_json::from_slice(document).map_err(|error| format!("oidc: failed to decode keys: {error}"))?;
        let keys: Vec<Jwk> = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        let keys = JwkSet { keys }.keys.into_iter().filter_map(|jwk| {
            let key = DecodingKey::from_jwk(&jwk).ok()?;
            let algorithm = jwk.common.key_algorithm.and_then(|algorithm| Algorithm::try_from(algorithm).ok());
            Some(Key { id: jwk.common.key_id.unwrap_or_default(), key, algorithm })
        });
        self.keys.store(Some(Arc::new(keys.collect())));
        Ok(())
    }

    /// The user behind a token of this issuer; `None` for tokens of others.
    pub fn authenticate(&self, token: &str, now: Timestamp) -> Answer {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        let (Some(parsed), Some(claims)) = (decode::<Header>(header), decode::<Value>(payload)) else { return Ok(None) };
        if claims["iss"].as_str() != Some(self.issuer.url.as_str()) {
            return Ok(None);
        }
        let Some(keys) = self.keys.load_full() else {
            self.wanted.notify_one();
            return Err("oidc: authenticator not initialized".to_owned());
        };
        let algorithm = parsed.alg.parse::<Algorithm>().ok().filter(|algorithm| self.issuer.algorithms.contains(algorithm));
        let Some(algorithm) = algorithm else {
            return Err(format!("oidc: verify token: oidc: id token signed with unsupported algorithm, got {:?}", parsed.alg));
        };
        let message = &token[..header.len() + 1 + payload.len()];
        let mut fitting = keys.iter().filter(|key| {
            (parsed.kid.is_empty() || key.id.is_empty() || key.id == parsed.kid)
                && key.algorithm.is_none_or(|own| own == algorithm)
        });
        if !fitting.any(|key| crypto::verify(signature, message.as_bytes(), &key.key, algorithm).unwrap_or(false)) {
            // The issuer may have new keys.
            self.wanted.notify_one();
            return Err("oidc: verify token: failed to verify signature: failed to verify id token signature".to_owned());
        }
        self.user(&claims, now.as_second()).map(|user| Some(Identity::of(user))).map_err(|why| format!("oidc: {why}"))
    }

    fn user(&self, claims: &Value, now: i64) -> Result<User, String> {
        let issuer = &self.issuer;
        let seconds = |name: &str| claims[name].as_f64().map(|number| number as i64);
        let expires = seconds("exp").ok_or("verify token: oidc: token has no expiry")?;
        if now >= expires {
            return Err("verify token: oidc: token is expired".to_owned());
        }
        if seconds("nbf").is_some_and(|from| now + LEEWAY < from) {
            return Err("verify token: oidc: current time is before the nbf (not before) time".to_owned());
        }
        let audiences = strings(&claims["aud"]);
        if !audiences.iter().any(|audience| issuer.audiences.contains(audience)) {
            return Err(format!("verify token: oidc: expected audience in {:?} got {audiences:?}", issuer.audiences));
        }
        for (name, wanted) in &issuer.required {
            match claims[name.as_str()].as_str() {
                Some(have) if have == wanted => {}
                Some(_) => return Err(format!("required claim {name} value does not match")),
                None => return Err(format!("required claim {name} not present in ID token")),
            }
        }
        let Claim { name, prefix } = &issuer.username;
        let Some(username) = claims[name.as_str()].as_str().filter(|username| !username.is_empty()) else {
            return Err(format!("parse username claims {name:?}: claim not present"));
        };
        // An address that nobody has proved is no identity.
        if name == "email" && claims.get("email_verified").is_some_and(|verified| verified != true) {
            return Err("email not verified".to_owned());
        }
        let mut user = User { name: format!("{prefix}{username}"), ..User::default() };
        if let Some(Claim { name, prefix }) = &issuer.groups {
            user.groups = strings(&claims[name.as_str()]).into_iter().map(|group| format!("{prefix}{group}")).collect();
        }
        if let Some(uid) = issuer.uid.as_ref().and_then(|name| claims[name.as_str()].as_str()) {
            uid.clone_into(&mut user.uid);
        }
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
        }
        Ok(user)
    }
}

/// A text, or a list of texts.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn oidc() -> Arc<Oidc> {
        Oidc::new(Issuer {
            url: "https://i".into(),
            discovery_url: None,
            ca: None,
            audiences: vec!["k".into()],
            username: Claim { name: "email".into(), prefix: "o:".into() },
            groups: Some(Claim { name: "groups".into(), prefix: "g:".into() }),
            uid: Some("sub".into()),
            required: [("hd".to_owned(), "x".to_owned())].into(),
            algorithms: vec![Algorithm::RS256],
        })
    }

    #[test]
    fn claims_become_users() {
        let good =
            json!({"aud": ["k", "l"], "exp": 200, "email": "a@x", "groups": ["r", "s"], "sub": "1", "hd": "x", "jti": "j"});
        let user = oidc().user(&good, 100).unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str(), user.groups.as_slice()),
            ("o:a@x", "1", &["g:r".into(), "g:s".into()][..])
        );
        let cases = [
            ("exp", json!(100), "expired"),
            ("exp", Value::Null, "no expiry"),
            ("nbf", json!(500), "nbf"),
            ("aud", json!("other"), "expected audience"),
            ("hd", json!("y"), "does not match"),
            ("hd", Value::Null, "not present"),
            ("email", Value::Null, "claim not present"),
            ("email_verified", json!(false), "not verified"),
        ];
        for (key, value, wanted) in cases {
            let mut claims = good.clone();
            claims[key] = value;
            let error = oidc().user(&claims, 100).unwrap_err();
            assert!(error.contains(wanted), "{key}: {error}");
        }
    }

    #[test]
    fn tokens_of_others_and_without_keys() {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = |iss: &str, alg: &str| format!("{}.{}.{}", part(json!({"alg": alg})), part(json!({"iss": iss})), "c2ln");
        let now = Timestamp::from_second(100).unwrap();
        let oidc = oidc();
        assert_eq!(oidc.authenticate(&token("https://other", "RS256"), now), Ok(None));
        assert_eq!(oidc.authenticate("no.jwt", now), Ok(None));
        assert!(oidc.authenticate(&token("https://i", "RS256"), now).unwrap_err().contains("not initialized"));
        oidc.set_keys(br#"{"keys":[{"kty":"unknown"}]}"#).unwrap();
        assert!(oidc.authenticate(&token("https://i", "none"), now).unwrap_err().contains("unsupported algorithm"));
        assert!(oidc.authenticate(&token("https://i", "HS256"), now).unwrap_err().contains("unsupported algorithm"));
        assert!(oidc.authenticate(&token("https://i", "RS256"), now).unwrap_err().contains("signature"));
    }
}
