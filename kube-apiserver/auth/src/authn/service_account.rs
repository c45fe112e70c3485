//! Service-account tokens, bound and legacy.
//!
//! The signature of a token is proved once and remembered; that its account, pod, node or Secret still exists is looked up again
//! every few seconds.
//!
//! Upstream: pkg/serviceaccount/{jwt,claims,legacy}.go

use std::collections::HashMap;
use std::sync::Arc;

use api::lister::Lister;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::authn::{Answer, Identity};
use crate::object::{deleted_at, text, uid};
use crate::token::key::KeySet;
use crate::token::{Claims, Kubernetes, LEGACY_ISSUER, Reference};
use crate::user::{User, service_account_groups, service_account_name};

/// Clocks of clients may differ by so much. Upstream: go-jose's default leeway.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// For so long a token that was good is not looked up again, seconds. Upstream: the success TTL of its token cache.
const GOOD_SECONDS: i64 = 10;
/// Tokens whose proven claims are kept. A token is about 1 KB of claims; beyond this many the memory starts anew.
const MAX_PROVEN: usize = 4096;
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What service-account tokens are checked against.
pub struct ServiceAccounts {
    /// Keys that may have signed a token.
    pub keys: KeySet,
    /// All `--service-account-issuer`; the first one issues.
    pub issuers: Vec<String>,
    /// `--service-account-lookup`.
    pub lookup: bool,
    proven: Mutex<Proven>,
}

#[derive(Default)]
struct Proven {
    generation: u64,
    claims: HashMap<[u8; 32], Arc<Token>>,
}

/// A token with a good signature.
struct Token {
    claims: Claims,
    /// Whose it was found to be, and when.
    good: Mutex<Option<(i64, Arc<User>)>>,
}

#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    #[serde(default)]
    kid: String,
}

impl ServiceAccounts {
    /// Checks tokens of these issuers against these keys.
    pub fn new(keys: KeySet, issuers: Vec<String>, lookup: bool) -> Self {
        Self { keys, issuers, lookup, proven: Mutex::default() }
    }

    /// The service account behind a token. `wanted` are the audiences of which one must match; tokens without audiences count for `own`.
    pub fn authenticate(&self, token: &str, wanted: &[String], own: &[String], lister: &dyn Lister, now: Timestamp) -> Answer {
        let Some(known) = self.prove(token)? else { return Ok(None) };
        let claims = &known.claims;
        let held = if claims.aud.is_empty() { own } else { &claims.aud };
        let audiences: Vec<String> = held.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        if audiences.is_empty() && !wanted.is_empty() {
            let (held, wanted) = (crate::object::quoted(held), crate::object::quoted(wanted));
            return Err(format!("token audiences {held} is invalid for the target audiences {wanted}"));
        }
        let second = now.as_second();
        let fresh = |at: i64| (at..at + GOOD_SECONDS).contains(&second) && !expired(claims, second);
        if let Some((_, user)) = known.good.lock().as_ref().filter(|(at, _)| fresh(*at)) {
            return Ok(Some(Identity { user: user.clone(), audiences }));
        }
        let user = if claims.iss == LEGACY_ISSUER { self.legacy(token, claims, lister) } else { bound(claims, lister, now) };
        let user = user.map(Arc::new);
        *known.good.lock() = user.as_ref().ok().map(|user| (second, user.clone()));
        Ok(Some(Identity { user: user?, audiences }))
    }

