//! Bootstrap tokens: `<id>.<secret>`, kept as Secrets `bootstrap-token-<id>` in kube-system.
//!
//! Upstream: plugin/pkg/auth/authenticator/token/bootstrap

use api::lister::Lister;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::authn::{Answer, Identity};
use crate::object::{deleted_at, text};
use crate::user::User;

/// The group of every bootstrap token.
const GROUP: &str = "system:bootstrappers";

/// The user `system:bootstrap:<id>` of a valid token; `Ok(None)` for anything that is no bootstrap token or not a good one.
pub fn authenticate(token: &str, lister: &dyn Lister, now: Timestamp) -> Answer {
    let Some((id, secret)) = split(token) else { return Ok(None) };
    let name = format!("bootstrap-token-{id}");
    let Some(object) = lister.get("", "secrets", "kube-system", &name) else { return Ok(None) };
    if deleted_at(&object).is_some() || text(&object, "/type") != "bootstrap.kubernetes.io/token" {
        return Ok(None);
    }
    let data = |key: &str| decoded(&object, key);
    if !equal_in_constant_time(data("token-secret").as_bytes(), secret.as_bytes()) || data("token-id") != id {
        return Ok(None);
    }
    if expired(&data("expiration"), now) || data("usage-bootstrap-authentication") != "true" {
        return Ok(None);
    }
    let mut groups = vec![GROUP.to_owned()];
    for extra in data("auth-extra-groups").split(',').map(str::trim).filter(|group| !group.is_empty()) {
        if !valid_extra_group(extra) {
            tracing::error!(secret = name, group = extra, "Bootstrap token has an invalid group");
            return Ok(None);
        }
        if !groups.iter().any(|group| group == extra) {
            groups.push(extra.to_owned());
        }
    }
    Ok(Some(Identity::of(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })))
}

/// Id and secret of a well-formed token.
pub fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn decoded(secret: &Value, key: &str) -> String {
    let encoded = secret.get("data").and_then(|data| data.get(key)).and_then(Value::as_str).unwrap_or("");
    STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// An expiration that cannot be read counts as passed.
fn expired(expiration: &str, now: Timestamp) -> bool {
    !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |at| now >= at)
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`.
fn valid_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=256).contains(&rest.len())
        && rest.bytes().all(|byte| plain(byte) || byte == b':' || byte == b'-')
        && rest.bytes().last().is_some_and(plain)
}

fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}
