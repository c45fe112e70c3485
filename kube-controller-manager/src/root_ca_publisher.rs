//! Publishes the cluster's root certificate as the ConfigMap `kube-root-ca.crt` of every namespace, for pods to trust the API server.
//!
//! Upstream: pkg/controller/certificates/rootcacertpublisher

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::api_error;
use crate::config::Config;
use crate::context::{Context, Requeue, Store};
use crate::key::Key;
use crate::serviceaccount::is_active;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let Some(file) = Config::file(&ctx.config.options.root_ca_file) else {
        tracing::warn!("--root-ca-file is not set, kube-root-ca.crt will not be published");
        return Ok(());
    };
    let bundle = std::fs::read_to_string(&file).with_context(|| format!("error reading root-ca-file at {}", file.display()))?;
    let fields = format!("metadata.name={NAME}");
    let maps = ctx.watch(Api::<ConfigMap>::all(ctx.informers.client()), watcher::Config::default().fields(&fields));
    let (namespaces, queue) = (ctx.store::<Namespace>(), ctx.queue());
    namespaces.feed(&queue);
    let again = queue.clone();
    maps.on_change(move |change| again.add(Key::cluster(change.object().namespace().unwrap_or_default())));
    namespaces.synced().await;
    maps.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, namespaces, maps, bundle) = (this.clone(), namespaces.clone(), maps.clone(), bundle.clone());
        async move { sync(&ctx, &namespaces, &maps, &bundle, &key).await }
    });
    Ok(())
}

async fn sync(
    ctx: &Context,
    namespaces: &Store<Namespace>,
    maps: &Store<ConfigMap>,
    bundle: &str,
    key: &Key,
) -> anyhow::Result<Requeue> {
    if !namespaces.get(key).is_some_and(|namespace| is_active(&namespace)) {
        return Ok(Requeue::No);
    }
    let api = ctx.namespaced::<ConfigMap>(&key.name);
    let existing = maps.get(&Key::new(&key.name, NAME));
    let Some(wanted) = plan(existing.as_deref(), &key.name, bundle) else { return Ok(Requeue::No) };
    let written = match existing {
        None => api.create(&PostParams::default(), &wanted).await,
        Some(_) => api.replace(NAME, &PostParams::default(), &wanted).await,
    };
    match written {
        Err(error) if !api_error::is_already_exists(&error) && !api_error::is_namespace_terminating(&error) => Err(error.into()),
        _ => Ok(Requeue::No),
    }
}

/// The ConfigMap to write, or `None` when it is as it should be.
fn plan(existing: Option<&ConfigMap>, namespace: &str, bundle: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([("ca.crt".to_owned(), bundle.to_owned())]);
    let mut map = existing.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    });
    let described = map.annotations().get("kubernetes.io/description").is_some_and(|text| !text.is_empty());
    if existing.is_some() && map.data.as_ref() == Some(&data) && described {
        return None;
    }
    map.data = Some(data);
    map.annotations_mut().entry("kubernetes.io/description".to_owned()).or_insert_with(|| DESCRIPTION.to_owned());
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_written_when_absent_or_changed() {
        let made = plan(None, "d", "PEM").unwrap();
        assert_eq!(made.data.as_ref().unwrap()["ca.crt"], "PEM");
        assert!(plan(Some(&made), "d", "PEM").is_none());
        assert!(plan(Some(&made), "d", "NEW").is_some());
        let stripped = ConfigMap { metadata: ObjectMeta { annotations: None, ..made.metadata.clone() }, ..made };
        assert!(plan(Some(&stripped), "d", "PEM").is_some());
    }
}
