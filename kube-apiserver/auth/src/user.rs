//! The identity behind a request.
//!
//! Upstream: apiserver/pkg/authentication/user, serviceaccount

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The user name of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of requests without credentials.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group of everyone who has shown who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything, whatever the roles say.
pub const MASTERS: &str = "system:masters";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
/// What a kubelet's user name starts with.
pub const NODE_PREFIX: &str = "system:node:";
/// The group of all service accounts; with `:<namespace>` that of one namespace.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name that roles and audit refer to.
    pub name: String,
    /// A stable identifier, often empty.
    pub uid: String,
    /// Groups, in the order the authenticator gave them.
    pub groups: Vec<String>,
    /// Facts that authenticators add.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with a name and groups only.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), ..Self::default() }
    }

    /// The user of requests without credentials.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED])
    }

    /// Whether the user is in the group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The name of the node that this user is the kubelet of: `None` for others, "" for a kubelet without a node name.
    pub fn node_name(&self) -> Option<&str> {
        let node = self.name.strip_prefix(NODE_PREFIX)?;
        self.in_group(NODES).then_some(node)
    }

    /// Namespace and name, where the user is a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        split_service_account(&self.name)
    }

    /// `userInfo` of reviews, audit and admission requests.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, value) in [("username", &self.name), ("uid", &self.uid)] {
            if !value.is_empty() {
                out.insert(key.to_owned(), value.as_str().into());
            }
        }
        if !self.groups.is_empty() {
            out.insert("groups".to_owned(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            out.insert("extra".to_owned(), json!(self.extra));
        }
        Value::Object(out)
    }
}

/// The user name of a service account.
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The groups of a service account of this namespace.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

/// Namespace and name out of a service account's user name.
pub fn split_service_account(user_name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user_name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}
