//! Keeps the status of ResourceQuotas: what is allowed, and what is used. The API server refuses what would exceed it.
//!
//! Upstream: pkg/controller/resourcequota

pub mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, Service};
use kube::api::{Api, DynamicObject, ListParams, PostParams};

use crate::api_error;
use crate::config::workers;
use crate::context::{Change, Context, Object, Queue, Requeue, Store};
use crate::discovery;
use crate::key::Key;
use crate::pods;
use usage::Usage;

/// How soon to count again what is counted by listing: nobody tells of its deletion.
const RECOUNT: Duration = Duration::from_secs(30);

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

struct Controller {
    ctx: Context,
    quotas: Store<ResourceQuota>,
    pods: Store<Pod>,
    services: Store<Service>,
    claims: Store<PersistentVolumeClaim>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller =
        Arc::new(Controller { quotas: ctx.store(), pods: ctx.store(), services: ctx.store(), claims: ctx.store(), ctx });
    let queue = controller.ctx.queue();
    controller.quotas.feed(&queue);
    // What is used grows by the API server's own account; it shrinks when something ends or goes, and that is ours to notice.
    replenish(&controller.services, &controller.quotas, &queue, |_| false);
    replenish(&controller.claims, &controller.quotas, &queue, |_| false);
    replenish(&controller.pods, &controller.quotas, &queue, |pod: &Pod| pods::is_terminal(pod));
    controller.quotas.synced().await;
    controller.services.synced().await;
    controller.claims.synced().await;
    controller.pods.synced().await;
    let this = Arc::clone(&controller);
    controller.ctx.run(&queue, workers(controller.ctx.config.options.concurrent_resource_quota_syncs), move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    Ok(())
}

/// Counts a namespace again when an object of it goes, or ends.
fn replenish<K: Object>(store: &Store<K>, quotas: &Store<ResourceQuota>, queue: &Queue<Key>, ended: fn(&K) -> bool) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    store.on_change(move |change| {
        let relevant = match change {
            Change::Deleted(_) => true,
            Change::Updated(old, new) => !ended(old) && ended(new),
            Change::Added(_) => false,
        };
        if relevant {
            for quota in quotas.in_namespace(&change.object().meta().namespace.clone().unwrap_or_default()) {
                queue.add(Key::of(quota.as_ref()));
            }
        }
    });
}

impl Controller {
    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(quota) = self.quotas.get(key) else { return Ok(Requeue::No) };
        let spec = quota.spec.clone().unwrap_or_default();
        let hard = spec.hard.clone().unwrap_or_default();
        let mut used = self.usage(&spec, &key.namespace);
        let listed: Vec<(&String, (&str, &str))> = hard.keys().filter_map(|name| Some((name, usage::counted(name)?))).collect();
        if !listed.is_empty() && !usage::has_scopes(&spec) {
            let resources = discovery::resources(&self.ctx.client).await?.found;
            for (name, (resource, group)) in &listed {
                let Some(found) =
                    resources.iter().find(|f| f.resource.plural == *resource && f.resource.group == *group && f.namespaced)
                else {
                    continue;
                };
                let api: Api<DynamicObject> = Api::namespaced_with(self.ctx.client.clone(), &key.namespace, &found.resource);
                let count = api.list_metadata(&ListParams::default()).await?.items.len();
                used.insert((*name).clone(), Quantity::from_int(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi));
            }
        }
        let status = status(&hard, &used);
        if differs(quota.status.as_ref(), &status) {
            let changed = ResourceQuota { status: Some(status), ..(*quota).clone() };
            let written = self
                .ctx
                .namespaced::<ResourceQuota>(&key.namespace)
                .replace_status(&key.name, &PostParams::default(), &changed)
                .await;
            api_error::ignore_not_found(written)?;
        }
        let period = self.ctx.config.options.resource_quota_sync_period;
        Ok(Requeue::After(if listed.is_empty() { period } else { RECOUNT.min(period) }))
    }

    fn usage(&self, spec: &ResourceQuotaSpec, namespace: &str) -> Usage {
        let (mut total, now) = (Usage::new(), self.ctx.now());
        let mut take = |part: Usage| part.iter().for_each(|(key, amount)| usage::add(&mut total, key.clone(), amount));
        for pod in self.pods.in_namespace(namespace).iter().filter(|pod| usage::covers(spec, pod)) {
            take(usage::of_pod(pod, now));
        }
        if !usage::has_scopes(spec) {
            self.services.in_namespace(namespace).iter().for_each(|service| take(usage::of_service(service)));
            self.claims.in_namespace(namespace).iter().for_each(|claim| take(usage::of_claim(claim)));
        }
        total
    }
}

/// The limits, and the use of exactly those resources that have one.
fn status(hard: &Amounts, used: &Usage) -> ResourceQuotaStatus {
    let amount = |name: &String| {
        let text = used.get(name).map_or_else(|| "0".to_owned(), ToString::to_string);
        (name.clone(), k8s_openapi::apimachinery::pkg::api::resource::Quantity(text))
    };
    ResourceQuotaStatus { hard: Some(hard.clone()), used: Some(hard.keys().map(amount).collect()) }
}

fn differs(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    let parsed = |list: Option<&Amounts>| -> BTreeMap<String, Option<Quantity>> {
        list.into_iter().flatten().map(|(name, amount)| (name.clone(), Quantity::parse(&amount.0).ok())).collect()
    };
    let Some(old) = old else { return true };
    parsed(old.hard.as_ref()) != parsed(new.hard.as_ref()) || parsed(old.used.as_ref()) != parsed(new.used.as_ref())
}
