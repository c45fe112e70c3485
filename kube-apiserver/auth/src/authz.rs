//! Authorization: attributes of a request, the ordered authorizers, and the words of a refusal.
//!
//! Upstream: apiserver/pkg/authorization, pkg/kubeapiserver/authorizer

pub mod config;
pub mod escalation;
pub mod node;
pub mod rbac;
pub mod rule;

use std::str::FromStr;
use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;

use crate::authz::node::NodeAuthorizer;
use crate::authz::rbac::Rbac;
use crate::authz::rule::Rule;
use crate::object::aggregate;
use crate::user::{MASTERS, User};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// By whom.
    pub user: &'a User,
    /// `get`, `list`, `create`, …; for paths outside of the API the HTTP method in lower case.
    pub verb: &'a str,
    /// Whether this is about a resource (else about `path`).
    pub resource_request: bool,
    /// API group, "" for core.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource, or "".
    pub subresource: &'a str,
    /// Namespace, or "".
    pub namespace: &'a str,
    /// Name, or "" (list, create).
    pub name: &'a str,
    /// The URL path.
    pub path: &'a str,
    /// The `fieldSelector` parameter of list, watch and deletecollection.
    pub field_selector: &'a str,
    /// The `labelSelector` parameter.
    pub label_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// A question about a resource.
    pub fn resource(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str) -> Self {
        Self { resource_request: true, group, resource, namespace, name, ..Self::path(user, verb, "") }
    }

    /// A question about a path outside of the API.
    pub fn path(user: &'a User, verb: &'a str, path: &'a str) -> Self {
        Self {
            user,
            verb,
            resource_request: false,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path,
            field_selector: "",
            label_selector: "",
        }
    }

    /// The same for a subresource.
    pub fn subresource(mut self, subresource: &'a str) -> Self {
        self.subresource = subresource;
        self
    }
}

/// The outcome of an authorizer, with a reason where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow(Arc<str>),
    /// No, whatever the others say.
    Deny(Arc<str>),
    /// The next one decides; none left means no.
    NoOpinion(String),
}

impl Decision {
    /// Whether the request may go on.
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The reason, or "".
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::Deny(reason) => reason,
            Self::NoOpinion(reason) => reason,
        }
    }
}

/// One element of `--authorization-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Kubelets, by what their pods use.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Everything is allowed.
    AlwaysAllow,
    /// Nothing is allowed.
    AlwaysDeny,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "Node" => Ok(Self::Node),
            "RBAC" => Ok(Self::Rbac),
            "AlwaysAllow" => Ok(Self::AlwaysAllow),
            "AlwaysDeny" => Ok(Self::AlwaysDeny),
            "Webhook" | "ABAC" => Err(format!("authorization-mode {text:?} is not yet supported")),
            other => Err(format!("authorization-mode {other:?} is not a valid mode")),
        }
    }
}

/// The rules that apply to a user in a namespace.
#[derive(Clone, Debug, Default)]
pub struct UserRules {
    /// What is known.
    pub rules: Vec<Rule>,
    /// Whether there may be more.
    pub incomplete: bool,
    /// Why the rest is not known.
    pub errors: Vec<String>,
}

/// The authorizers in the order of `--authorization-mode`.
pub struct Authorizers {
    modes: Vec<Mode>,
    /// Roles and bindings, whatever the modes are: escalation checks need them.
    pub rbac: Arc<Rbac>,
    /// What nodes may reach through their pods. Feed it with [`node::NodeAuthorizer::observe`].
    pub node: Arc<NodeAuthorizer>,
}

impl Authorizers {
    /// Authorizers of these modes over the cluster.
    pub fn new(modes: Vec<Mode>, lister: Arc<dyn Lister>) -> Self {
        Self { modes, rbac: Arc::new(Rbac::new(lister.clone())), node: Arc::new(NodeAuthorizer::new(lister)) }
    }

    /// Whether the request may go on. Never waits.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(MASTERS) {
            return Decision::Allow(Arc::from(""));
        }
        let mut reasons: Vec<String> = Vec::new();
        for mode in &self.modes {
            let decision = match mode {
                Mode::Node => self.node.authorize(attributes),
                Mode::Rbac => self.rbac.authorize(attributes),
                Mode::AlwaysAllow => Decision::Allow(Arc::from("")),
                Mode::AlwaysDeny => Decision::NoOpinion("Everything is forbidden.".to_owned()),
            };
            match decision {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    /// All rules that apply to the user in the namespace, from the authorizers that can tell.
    pub fn rules_for(&self, user: &User, namespace: &str) -> UserRules {
        let mut out = UserRules::default();
        for mode in &self.modes {
            match mode {
                Mode::Rbac => {
                    let found = self.rbac.rules_for(user, namespace);
                    out.rules.extend(found.rules);
                    out.errors.extend(found.errors);
                }
                Mode::Node if user.node_name().is_some() => {
                    out.incomplete = true;
                    out.errors.push("node authorizer does not support user rule resolution".to_owned());
                }
                Mode::AlwaysAllow => out.rules.extend(rule::everything()),
                Mode::Node | Mode::AlwaysDeny => {}
            }
        }
        out
    }

    /// The 403 for a request that may not go on.
    pub fn forbidden(attributes: &Attributes<'_>, decision: &Decision) -> Status {
        let mut why = forbidden_message(attributes);
        if !decision.reason().is_empty() {
            why.push_str(": ");
            why.push_str(decision.reason());
        }
        if attributes.resource_request {
            Status::forbidden(attributes.group, attributes.resource, attributes.name, why)
        } else {
            Status::forbidden("", "", "", why)
        }
    }
}

impl UserRules {
    /// All errors as one text, as `evaluationError` has it.
    pub fn error(&self) -> String {
        if self.errors.is_empty() { String::new() } else { aggregate(&self.errors) }
    }
}

/// `User "x" cannot get resource "pods" in API group "" in the namespace "default"`.
///
/// Upstream: apiserver/pkg/endpoints/handlers/responsewriters/errors.go
pub fn forbidden_message(attributes: &Attributes<'_>) -> String {
    let Attributes { user, verb, group, namespace, path, .. } = attributes;
    let name = &user.name;
    if !attributes.resource_request {
        return format!("User {name:?} cannot {verb} path {path:?}");
    }
    let resource = match attributes.subresource {
        "" => attributes.resource.to_owned(),
        sub => format!("{}/{sub}", attributes.resource),
    };
    let what = format!("User {name:?} cannot {verb} resource {resource:?} in API group {group:?}");
    if namespace.is_empty() { format!("{what} at the cluster scope") } else { format!("{what} in the namespace {namespace:?}") }
}

#[cfg(test)]
mod tests;
