//! [`Lister`] over the caches: how authorization and admission read the cluster.

use std::sync::Arc;

use api::lister::Lister;
use serde_json::Value;

use super::Caches;
use super::filter::Scope;
use super::resource::ResourceCache;

/// Resources whose objects are small, few and read on many requests: parsed once and kept.
const KEPT: &[&str] = &[
    "namespaces",
    "serviceaccounts",
    "clusterroles",
    "clusterrolebindings",
    "roles",
    "rolebindings",
    "limitranges",
    "resourcequotas",
    "priorityclasses",
    "storageclasses",
    "ingressclasses",
    "runtimeclasses",
    "flowschemas",
    "prioritylevelconfigurations",
];

#[derive(Clone)]
pub(super) struct Known {
    cache: Arc<ResourceCache>,
    keep: bool,
}

impl Caches {
    /// Makes a resource readable under its group and plural name.
    pub fn name(&self, group: &str, plural: &str, path: &str) {
        let Some(cache) = self.by_path(path) else { return };
        let keep = KEPT.contains(&plural);
        self.by_resource.rcu(|known| {
            let mut known = (**known).clone();
            known.insert((group.to_owned(), plural.to_owned()), Known { cache: cache.clone(), keep });
            known
        });
    }

    fn known(&self, group: &str, resource: &str) -> Option<Known> {
        self.by_resource.load().get(&(group.to_owned(), resource.to_owned())).cloned()
    }
}

impl Lister for Caches {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let known = self.known(group, resource)?;
        let entry = if known.cache.namespaced { known.cache.get(&format!("{namespace}/{name}")) } else { known.cache.get(name) }?;
        Some(if known.keep { entry.parsed() } else { Arc::new(entry.parse()) })
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let Some(known) = self.known(group, resource) else { return Vec::new() };
        let scope =
            namespace.filter(|_| known.cache.namespaced).map_or(Scope::All, |namespace| Scope::Namespace(namespace.to_owned()));
        let snapshot = known.cache.snapshot(0);
        snapshot.from(&scope, None).map(|entry| if known.keep { entry.parsed() } else { Arc::new(entry.parse()) }).collect()
    }

    fn version(&self, group: &str, resource: &str) -> u64 {
        self.known(group, resource).map_or(0, |known| known.cache.version())
    }
}
