//! What a server makes of an empty cluster, and keeps: default namespaces, roles, priority classes, the `kubernetes` Service and its
//! endpoints, ConfigMaps about authentication, its own lease.
//!
//! Upstream: pkg/controlplane/{instance.go,controller}, pkg/registry/rbac/rest, pkg/registry/scheduling/rest

mod api_services;
mod conditions;
mod endpoints;
pub(crate) mod flow;
mod lease;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::apply::Writer;
use api::lister::Lister;
use api::schema::FieldValidation;
use api::status::Status;
use auth::bootstrap::Action;
use auth::user::{MASTERS, User};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use http::{HeaderMap, Method};
use jiff::Timestamp;
use registry::resource::Resource;
use serde_json::{Value, json};

use crate::allocator::repair;
use crate::cache::entry::Entry;
use crate::cache::filter::Scope;
use crate::call::Call;
use crate::config::Config;
use crate::metadata;
use crate::request_info::{Query, RequestInfo};
use crate::server::Server;
use crate::table::Served;
use crate::verb::delete::{self, DeleteOptions};
use crate::verb::options::WriteOptions;
use crate::verb::write::{self, Change};

/// Writes at once while the defaults are made.
const PARALLEL: usize = 16;

/// The rows of the registry that this server serves: the defaults, changed by `--runtime-config`.
pub fn served_resources(config: &Config) -> Vec<Resource> {
    let setting = |key: &str| config.runtime_config.get(key).map(|value| value != "false");
    let wanted = |resource: &Resource| {
        let names = &resource.names;
        let group_version =
            if names.group.is_empty() { names.version.clone() } else { format!("{}/{}", names.group, names.version) };
        let stage = if names.version.contains("alpha") {
            "api/alpha"
        } else if names.version.contains("beta") {
            "api/beta"
        } else {
            "api/ga"
        };
        setting(&format!("{group_version}/{}", names.plural))
            .or_else(|| setting(&group_version))
            .or_else(|| setting(stage))
            .or_else(|| setting("api/all"))
            .unwrap_or_else(|| registry::names::served_by_default(&names.version))
    };
    registry::everything().into_iter().filter(wanted).collect()
}

/// A name for this server that no other has: host and a random part.
pub fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), uuid::Uuid::new_v4())
}

impl Call {
    /// A call that the server makes to itself.
    pub fn internal(server: &Arc<Server>, served: &Arc<Served>, verb: &str, namespace: &str, name: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::USER_AGENT, http::HeaderValue::from_static("kube-apiserver"));
        Self {
            server: server.clone(),
            served: served.clone(),
            info: RequestInfo {
                is_resource: true,
                verb: verb.to_owned(),
                group: served.group().to_owned(),
                version: served.resource.names.version.clone(),
                resource: served.plural().to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                ..RequestInfo::default()
            },
            query: Query::default(),
            method: Method::POST,
            headers,
            user: Arc::new(User::new("system:apiserver", &[MASTERS, auth::user::AUTHENTICATED])),
            body: None,
            upgrade: None,
            audit: None,
            warnings: Vec::new(),
            empties: Vec::new(),
            now: Timestamp::now(),
        }
    }
}

/// Options of the server's own writes.
pub(crate) fn own_options() -> WriteOptions {
    WriteOptions {
        dry_run: false,
        manager: "kube-apiserver".into(),
        manager_given: true,
        validation: FieldValidation::Ignore,
        force: None,
        applied: false,
    }
}

/// Creates an object of the served kind, or says why not.
pub(crate) async fn create(server: &Arc<Server>, group: &str, plural: &str, object: Value) -> Result<Value, Status> {
    let table = server.table.load_full();
    let served = table.any_version(group, plural).cloned().ok_or_else(|| Status::internal(format!("{plural} are not served")))?;
    let (namespace, name) = (metadata::namespace(&object).to_owned(), metadata::name(&object).to_owned());
    let mut call = Call::internal(server, &served, "create", &namespace, &name);
    call.info.name = String::new();
    let decoded =
        served.schema.decode_value(object, FieldValidation::Ignore).map_err(|error| Status::internal(error.to_string()))?;
    let mut object = decoded.object;
    object["apiVersion"] = served.resource.api_version().into();
    object["kind"] = served.resource.names.kind.clone().into();
    Ok(write::create(&mut call, &served, object, &own_options()).await?.object)
}

