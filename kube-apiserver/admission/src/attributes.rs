//! What a request is about, as admission sees it.

use std::collections::BTreeMap;
use std::fmt;

use api::status::Status;
use serde_json::Value;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST, and PUT or apply of what did not exist.
    Create,
    /// PUT and PATCH.
    Update,
    /// DELETE.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// A stable identifier, often empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Facts that authenticators add.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whether the user is in the group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node whose kubelet asks; `None` for others, "" for a kubelet without a node name.
    pub fn node(&self) -> Option<&str> {
        let node = self.name.strip_prefix("system:node:")?;
        self.in_group("system:nodes").then_some(node)
    }
}

/// Everything about a request but the objects.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// What is done.
    pub operation: Operation,
    /// API group of the resource, empty for core.
    pub group: String,
    /// Its version.
    pub version: String,
    /// Its plural name.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// Kind of the object.
    pub kind: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name; empty for a create with `generateName` and for deletecollection.
    pub name: String,
    /// Who asks.
    pub user: User,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// CreateOptions, UpdateOptions, DeleteOptions, or null.
    pub options: Value,
}

impl Attributes {
    /// Whether the request is for this resource itself.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.is_sub(group, resource, "")
    }

    /// Whether the request is for this subresource.
    pub fn is_sub(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource == subresource
    }

    /// 403 in upstream's form: `pods "x" is forbidden: why`.
    pub fn forbidden(&self, object: &Value, why: impl fmt::Display) -> Status {
        Status::forbidden(&self.group, &self.resource, self.name_of(object), why)
    }

    /// The name, by the request, the object, or what its name is to be generated from.
    pub fn name_of<'a>(&'a self, object: &'a Value) -> &'a str {
        let field = |key: &str| object["metadata"][key].as_str().filter(|text| !text.is_empty());
        if self.name.is_empty() { field("name").or_else(|| field("generateName")).unwrap_or("") } else { &self.name }
    }
}
