//! Roles and bindings, compiled into an index by subject and kept until one of the four resources changes.
//!
//! Upstream: plugin/pkg/auth/authorizer/rbac, pkg/registry/rbac/validation

use std::collections::HashMap;
use std::sync::Arc;

use api::lister::Lister;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;

use crate::authz::rule::Rule;
use crate::authz::{Attributes, Decision, UserRules};
use crate::object::{aggregate, list, text};
use crate::user::{User, service_account_name};

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// The RBAC authorizer.
pub struct Rbac {
    lister: Arc<dyn Lister>,
    compiled: ArcSwap<Compiled>,
    compiling: Mutex<()>,
}

#[derive(Default)]
struct Compiled {
    /// Versions of [`RESOURCES`] that this was compiled from; `None` before the first time.
    versions: Option<[u64; 4]>,
    cluster: Bindings,
    namespaces: HashMap<String, Bindings>,
}

/// The rules of a role, or why there are none.
type RoleRules = Result<Arc<[Rule]>, String>;

/// The bindings of one namespace, or of the cluster.
#[derive(Default)]
struct Bindings {
    roles: Vec<RoleRules>,
    users: HashMap<String, Vec<Hit>>,
    groups: HashMap<String, Vec<Hit>>,
}

/// That a subject is named in binding number `binding`, as its subject number `subject`.
#[derive(Clone)]
struct Hit {
    binding: usize,
    subject: usize,
    reason: Arc<str>,
}

impl Rbac {
    /// Over these roles and bindings.
    pub fn new(lister: Arc<dyn Lister>) -> Self {
        Self { lister, compiled: ArcSwap::default(), compiling: Mutex::new(()) }
    }

    /// Allowed if any rule of any role bound to the user allows it.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let compiled = self.compiled();
        let mut errors = Vec::new();
        for bindings in compiled.scopes(attributes.namespace) {
            for hit in bindings.hits(attributes.user) {
                match &bindings.roles[hit.binding] {
                    Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                        return Decision::Allow(hit.reason.clone());
                    }
                    Ok(_) => {}
                    Err(error) => errors.push(error.clone()),
                }
            }
        }
        Decision::NoOpinion(if errors.is_empty() { String::new() } else { format!("RBAC: {}", aggregate(&errors)) })
    }

    /// All rules bound to the user, for the cluster and in the namespace.
    pub fn rules_for(&self, user: &User, namespace: &str) -> UserRules {
        let compiled = self.compiled();
        let mut out = UserRules::default();
        for bindings in compiled.scopes(namespace) {
            for hit in bindings.hits(user) {
                match &bindings.roles[hit.binding] {
                    Ok(rules) => out.rules.extend(rules.iter().cloned()),
                    Err(error) => out.errors.push(error.clone()),
                }
            }
        }
        out
    }

    /// The rules of the role that a binding in `namespace` ("" for cluster bindings) refers to.
    ///
    /// # Errors
    /// In upstream's words, where there is no such role.
    pub fn role_rules(&self, role_ref: &Value, namespace: &str) -> Result<Vec<Rule>, String> {
        role_rules(self.lister.as_ref(), role_ref, namespace)
    }

    fn compiled(&self) -> Arc<Compiled> {
        let versions = || Some(RESOURCES.map(|resource| self.lister.version(GROUP, resource)));
        let current = self.compiled.load_full();
        if current.versions == versions() {
            return current;
        }
        let _one_at_a_time = self.compiling.lock();
        // Versions first: a change while compiling leads to another round, never to a stale answer kept.
        let now = versions();
        let current = self.compiled.load_full();
        if current.versions == now {
            return current;
        }
        let fresh = Arc::new(Compiled::new(self.lister.as_ref(), now));
        self.compiled.store(fresh.clone());
        fresh
    }
}

impl Compiled {
    fn new(lister: &dyn Lister, versions: Option<[u64; 4]>) -> Self {
        let mut roles: HashMap<(String, String), RoleRules> = HashMap::new();
        let mut rules = |role_ref: &Value, namespace: &str| {
            let scope = if text(role_ref, "/kind") == "Role" { namespace } else { "" };
            let key = (scope.to_owned(), format!("{}/{}", text(role_ref, "/kind"), text(role_ref, "/name")));
            roles.entry(key).or_insert_with(|| role_rules(lister, role_ref, namespace).map(Arc::from)).clone()
        };
        let mut out = Self { versions, ..Self::default() };
        for binding in lister.list(GROUP, "clusterrolebindings", None) {
            let role = rules(&binding["roleRef"], "");
            out.cluster.add(&binding, "", role);
        }
        for binding in lister.list(GROUP, "rolebindings", None) {
            let namespace = text(&binding, "/metadata/namespace");
            let role = rules(&binding["roleRef"], namespace);
            out.namespaces.entry(namespace.to_owned()).or_default().add(&binding, namespace, role);
        }
        out
    }

    fn scopes(&self, namespace: &str) -> impl Iterator<Item = &Bindings> {
        let own = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        std::iter::once(&self.cluster).chain(own)
    }
}

impl Bindings {
    fn add(&mut self, binding: &Value, namespace: &str, role: RoleRules) {
        let number = self.roles.len();
        self.roles.push(role);
        for (at, subject) in list(binding, "/subjects").iter().enumerate() {
            let (kind, name) = (text(subject, "/kind"), text(subject, "/name"));
            let (index, key, subject_name) = match kind {
                "User" => (&mut self.users, name.to_owned(), name.to_owned()),
                "Group" => (&mut self.groups, name.to_owned(), name.to_owned()),
                "ServiceAccount" => {
                    let own = text(subject, "/namespace");
                    let scope = if own.is_empty() { namespace } else { own };
                    if scope.is_empty() {
                        continue;
                    }
                    (&mut self.users, service_account_name(scope, name), format!("{name}/{scope}"))
                }
                _ => continue,
            };
            let (role_kind, role_name) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
            let binding_name = text(binding, "/metadata/name");
            let binding_text = if namespace.is_empty() {
                format!("ClusterRoleBinding {binding_name:?}")
            } else {
                format!("RoleBinding {:?}", format!("{binding_name}/{namespace}"))
            };
            let reason = format!("RBAC: allowed by {binding_text} of {role_kind} {role_name:?} to {kind} {subject_name:?}");
            index.entry(key).or_default().push(Hit { binding: number, subject: at, reason: Arc::from(reason) });
        }
    }

    /// The bindings that name the user, each once by its first subject that does, in their order.
    fn hits(&self, user: &User) -> Vec<&Hit> {
        let named = self.users.get(&user.name).into_iter().flatten();
        let grouped = user.groups.iter().filter_map(|group| self.groups.get(group)).flatten();
        let mut hits: Vec<&Hit> = named.chain(grouped).collect();
        hits.sort_by_key(|hit| (hit.binding, hit.subject));
        hits.dedup_by_key(|hit| hit.binding);
        hits
    }
}

fn role_rules(lister: &dyn Lister, role_ref: &Value, namespace: &str) -> Result<Vec<Rule>, String> {
    let name = text(role_ref, "/name");
    let (resource, kind, scope) = match text(role_ref, "/kind") {
        "Role" => ("roles", "role", namespace),
        "ClusterRole" => ("clusterroles", "clusterrole", ""),
        other => return Err(format!("unsupported role reference kind: {other:?}")),
    };
    let role = lister.get(GROUP, resource, scope, name).ok_or_else(|| format!("{kind}.{GROUP} {name:?} not found"))?;
    Ok(Rule::of_role(&role))
}