    /// The claims, once the signature is proved; `None` where the token is no JWT of ours.
    fn prove(&self, token: &str) -> Result<Option<Arc<Token>>, String> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        let (generation, keys) = self.keys.keys();
        let digest: [u8; 32] = Sha256::digest(token).into();
        {
            let mut proven = self.proven.lock();
            if proven.generation != generation {
                *proven = Proven { generation, claims: HashMap::new() };
            }
            if let Some(claims) = proven.claims.get(&digest) {
                return Ok(Some(claims.clone()));
            }
        }
        let (Some(parsed), Some(claims)) = (decode::<Header>(header), decode::<Claims>(payload)) else { return Ok(None) };
        if claims.iss != LEGACY_ISSUER && !self.issuers.contains(&claims.iss) {
            return Ok(None);
        }
        let message = &token[..header.len() + 1 + payload.len()];
        let by_id = keys.iter().any(|key| key.id == parsed.kid);
        let mut candidates = keys.iter().filter(|key| !by_id || key.id == parsed.kid);
        if !candidates.any(|key| key.verifies(parsed.alg, message, signature)) {
            return Err(if keys.is_empty() {
                "service account token: no keys".to_owned()
            } else {
                "invalid signature".to_owned()
            });
        }
        let claims = Arc::new(Token { claims, good: Mutex::default() });
        let mut proven = self.proven.lock();
        if proven.claims.len() >= MAX_PROVEN {
            proven.claims.clear();
        }
        if proven.generation == generation {
            proven.claims.insert(digest, claims.clone());
        }
        Ok(Some(claims))
    }

    fn legacy(&self, token: &str, claims: &Claims, lister: &dyn Lister) -> Result<User, String> {
        let (namespace, name) = (claims.legacy_namespace.as_str(), claims.legacy_name.as_str());
        for (value, what) in [
            (claims.sub.as_str(), "sub claim is missing"),
            (namespace, "namespace claim is missing"),
            (claims.legacy_secret.as_str(), "secretName claim is missing"),
            (name, "serviceAccountName claim is missing"),
            (claims.legacy_uid.as_str(), "serviceAccountUID claim is missing"),
        ] {
            if value.is_empty() {
                return Err(what.to_owned());
            }
        }
        if claims.sub != service_account_name(namespace, name) {
            return Err("sub claim is invalid".to_owned());
        }
        if self.lookup {
            let secret = lister.get("", "secrets", namespace, &claims.legacy_secret).ok_or(INVALIDATED)?;
            let stored = STANDARD.decode(text(&secret, "/data/token")).unwrap_or_default();
            if deleted_at(&secret).is_some() || stored != token.as_bytes() {
                return Err(INVALIDATED.to_owned());
            }
            let account = get(lister, "serviceaccounts", "serviceaccount", namespace, name)?;
            if deleted_at(&account).is_some() {
                return Err(format!("ServiceAccount {namespace}/{name} has been deleted"));
            }
            if uid(&account) != claims.legacy_uid {
                let (now, then) = (uid(&account), &claims.legacy_uid);
                return Err(format!("ServiceAccount UID ({now}) does not match claim ({then})"));
            }
        }
        Ok(User {
            name: claims.sub.clone(),
            uid: claims.legacy_uid.clone(),
            groups: service_account_groups(namespace),
            ..User::default()
        })
    }
}

const INVALIDATED: &str = "service account token has been invalidated";

fn bound(claims: &Claims, lister: &dyn Lister, now: Timestamp) -> Result<User, String> {
    let at = now.as_second();
    if expired(claims, at) {
        return Err("service account token has expired".to_owned());
    }
    if claims.nbf != 0 && at < claims.nbf.saturating_sub(LEEWAY.as_secs()) {
        return Err("service account token is not valid yet".to_owned());
    }
    let private = claims.kubernetes.clone().unwrap_or_default();
    let Kubernetes { namespace, serviceaccount, .. } = &private;
    let name = &serviceaccount.name;
    let gone = |object: &Value| deleted_at(object).is_some_and(|deleted| deleted < now - LEEWAY);

    let account = get(lister, "serviceaccounts", "serviceaccount", namespace, name)?;
    if gone(&account) {
        return Err(format!("service account {namespace}/{name} has been deleted"));
    }
    if uid(&account) != serviceaccount.uid {
        let (now, then) = (uid(&account), &serviceaccount.uid);
        return Err(format!("service account UID ({now}) does not match claim ({then})"));
    }
    if claims.sub != service_account_name(namespace, name) {
        return Err("sub claim is invalid".to_owned());
    }
    let check = |reference: &Reference, resource: &str, namespace: &str, what: &str| {
        let object = lister.get("", resource, namespace, &reference.name).filter(|object| !gone(object)).ok_or(INVALIDATED)?;
        if uid(&object) == reference.uid {
            return Ok(());
        }
        let (now, then) = (uid(&object), &reference.uid);
        let claim = what.to_lowercase();
        Err(format!("{what} UID ({now}) does not match service account {claim} ref claim ({then})"))
    };
    let mut user = User {
        name: claims.sub.clone(),
        uid: serviceaccount.uid.clone(),
        groups: service_account_groups(namespace),
        ..User::default()
    };
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if let Some(secret) = &private.secret {
        check(secret, "secrets", namespace, "secret")?;
    }
    if let Some(pod) = &private.pod {
        check(pod, "pods", namespace, "pod")?;
        extra("authentication.kubernetes.io/pod-name", &pod.name);
        extra("authentication.kubernetes.io/pod-uid", &pod.uid);
    }
    if let Some(node) = &private.node {
        // With a pod, the node is information; without, the token lives as long as the node.
        if private.pod.is_none() {
            check(node, "nodes", "", "node")?;
        }
        extra("authentication.kubernetes.io/node-name", &node.name);
        extra("authentication.kubernetes.io/node-uid", &node.uid);
    }
    if !claims.jti.is_empty() {
        extra(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
    }
    Ok(user)
}

fn expired(claims: &Claims, second: i64) -> bool {
    claims.exp != 0 && second > claims.exp.saturating_add(LEEWAY.as_secs())
}

fn get(lister: &dyn Lister, resource: &str, kind: &str, namespace: &str, name: &str) -> Result<Arc<Value>, String> {
    lister.get("", resource, namespace, name).ok_or_else(|| format!("{kind} {name:?} not found"))
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
