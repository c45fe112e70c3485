//! What the container runtime can do, as it said last: decides whether a pod's wish is granted or refused clearly.

use std::collections::BTreeMap;

use crate::cri::v1;

/// Features of the runtime and of its handlers. A runtime that says nothing (containerd before 2.0) can none of this.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capabilities {
    /// By handler; `""` is the default one.
    pub handlers: BTreeMap<String, v1::RuntimeHandlerFeatures>,
    /// `supplementalGroupsPolicy` is honoured.
    pub supplemental_groups_policy: bool,
}

impl Capabilities {
    /// From the runtime's status.
    pub fn of(status: &v1::StatusResponse) -> Self {
        let handlers = status.runtime_handlers.iter().map(|handler| (handler.name.clone(), handler.features.unwrap_or_default()));
        Self {
            handlers: handlers.collect(),
            supplemental_groups_policy: status.features.as_ref().is_some_and(|features| features.supplemental_groups_policy),
        }
    }

    /// Whether a handler makes mounts read-only with everything below them.
    pub fn recursive_read_only(&self, handler: &str) -> bool {
        self.handlers.get(handler).is_some_and(|features| features.recursive_read_only_mounts)
    }

    /// Whether a handler runs pods in user namespaces.
    ///
    /// # Errors
    /// It does not; for the pod's event.
    pub fn user_namespaces(&self, handler: &str) -> Result<(), String> {
        match self.handlers.get(handler) {
            Some(features) if features.user_namespaces => Ok(()),
            Some(_) => Err(format!("RuntimeClass handler {handler:?} does not support user namespaces (hostUsers: false)")),
            None => Err(format!(
                "the container runtime does not say that handler {handler:?} supports user namespaces (hostUsers: false)"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_runtime_can_nothing() {
        let silent = Capabilities::of(&v1::StatusResponse::default());
        assert!(!silent.recursive_read_only("") && silent.user_namespaces("").is_err());
        let features = v1::RuntimeHandlerFeatures { user_namespaces: true, recursive_read_only_mounts: true };
        let handler = v1::RuntimeHandler { name: String::new(), features: Some(features) };
        let able = Capabilities::of(&v1::StatusResponse { runtime_handlers: vec![handler], ..Default::default() });
        assert!(able.recursive_read_only("") && able.user_namespaces("").is_ok() && able.user_namespaces("kata").is_err());
    }
}
