//! Requests without any credential.
//!
//! Upstream: apiserver/pkg/authentication/request/anonymous

use crate::authn::Identity;
use crate::user::User;

/// Whether and where they are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anonymous {
    /// `--anonymous-auth`, or the authentication configuration.
    pub enabled: bool,
    /// Only these paths; none: all.
    pub paths: Vec<String>,
}

impl Anonymous {
    /// The anonymous identity, where it is allowed.
    pub fn authenticate(&self, path: &str) -> Option<Identity> {
        let here = self.paths.is_empty() || self.paths.iter().any(|allowed| allowed == path);
        (self.enabled && here).then(|| Identity::of(User::anonymous()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_paths() {
        let all = Anonymous { enabled: true, paths: Vec::new() };
        let some = Anonymous { enabled: true, paths: vec!["/livez".into()] };
        assert!(all.authenticate("/api").is_some() && some.authenticate("/livez").is_some());
        assert!(some.authenticate("/api").is_none());
        assert!(Anonymous { enabled: false, paths: Vec::new() }.authenticate("/livez").is_none());
    }
}
