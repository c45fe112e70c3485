//! Deletes Jobs some time after they finished.
//!
//! Upstream: pkg/controller/ttlafterfinished

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};

use crate::api_error;
use crate::config::workers;
use crate::context::{self, Context, Requeue};
use crate::job::plan::is_finished;

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (jobs, queue) = (ctx.store::<Job>(), ctx.queue());
    jobs.feed(&queue);
    jobs.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, workers(ctx.config.options.concurrent_ttl_after_finished_syncs), move |key| {
        let (ctx, jobs) = (this.clone(), jobs.clone());
        async move {
            let now = ctx.now();
            let Some(at) = jobs.get(&key).and_then(|job| expiry(&job)) else { return Ok(Requeue::No) };
            if at > now {
                return Ok(context::requeue_at(Some(at), now));
            }
            // The TTL may just have been changed: ask before deleting.
            let api = ctx.namespaced::<Job>(&key.namespace);
            let Some(fresh) = api.get_opt(&key.name).await? else { return Ok(Requeue::No) };
            if expiry(&fresh).is_some_and(|at| at <= now) {
                let params = DeleteParams::foreground().preconditions(Preconditions { uid: fresh.uid(), resource_version: None });
                api_error::ignore_not_found(api.delete(&key.name, &params).await)?;
            }
            Ok(Requeue::No)
        }
    });
    Ok(())
}

/// When the Job is to go.
fn expiry(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if !is_finished(job) || job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    end.last_transition_time.as_ref()?.0.checked_add(SignedDuration::from_secs(seconds.into())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_finished_jobs_with_a_ttl_expire() {
        let job = |ttl: Option<i32>, type_: &str| -> Job {
            serde_json::from_value(json!({"spec": {"template": {}, "ttlSecondsAfterFinished": ttl},
                "status": {"conditions": [{"type": type_, "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}))
            .unwrap()
        };
        assert_eq!(expiry(&job(Some(60), "Complete")), Some("2024-01-01T00:01:00Z".parse().unwrap()));
        assert_eq!(expiry(&job(Some(60), "Suspended")), None);
        assert_eq!(expiry(&job(None, "Failed")), None);
    }
}
