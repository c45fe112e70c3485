//! Deletes bootstrap tokens whose time is over.
//!
//! Upstream: pkg/controller/bootstrap/tokencleaner.go

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::api_error;
use crate::bootstrap_token::{NAMESPACE, SECRET_TYPE, expiration};
use crate::context::{self, Context, Requeue};

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let fields = format!("type={SECRET_TYPE}");
    let secrets =
        ctx.watch(Api::<Secret>::namespaced(ctx.informers.client(), NAMESPACE), watcher::Config::default().fields(&fields));
    let queue = ctx.queue();
    secrets.feed(&queue);
    secrets.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, secrets) = (this.clone(), secrets.clone());
        async move {
            let Some(secret) = secrets.get(&key) else { return Ok(Requeue::No) };
            let now = ctx.now();
            match expiration(&secret) {
                Some(at) if at <= now => {
                    tracing::info!(secret = %key, "Deleting expired secret");
                    let params =
                        DeleteParams::default().preconditions(Preconditions { uid: secret.uid(), resource_version: None });
                    let deleted = ctx.namespaced::<Secret>(NAMESPACE).delete(&key.name, &params).await;
                    api_error::ignore_not_found(deleted)?;
                    Ok(Requeue::No)
                }
                at => Ok(context::requeue_at(at, now)),
            }
        }
    });
    Ok(())
}
