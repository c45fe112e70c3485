//! The resources being served: the registry's rows joined with their schema and cache, and found by path.

use std::collections::HashMap;
use std::sync::Arc;

use api::schema::Schema;
use registry::resource::Resource;

use crate::cache::Caches;
use crate::cache::resource::ResourceCache;

/// One served resource.
pub struct Served {
    /// Its row in the registry.
    pub resource: Resource,
    /// The shape of its objects.
    pub schema: Schema,
    /// Its objects; `None` where it stores none (reviews, bindings).
    pub cache: Option<Arc<ResourceCache>>,
    /// The etcd they lie in, and all that lies there.
    pub caches: Arc<Caches>,
    /// Whether stored documents are of another version.
    pub converted: bool,
    /// Its number, to remember encodings by.
    pub number: u32,
}

impl Served {
    /// `<path>/<namespace>/<name>` or `<path>/<name>`: the key below etcd's prefix.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.resource.storage_path, self.key(namespace, name))
    }

    /// The object's key in the cache.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.resource.names.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// Group, for errors.
    pub fn group(&self) -> &str {
        &self.resource.names.group
    }

    /// Plural name, for errors.
    pub fn plural(&self) -> &str {
        &self.resource.names.plural
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> (&str, &str, &str) {
        let names = &self.resource.names;
        (&names.group, &names.version, &names.kind)
    }

    /// Whether it has the verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.resource.names.verbs.iter().any(|have| have == verb)
    }
}

/// All served resources. Replaced as a whole when one comes or goes.
#[derive(Default)]
pub struct Table {
    by_path: HashMap<(String, String, String), Arc<Served>>,
    order: Vec<Arc<Served>>,
}

impl Table {
    /// Joins the rows with their caches.
    pub fn new(resources: Vec<Resource>, caches: &Arc<Caches>) -> Self {
        let mut table = Self::default();
        for (number, resource) in resources.into_iter().enumerate() {
            let names = &resource.names;
            let Some(schema) = Schema::builtin(&names.group, &names.version, &names.kind) else {
                tracing::error!(
                    kind = names.kind,
                    version = names.version,
                    group = names.group,
                    "No schema for a resource of the table"
                );
                continue;
            };
            let key = (names.group.clone(), names.version.clone(), names.plural.clone());
            let served = Arc::new(Served {
                schema,
                cache: caches.by_path(&resource.storage_path).filter(|_| is_stored(&resource)),
                caches: caches.home(&resource.storage_path),
                converted: resource.stored_as != resource.api_version() || resource.conversion.is_some(),
                number: u32::try_from(number).unwrap_or(u32::MAX),
                resource,
            });
            table.by_path.insert(key, served.clone());
            table.order.push(served);
        }
        table
    }

    /// The resource behind a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Some version of a resource that stores objects.
    pub fn any_version(&self, group: &str, plural: &str) -> Option<&Arc<Served>> {
        self.order.iter().find(|served| served.group() == group && served.plural() == plural)
    }

    /// All, in the order of discovery.
    pub fn all(&self) -> &[Arc<Served>] {
        &self.order
    }

    /// Whether anything is served below this group and version.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.order.iter().any(|served| served.group() == group && served.resource.names.version == version)
    }
}

/// Whether objects of the resource are kept: what can be read or listed is.
pub fn is_stored(resource: &Resource) -> bool {
    resource.names.verbs.iter().any(|verb| verb == "get") && resource.names.plural != "componentstatuses"
}
