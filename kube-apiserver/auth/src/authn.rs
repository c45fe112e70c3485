//! Authentication: the table of authenticators in upstream's order, and what one request offers them.
//!
//! Adding one: a file below `authn/` with a function or type that answers [`Answer`], and its line in [`Authenticator::authenticate`]
//! (or in [`Authenticator::authenticate_token`] for bearer tokens).
//!
//! Upstream: pkg/kubeapiserver/authenticator

pub mod anonymous;
pub mod bootstrap_token;
pub mod config;
pub mod oidc;
pub mod request_header;
pub mod service_account;
pub mod token_file;
pub mod x509;

use std::sync::Arc;

use api::lister::Lister;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use jiff::Timestamp;

use crate::authn::x509::Peer;
use crate::object::aggregate;
use crate::user::{self, User};

/// `Ok(None)`: not for this authenticator. `Err`: meant for it, and wrong; the text goes to the log and into TokenReview.
pub type Answer = Result<Option<Identity>, String>;

/// A proven identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who.
    pub user: Arc<User>,
    /// For which audiences the credential was good; empty where the credential has none.
    pub audiences: Vec<String>,
}

impl Identity {
    /// An identity from a credential without audiences.
    pub fn of(user: User) -> Self {
        Self { user: Arc::new(user), audiences: Vec::new() }
    }
}

/// What `Sec-WebSocket-Protocol` carries a bearer token in, for browsers that cannot set headers.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// All configured authenticators. Reads files at [`Authenticator::reload`] only.
pub struct Authenticator {
    /// Front proxies (`--requestheader-*`).
    pub request_header: Option<request_header::RequestHeader>,
    /// Client certificates (`--client-ca-file`).
    pub client_ca: Option<x509::Bundle>,
    /// `--token-auth-file`.
    pub token_file: Option<token_file::TokenFile>,
    /// `--service-account-key-file`, `--service-account-issuer`.
    pub service_accounts: Option<service_account::ServiceAccounts>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// `--oidc-*`, or the issuers of `--authentication-config`.
    pub oidc: Vec<Arc<oidc::Oidc>>,
    /// `--anonymous-auth`, or what `--authentication-config` says.
    pub anonymous: anonymous::Anonymous,
    /// `--api-audiences`; the issuer where not given.
    pub api_audiences: Vec<String>,
    /// The cluster, for service accounts and bootstrap tokens.
    pub lister: Arc<dyn Lister>,
}

impl Authenticator {
    /// The identity behind a request. `Err` is for the log; the client gets 401 with upstream's body and no more.
    ///
    /// Headers that carried the credential should not travel further: see [`strip_credentials`].
    pub fn authenticate(&self, headers: &HeaderMap, peer: &Peer, path: &str, now: Timestamp) -> Result<Identity, String> {
        let mut errors = Vec::new();
        let mut attempt = |answer: Answer| match answer {
            Ok(Some(identity)) => Some(identity),
            Ok(None) => None,
            Err(error) => {
                errors.push(error);
                None
            }
        };
        let found = (self.request_header.as_ref().and_then(|proxy| attempt(proxy.authenticate(headers, peer, now))))
            .or_else(|| self.client_ca.as_ref().and_then(|bundle| attempt(peer.authenticate(bundle, now))))
            .or_else(|| bearer_token(headers).and_then(|token| attempt(self.bearer(token, now))))
            .or_else(|| websocket_token(headers).and_then(|token| attempt(self.bearer(&token, now))));
        match found {
            Some(identity) => Ok(with_authenticated_group(identity)),
            // A bad credential is an error, never anonymous.
            None if errors.is_empty() => self.anonymous.authenticate(path).ok_or_else(|| "no credentials".to_owned()),
            None => Err(aggregate(&errors)),
        }
    }

