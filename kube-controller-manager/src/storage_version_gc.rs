//! Forgets what API servers that are gone once stored: their entries in StorageVersions, and StorageVersions without any entry.
//!
//! Upstream: pkg/controller/storageversiongc. As there it does nothing unless the server has the alpha group
//! internal.apiserver.k8s.io.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::apiserverinternal::v1alpha1::{ServerStorageVersion, StorageVersion};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::api_error;
use crate::context::Context;
use crate::discovery;

/// Where API servers renew their leases, and how to tell those from others.
const LEASES: (&str, &str) = ("kube-system", "apiserver.kubernetes.io/identity=kube-apiserver");

/// API servers come and go rarely.
const PERIOD: Duration = Duration::from_secs(60);

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let resources = discovery::resources(&ctx.client).await?;
    if !resources.found.iter().any(|found| found.resource.plural == "storageversions") {
        tracing::debug!(controller = ctx.name, "The server has no storage versions");
        return Ok(());
    }
    let this = ctx.clone();
    ctx.every(PERIOD, move || {
        let ctx = this.clone();
        async move { clean(&ctx).await }
    });
    Ok(())
}

async fn clean(ctx: &Context) -> anyhow::Result<()> {
    let api = ctx.cluster::<StorageVersion>();
    // First what was written, then who is alive: a server has its lease before it writes.
    let versions = api.list(&ListParams::default()).await?;
    let leases = ctx.namespaced::<Lease>(LEASES.0).list(&ListParams::default().labels(LEASES.1)).await?;
    let alive: HashSet<String> = leases.items.iter().map(ResourceExt::name_any).collect();
    for version in versions {
        let entries = version.status.as_ref().and_then(|status| status.storage_versions.clone()).unwrap_or_default();
        let Some(left) = plan(&entries, &alive) else { continue };
        let name = version.name_any();
        if left.is_empty() {
            api_error::ignore_not_found(api.delete(&name, &DeleteParams::default()).await)?;
            continue;
        }
        let mut changed = version;
        let status = changed.status.get_or_insert_default();
        let first = left[0].encoding_version.clone();
        status.common_encoding_version = left.iter().all(|entry| entry.encoding_version == first).then_some(first);
        status.storage_versions = Some(left);
        api_error::ignore_not_found(api.replace_status(&name, &PostParams::default(), &changed).await)?;
    }
    Ok(())
}

/// The entries of servers that are alive; `None` where that is all of them.
fn plan(entries: &[ServerStorageVersion], alive: &HashSet<String>) -> Option<Vec<ServerStorageVersion>> {
    let left: Vec<_> = entries.iter().filter(|entry| alive.contains(&entry.api_server_id)).cloned().collect();
    (left.len() < entries.len()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_of_dead_servers_go() {
        let entry = |id: &str| ServerStorageVersion { api_server_id: id.into(), ..Default::default() };
        let alive = HashSet::from(["a".to_owned()]);
        assert_eq!(plan(&[entry("a")], &alive), None);
        assert_eq!(plan(&[entry("a"), entry("b")], &alive), Some(vec![entry("a")]));
        assert_eq!(plan(&[entry("b")], &alive), Some(vec![]));
    }
}