/// Changes an object of the served kind.
pub(crate) async fn change(
    server: &Arc<Server>,
    group: &str,
    plural: &str,
    namespace: &str,
    name: &str,
    make: impl Fn(&Value) -> Value + Send + Sync,
) -> Result<Value, Status> {
    change_part(server, (group, plural, ""), namespace, name, make).await
}

/// Changes the status of a cluster-scoped object.
pub(crate) async fn change_status(
    server: &Arc<Server>,
    group: &str,
    plural: &str,
    name: &str,
    make: impl Fn(&Value) -> Value + Send + Sync,
) -> Result<Value, Status> {
    change_part(server, (group, plural, "status"), "", name, make).await
}

/// Applies a part of the status of a cluster-scoped object, whoever else owns it.
pub(crate) async fn apply_status(
    server: &Arc<Server>,
    (group, plural): (&str, &str),
    name: &str,
    manager: &str,
    status: &Value,
) -> Result<Value, Status> {
    let table = server.table.load_full();
    let served = table.any_version(group, plural).cloned().ok_or_else(|| Status::internal(format!("{plural} are not served")))?;
    let mut call = Call::internal(server, &served, "patch", "", name);
    "status".clone_into(&mut call.info.subresource);
    let options = WriteOptions { manager: manager.to_owned(), force: Some(true), applied: true, ..own_options() };
    let change =
        Change { served: &served, namespace: "", name, subresource: "status", options: &options, create: false, bare: false };
    let now = crate::call::timestamp(call.now);
    let body = json!({
        "apiVersion": served.resource.api_version(), "kind": served.resource.names.kind, "metadata": {"name": name}, "status": status,
    });
    let written = write::change(&mut call, &change, |_, old| {
        let Some(old) = old else { return Err(Status::not_found(group, plural, name)) };
        let writer = Writer { manager, subresource: "status", now: &now };
        api::apply::apply(&served.schema, Some(old), &body, writer, true).map_err(|error| error.status())
    })
    .await?;
    Ok(written.object)
}

async fn change_part(
    server: &Arc<Server>,
    (group, plural, subresource): (&str, &str, &str),
    namespace: &str,
    name: &str,
    make: impl Fn(&Value) -> Value + Send + Sync,
) -> Result<Value, Status> {
    let table = server.table.load_full();
    let served = table.any_version(group, plural).cloned().ok_or_else(|| Status::internal(format!("{plural} are not served")))?;
    let mut call = Call::internal(server, &served, "update", namespace, name);
    subresource.clone_into(&mut call.info.subresource);
    let options = own_options();
    let change = Change { served: &served, namespace, name, subresource, options: &options, create: false, bare: false };
    let written =
        write::change(&mut call, &change, |_, old| old.map(&make).ok_or_else(|| Status::not_found(group, plural, name))).await?;
    Ok(written.object)
}

/// Makes the object be there; an existing one stays as it is.
pub(crate) async fn ensure(server: &Arc<Server>, group: &str, plural: &str, object: Value) -> Result<(), Status> {
    if server.caches.get(group, plural, metadata::namespace(&object), metadata::name(&object)).is_some() {
        return Ok(());
    }
    match create(server, group, plural, object).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        Err(status) => Err(status),
    }
}