    /// A bearer token on its own, for TokenReview: `audiences` are those wanted (empty: the API server's own).
    pub fn authenticate_token(&self, token: &str, audiences: &[String], now: Timestamp) -> Answer {
        let wanted = if audiences.is_empty() { &self.api_audiences } else { audiences };
        let mut errors = Vec::new();
        let answers: [&dyn Fn() -> Answer; 4] = [
            &|| Ok(self.token_file.as_ref().and_then(|file| file.authenticate(token))),
            &|| match &self.service_accounts {
                Some(accounts) => accounts.authenticate(token, wanted, &self.api_audiences, self.lister.as_ref(), now),
                None => Ok(None),
            },
            &|| {
                if self.bootstrap_tokens { bootstrap_token::authenticate(token, self.lister.as_ref(), now) } else { Ok(None) }
            },
            &|| self.oidc.iter().map(|oidc| oidc.authenticate(token, now)).find(|answer| *answer != Ok(None)).unwrap_or(Ok(None)),
        ];
        for answer in answers {
            match answer() {
                Ok(Some(mut identity)) => {
                    if identity.audiences.is_empty() {
                        // Credentials without audiences are the API server's own.
                        identity.audiences = self.api_audiences.iter().filter(|own| wanted.contains(own)).cloned().collect();
                        if identity.audiences.is_empty() && !audiences.is_empty() {
                            continue;
                        }
                    }
                    return Ok(Some(with_authenticated_group(identity)));
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(None) } else { Err(aggregate(&errors)) }
    }

    /// Reads every file again whose content has changed. Errors are returned, and what was loaded before stays.
    pub fn reload(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let mut note = |result: Result<(), String>| errors.extend(result.err());
        if let Some(bundle) = &self.client_ca {
            note(bundle.reload());
        }
        if let Some(proxy) = &self.request_header {
            note(proxy.bundle.reload());
        }
        if let Some(accounts) = &self.service_accounts {
            note(accounts.keys.reload());
        }
        errors
    }

    fn bearer(&self, token: &str, now: Timestamp) -> Answer {
        match self.authenticate_token(token, &[], now) {
            Ok(None) => Err("invalid bearer token".to_owned()),
            Err(error) => Err(format!("[invalid bearer token, {error}]")),
            found => found,
        }
    }
}

/// Removes what must not reach proxied servers or logs once the user is known.
pub fn strip_credentials(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    let offered = protocols(headers);
    if offered.iter().any(|protocol| protocol.starts_with(WEBSOCKET_BEARER)) {
        let kept: Vec<String> = offered.into_iter().filter(|protocol| !protocol.starts_with(WEBSOCKET_BEARER)).collect();
        match kept.join(", ").parse() {
            Ok(value) if !kept.is_empty() => drop(headers.insert(SEC_WEBSOCKET_PROTOCOL, value)),
            _ => drop(headers.remove(SEC_WEBSOCKET_PROTOCOL)),
        }
    }
}

/// Every user but the anonymous one is in `system:authenticated`.
fn with_authenticated_group(mut identity: Identity) -> Identity {
    if !identity.user.in_group(user::AUTHENTICATED) && !identity.user.in_group(user::UNAUTHENTICATED) {
        Arc::make_mut(&mut identity.user).groups.push(user::AUTHENTICATED.to_owned());
    }
    identity
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.split(' ').next().unwrap_or("");
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn protocols(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|protocol| protocol.trim().to_owned()).collect()
}

/// The token offered as a WebSocket subprotocol; counts only beside a second subprotocol, which the server answers with.
fn websocket_token(headers: &HeaderMap) -> Option<String> {
    let upgrade = headers.get(http::header::UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let offered = protocols(headers);
    let encoded = offered.iter().find_map(|protocol| protocol.strip_prefix(WEBSOCKET_BEARER))?;
    if !offered.iter().any(|protocol| !protocol.starts_with(WEBSOCKET_BEARER)) {
        return None;
    }
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

#[cfg(test)]
pub(crate) mod tests;
