//! Makes sure that every namespace has its `default` service account.
//!
//! Upstream: pkg/controller/serviceaccount/serviceaccounts_controller.go

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::PostParams;

use crate::api_error;
use crate::context::{Change, Context, Requeue};
use crate::key::Key;

const NAME: &str = "default";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (namespaces, accounts, queue) = (ctx.store::<Namespace>(), ctx.store::<ServiceAccount>(), ctx.queue());
    namespaces.feed(&queue);
    let again = queue.clone();
    accounts.on_change(move |change| {
        if let Change::Deleted(account) = change
            && account.name_any() == NAME
        {
            again.add(Key::cluster(account.namespace().unwrap_or_default()));
        }
    });
    namespaces.synced().await;
    accounts.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, namespaces, accounts) = (this.clone(), namespaces.clone(), accounts.clone());
        async move {
            let active = namespaces.get(&key).is_some_and(|namespace| is_active(&namespace));
            if !active || accounts.get(&Key::new(&key.name, NAME)).is_some() {
                return Ok(Requeue::No);
            }
            let account = ServiceAccount {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), namespace: Some(key.name.clone()), ..ObjectMeta::default() },
                ..ServiceAccount::default()
            };
            match ctx.namespaced::<ServiceAccount>(&key.name).create(&PostParams::default(), &account).await {
                Err(error) if !api_error::is_already_exists(&error) && !api_error::is_namespace_terminating(&error) => {
                    Err(error.into())
                }
                _ => Ok(Requeue::No),
            }
        }
    });
    Ok(())
}

/// Whether new content may still be made in a namespace.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Active") == "Active"
}