/// Makes the defaults, then keeps what must be kept.
pub async fn run(server: Arc<Server>) {
    server.caches.loaded().await;
    loop {
        match defaults(&server).await {
            Ok(()) => break,
            Err(error) => {
                tracing::warn!(err = %error, "Making the default objects failed, trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
    server.health.set_bootstrapped();
    tracing::info!("The default objects are there");
    let tasks = server.tasks.clone();
    tasks.spawn_background("service-repair", repair::run(server.clone()));
    tasks.spawn_background("identity-lease", lease::run(server.clone()));
    tasks.spawn_background("priority-and-fairness", flow::run(server.clone()));
    tasks.spawn_background("api-services", api_services::run(server.clone()));
    tasks.spawn_background("conditions", conditions::run(server.clone()));
    endpoints::run(server).await;
}

/// Gives back what this server holds: its place in the endpoints of `kubernetes`.
pub async fn leave(server: &Arc<Server>) {
    endpoints::leave(server).await;
}

async fn defaults(server: &Arc<Server>) -> Result<(), Status> {
    server.caches.fresh().await?;
    let namespaces = ["kube-system", "kube-public", "kube-node-lease", "default"].map(|name| json!({"metadata": {"name": name}}));
    all(namespaces.into_iter().map(|object| ensure(server, "", "namespaces", object).boxed()).collect()).await?;
    // Roles and the rest live in these namespaces: admission must see them.
    server.caches.fresh().await?;
    let classes = [
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    let classes =
        classes.map(|(name, value, description)| json!({"metadata": {"name": name}, "value": value, "description": description}));
    all(classes.into_iter().map(|object| ensure(server, "scheduling.k8s.io", "priorityclasses", object).boxed()).collect())
        .await?;
    rbac(server).await?;
    flow::defaults(server).await?;
    api_services::keep(server).await?;
    config_maps(server).await?;
    endpoints::service(server).await
}

async fn all(work: Vec<BoxFuture<'_, Result<(), Status>>>) -> Result<(), Status> {
    let mut results = stream::iter(work).buffer_unordered(PARALLEL);
    while let Some(result) = results.next().await {
        result?;
    }
    Ok(())
}

async fn rbac(server: &Arc<Server>) -> Result<(), Status> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let one = |action: Action| async move {
        match action {
            Action::Create { resource, object } => ensure(server, GROUP, resource, object).await,
            Action::Update { resource, object } => {
                let (namespace, name) = (metadata::namespace(&object).to_owned(), metadata::name(&object).to_owned());
                change(server, GROUP, resource, &namespace, &name, |_| object.clone()).await.map(|_| ())
            }
            Action::Recreate { resource, object } => {
                let table = server.table.load_full();
                if let Some(served) = table.any_version(GROUP, resource).cloned() {
                    let (namespace, name) = (metadata::namespace(&object).to_owned(), metadata::name(&object).to_owned());
                    let mut call = Call::internal(server, &served, "delete", &namespace, &name);
                    delete::one(&mut call, &served, &namespace, &name, &DeleteOptions::default()).await?;
                }
                create(server, GROUP, resource, object).await.map(|_| ())
            }
        }
    };
    let actions = auth::bootstrap::reconcile(server.caches.as_ref());
    all(actions.into_iter().map(|action| one(action).boxed()).collect()).await
}

async fn config_maps(server: &Arc<Server>) -> Result<(), Status> {
    let mut data = json!({});
    if let Some(bundle) = &server.authenticator.client_ca {
        data["client-ca-file"] = bundle.pem().into();
    }
    if let (Some(proxy), Some([names, users, uids, groups, extra])) =
        (&server.authenticator.request_header, server.config.request_header_lists())
    {
        data["requestheader-client-ca-file"] = proxy.bundle.pem().into();
        for (key, list) in [
            ("requestheader-allowed-names", names),
            ("requestheader-username-headers", users),
            ("requestheader-uid-headers", uids),
            ("requestheader-group-headers", groups),
            ("requestheader-extra-headers-prefix", extra),
        ] {
            data[key] = json!(list).to_string().into();
        }
    }
    if data.as_object().is_some_and(|map| !map.is_empty()) {
        keep_config_map(server, "extension-apiserver-authentication", data).await?;
    }
    let since = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let tracking = json!({"metadata": {"namespace": "kube-system", "name": "kube-apiserver-legacy-service-account-token-tracking"}, "data": {"since": since}});
    ensure(server, "", "configmaps", tracking).await
}

/// Makes a ConfigMap of kube-system have this data.
async fn keep_config_map(server: &Arc<Server>, name: &str, data: Value) -> Result<(), Status> {
    match server.caches.get("", "configmaps", "kube-system", name) {
        Some(have) if have.get("data") == Some(&data) => Ok(()),
        Some(_) => {
            let make = |old: &Value| {
                let mut new = old.clone();
                new["data"] = data.clone();
                new
            };
            change(server, "", "configmaps", "kube-system", name, make).await.map(|_| ())
        }
        None => {
            ensure(server, "", "configmaps", json!({"metadata": {"namespace": "kube-system", "name": name}, "data": data})).await
        }
    }
}

/// Tells the node authorizer of every object that links nodes with what their pods use.
pub async fn feed_node_authorizer(server: Arc<Server>) {
    server.caches.loaded().await;
    let feeds = auth::authz::node::OBSERVED.iter().map(|(group, resource)| observe(server.clone(), group, resource));
    futures::future::join_all(feeds).await;
}

/// Whether two versions of an object can be told to have the same `spec` and phase without parsing them whole.
fn linked_alike(before: &Entry, after: &Entry) -> bool {
    #[derive(serde::Deserialize)]
    struct Linked<'a> {
        #[serde(borrow, default)]
        spec: Option<&'a serde_json::value::RawValue>,
        #[serde(default)]
        status: Phase,
        #[serde(default)]
        metadata: Marks,
    }
    #[derive(serde::Deserialize, Default, PartialEq)]
    struct Phase {
        #[serde(default)]
        phase: String,
        #[serde(default, rename = "resourceClaimStatuses")]
        claims: Value,
        #[serde(default, rename = "extendedResourceClaimStatus")]
        extended: Value,
    }
    #[derive(serde::Deserialize, Default, PartialEq)]
    struct Marks {
        #[serde(default)]
        uid: String,
        #[serde(default)]
        annotations: Value,
    }
    let read = |entry: &'_ Entry| -> Option<(Option<String>, Phase, Marks)> {
        let linked: Linked<'_> = serde_json::from_slice(entry.json_slice()).ok()?;
        Some((linked.spec.map(|spec| spec.get().to_owned()), linked.status, linked.metadata))
    };
    matches!((read(before), read(after)), (Some(before), Some(after)) if before == after)
}

async fn observe(server: Arc<Server>, group: &'static str, resource: &'static str) {
    let path = server.table.load().any_version(group, resource).map(|served| served.resource.storage_path.clone());
    let Some(cache) = path.and_then(|path| server.caches.by_path(&path)) else { return };
    let node = server.authorizers.node.clone();
    let mut known: HashMap<String, Arc<Entry>> = HashMap::new();
    loop {
        let Ok(mut watch) = cache.watch(None, Scope::All, Arc::default(), 0) else { return };
        let mut gone = std::mem::take(&mut known);
        for entry in watch.snapshot.from(&Scope::All, None) {
            let before = gone.remove(entry.key());
            if before.is_none_or(|before| before.revision() != entry.revision()) {
                node.observe(group, resource, &entry.parse(), false);
            }
            known.insert(entry.key().to_owned(), entry.clone());
        }
        for entry in gone.values() {
            node.observe(group, resource, &entry.parse(), true);
        }
        // Closed when this task was too slow or the cache was rebuilt: compare anew then.
        while let Some((event, _)) = watch.events.recv().await {
            // Most changes of pods are status: the links come from the spec, which the generation tells, and from the node.
            let same = event.previous.as_ref().is_some_and(|before| !event.removed && linked_alike(before, &event.entry));
            if !same {
                node.observe(group, resource, &event.entry.parse(), event.removed);
            }
            if event.removed {
                known.remove(event.entry.key());
            } else {
                known.insert(event.entry.key().to_owned(), event.entry.clone());
            }
        }
    }
}
