//! Front proxies: a client certificate of the front-proxy CA vouches for the user named in request headers.
//!
//! Upstream: apiserver/pkg/authentication/request/headerrequest

use std::collections::BTreeMap;

use http::HeaderMap;
use jiff::Timestamp;

use crate::authn::x509::{Bundle, Peer};
use crate::authn::{Answer, Identity};
use crate::user::User;

/// The `--requestheader-*` flags.
pub struct RequestHeader {
    /// `--requestheader-client-ca-file`.
    pub bundle: Bundle,
    /// `--requestheader-allowed-names`; empty: any name.
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`.
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`.
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_prefixes: Vec<String>,
}

impl RequestHeader {
    /// The user that a trusted proxy names.
    pub fn authenticate(&self, headers: &HeaderMap, peer: &Peer, now: Timestamp) -> Answer {
        if peer.is_empty() {
            return Ok(None);
        }
        // A certificate of another CA is an ordinary client's, not a proxy's.
        let Ok(Some(proxy)) = peer.verified(&self.bundle, now) else { return Ok(None) };
        let Some(name) = first(headers, &self.username_headers) else { return Ok(None) };
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&proxy.name) {
            return Err(format!("x509: subject with cn={} is not in the allowed list", proxy.name));
        }
        let mut groups: Vec<String> = Vec::new();
        for header in &self.group_headers {
            groups.extend(headers.get_all(header.as_str()).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned));
        }
        Ok(Some(Identity::of(User {
            name,
            uid: first(headers, &self.uid_headers).unwrap_or_default(),
            groups,
            extra: self.extra(headers),
        })))
    }

    /// The headers that must not be believed from, or passed on for, anybody else.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let named = [&self.username_headers, &self.uid_headers, &self.group_headers];
        for header in named.into_iter().flatten() {
            headers.remove(header.as_str());
        }
        let prefixes: Vec<String> = self.extra_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase()).collect();
        let extra: Vec<_> =
            headers.keys().filter(|key| prefixes.iter().any(|prefix| key.as_str().starts_with(prefix))).cloned().collect();
        for key in extra {
            headers.remove(key);
        }
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra_prefixes {
            let prefix = prefix.to_ascii_lowercase();
            for (key, value) in headers {
                let (Some(rest), Ok(value)) = (key.as_str().strip_prefix(&prefix), value.to_str()) else { continue };
                extra.entry(unescape(rest)).or_default().push(value.to_owned());
            }
        }
        extra
    }
}

/// Header names cannot hold every character: keys come percent-encoded. What does not decode stays as it is.
pub(crate) fn unescape(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else { return key.to_owned() };
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    let values = names.iter().filter_map(|name| headers.get(name.as_str())).filter_map(|value| value.to_str().ok());
    values.map(str::trim).find(|value| !value.is_empty()).map(str::to_owned)
}
