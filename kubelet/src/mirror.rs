//! Mirror pods: what the API shows of static pods. Upstream: pkg/kubelet/pod/mirror_client.go

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;

use crate::kubelet::Kubelet;
use crate::objects::message;
use crate::pod;

/// Makes the mirror of a static pod, or replaces one of another definition. Does nothing for other pods.
///
/// # Errors
/// The API server does not answer; retried with the pod.
pub async fn ensure(kubelet: &Kubelet, pod: &Pod) -> Result<(), String> {
    let Some(api) = &kubelet.api else { return Ok(()) };
    if !pod::is_static(pod) {
        return Ok(());
    }
    let pods = Api::<Pod>::namespaced(api.clone(), pod::namespace(pod));
    let hash = pod::annotation(pod, pod::CONFIG_HASH).unwrap_or("");
    if let Some(mirror) = kubelet.pods.mirror_of(pod) {
        if pod::annotation(&mirror, pod::CONFIG_MIRROR) == Some(hash) && mirror.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        delete(&pods, &mirror).await?;
        kubelet.pods.remove_mirror(&mirror);
    }
    let Some(owner) = owner(kubelet, api).await else { return Ok(()) };
    match pods.create(&PostParams::default(), &mirror_of(pod, hash, owner)).await {
        Ok(made) => {
            kubelet.pods.put_mirror(std::sync::Arc::new(made));
            kubelet.status.poke(pod::uid(pod));
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // There already; the watch will tell. Another kind of pod of that name is left alone.
            if let Ok(Some(existing)) = pods.get_opt(pod::name(pod)).await
                && pod::is_mirror(&existing)
            {
                if pod::annotation(&existing, pod::CONFIG_MIRROR) == Some(hash) {
                    kubelet.pods.put_mirror(std::sync::Arc::new(existing));
                    kubelet.status.poke(pod::uid(pod));
                } else {
                    delete(&pods, &existing).await?;
                }
            }
            Ok(())
        }
        Err(error) => Err(message(&error)),
    }
}

fn mirror_of(pod: &Pod, hash: &str, owner: OwnerReference) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    mirror.metadata.annotations.get_or_insert_default().insert(pod::CONFIG_MIRROR.to_owned(), hash.to_owned());
    mirror.metadata.owner_references = Some(vec![owner]);
    mirror.status = None;
    mirror
}

/// The node, as owner; its uid is asked for once.
async fn owner(kubelet: &Kubelet, api: &kube::Client) -> Option<OwnerReference> {
    static UID: Mutex<Option<String>> = Mutex::new(None);
    let known = UID.lock().clone();
    let uid = match known {
        Some(uid) => uid,
        None => {
            let node = Api::<Node>::all(api.clone()).get_opt(&kubelet.config.node_name).await.ok()??;
            let uid = node.metadata.uid?;
            *UID.lock() = Some(uid.clone());
            uid
        }
    };
    let name = kubelet.config.node_name.clone();
    Some(OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name,
        uid,
        controller: Some(true),
        ..Default::default()
    })
}

async fn delete(pods: &Api<Pod>, mirror: &Pod) -> Result<(), String> {
    let preconditions = Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
    match pods.delete(pod::name(mirror), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(message(&error)),
    }
}

/// Deletes mirrors whose static pod is gone.
pub async fn remove_orphans(kubelet: &Kubelet) {
    let Some(api) = &kubelet.api else { return };
    if !kubelet.sources_ready() {
        return;
    }
    for mirror in kubelet.pods.orphan_mirrors() {
        let pods = Api::<Pod>::namespaced(api.clone(), pod::namespace(&mirror));
        match delete(&pods, &mirror).await {
            Ok(()) => kubelet.pods.remove_mirror(&mirror),
            Err(why) => tracing::debug!(pod = pod::log_name(&mirror), err = why, "Failed to delete mirror pod"),
        }
    }
}
