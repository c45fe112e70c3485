//! Admission for requests: the plugins of the `admission` crate, given this server's caches, authorizers and storage.

use std::sync::Arc;

use admission::{Attributes, Host, Operation, Question, QuotaWriter};
use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use auth::authz::{self, Authorizers};
use auth::user::User;
use serde_json::Value;

use crate::cache::{Caches, unavailable};
use crate::call::Call;
use crate::codec;
use crate::config::Config;
use crate::metadata;
use crate::server::Server;
use crate::storage::Error;
use crate::table::Served;
use crate::verb::options::WriteOptions;

/// The plugins that are on.
pub struct Chain(admission::Chain);

impl Chain {
    /// Of the flags.
    ///
    /// # Errors
    /// Names that are no plugins.
    pub fn new(config: &Config, caches: Arc<Caches>, authorizers: Arc<Authorizers>) -> anyhow::Result<Self> {
        let lister: Arc<dyn Lister> = caches.clone();
        let host = Host { lister, authorizer: Arc::new(Asker { authorizers }), quotas: Arc::new(Quotas { caches }) };
        let chain = admission::Chain::new(&host, &config.enable_admission_plugins, &config.disable_admission_plugins);
        Ok(Self(chain.map_err(anyhow::Error::msg)?))
    }
}

struct Asker {
    authorizers: Arc<Authorizers>,
}

#[async_trait]
impl admission::Authorizer for Asker {
    async fn allowed(&self, user: &admission::User, question: &Question) -> bool {
        let user =
            User { name: user.name.clone(), uid: user.uid.clone(), groups: user.groups.clone(), extra: user.extra.clone() };
        let mut attributes = authz::Attributes::resource(
            &user,
            &question.verb,
            &question.group,
            &question.resource,
            &question.namespace,
            &question.name,
        )
        .subresource(&question.subresource);
        attributes.version = &question.version;
        self.authorizers.authorize(&attributes).allowed()
    }

    async fn resource_of(&self, group: &str, kind: &str) -> Option<(String, bool)> {
        let row = api::kind::all().iter().find(|row| row.group == group && row.kind == kind)?;
        Some((row.plural.to_owned(), row.namespaced))
    }
}

struct Quotas {
    caches: Arc<Caches>,
}

#[async_trait]
impl QuotaWriter for Quotas {
    async fn read(&self, namespace: &str) -> Result<Vec<Value>, Status> {
        let storage = &self.caches.storage;
        let (start, end) =
            (storage.key(&format!("resourcequotas/{namespace}/")), storage.key(&format!("resourcequotas/{namespace}0")));
        let page = storage.page(&start, &end, 0, 0).await.map_err(unavailable)?;
        let mut out = Vec::with_capacity(page.items.len());
        for item in page.items {
            let document = codec::stored_json(&item.value).map_err(Status::internal)?;
            let mut object: Value = serde_json::from_slice(&document).map_err(Status::internal)?;
            object["metadata"]["resourceVersion"] = item.revision.to_string().into();
            out.push(object);
        }
        Ok(out)
    }

    async fn write_status(&self, quota: &Value) -> Result<(), Status> {
        let (namespace, name) = (metadata::namespace(quota), metadata::name(quota));
        let conflict = || Status::conflict("", "resourcequotas", name, metadata::MODIFIED);
        let version: u64 = metadata::text(quota, "resourceVersion").parse().map_err(|_| conflict())?;
        let mut object = quota.clone();
        metadata::map(&mut object).remove("resourceVersion");
        let storage = &self.caches.storage;
        let key = storage.key(&format!("resourcequotas/{namespace}/{name}"));
        match storage.update(&key, version, object.to_string().as_bytes(), None).await {
            Ok(_) => Ok(()),
            Err(Error::Changed(_)) => Err(conflict()),
            Err(error) => Err(unavailable(error)),
        }
    }
}

/// An operation as metrics have it.
fn name_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// The request as admission sees it.
fn attributes(call: &Call, served: &Served, operation: Operation, object: &Value, options: &WriteOptions) -> Attributes {
    let names = &served.resource.names;
    let user = &call.user;
    let own = std::ptr::eq(Arc::as_ptr(&call.served), served);
    let namespace = match metadata::namespace(object) {
        "" => call.info.namespace.as_str(),
        namespace => namespace,
    };
    Attributes {
        operation,
        group: names.group.clone(),
        version: names.version.clone(),
        resource: names.plural.clone(),
        subresource: if own { call.info.subresource.clone() } else { String::new() },
        kind: names.kind.clone(),
        namespace: if names.namespaced || names.plural == "namespaces" { namespace.to_owned() } else { String::new() },
        name: if operation == Operation::Create { metadata::name(object).to_owned() } else { call.info.name.clone() },
        user: admission::User {
            name: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        },
        dry_run: options.dry_run,
        options: Value::Null,
    }
}

impl Server {
    /// Runs the mutating parts of all plugins.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(
        &self,
        call: &mut Call,
        served: &Served,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        let attributes =
            attributes(call, served, operation, if object.is_null() { old.unwrap_or(&Value::Null) } else { object }, options);
        let mut nothing = Value::Null;
        let object = if operation == Operation::Delete { &mut nothing } else { object };
        let began = std::time::Instant::now();
        let result = self.admission.0.admit(&attributes, object, old, &mut call.warnings).await;
        crate::metrics::admission_step("admit", name_of(operation), began.elapsed(), result.is_err());
        result
    }

    /// Runs the validating parts of all plugins, and the checks against escalation that belong to roles and bindings.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(
        &self,
        call: &mut Call,
        served: &Served,
        operation: Operation,
        object: &Value,
        old: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        if served.group() == "rbac.authorization.k8s.io" && matches!(operation, Operation::Create | Operation::Update) {
            match served.plural() {
                "roles" | "clusterroles" => {
                    authz::escalation::check_role(&self.authorizers, &call.user, served.plural(), object, old)?
                }
                plural => authz::escalation::check_binding(&self.authorizers, &call.user, plural, object)?,
            }
        }
        let attributes =
            attributes(call, served, operation, if object.is_null() { old.unwrap_or(&Value::Null) } else { object }, options);
        let began = std::time::Instant::now();
        let result = self.admission.0.validate(&attributes, object, old, &mut call.warnings).await;
        crate::metrics::admission_step("validate", name_of(operation), began.elapsed(), result.is_err());
        result
    }
}
