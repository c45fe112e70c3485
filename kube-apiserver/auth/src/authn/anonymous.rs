//! Requests without any credential.
//!
//! Upstream: apiserver/pkg/authentication/request/anonymous

use crate::authn::Identity;
use crate::user::User;

/// The anonymous identity, where it is allowed. `_path` is what conditions of an authentication configuration would look at.
pub fn authenticate(enabled: bool, _path: &str) -> Option<Identity> {
    enabled.then(|| Identity::of(User::anonymous()))
}
