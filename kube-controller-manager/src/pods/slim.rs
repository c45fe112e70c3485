//! What the controllers keep of a pod. Pods are most of what a cluster has, and most of a pod is for its node: a pod of 5 KB in JSON
//! takes 15 KB as a typed tree. No controller writes a whole pod back (all patch), so what nobody here reads is dropped on arrival.

use std::mem::take;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Drops what no controller reads, and spare room.
pub fn slim(pod: &mut Pod) {
    slim_meta(&mut pod.metadata);
    if let Some(spec) = &mut pod.spec {
        *spec = slim_spec(take(spec));
    }
    if let Some(status) = &mut pod.status {
        *status = slim_status(take(status));
    }
}

fn slim_meta(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    meta.generate_name = None;
    meta.self_link = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
    fit(&mut meta.owner_references);
    fit(&mut meta.finalizers);
}

fn slim_spec(spec: PodSpec) -> PodSpec {
    let containers = |list: Vec<Container>| {
        let mut slim: Vec<_> = list.into_iter().filter_map(slim_container).collect();
        slim.shrink_to_fit();
        slim
    };
    let mut slim = PodSpec {
        active_deadline_seconds: spec.active_deadline_seconds,
        affinity: spec.affinity,
        containers: containers(spec.containers),
        host_network: spec.host_network,
        hostname: spec.hostname,
        init_containers: spec.init_containers.map(containers),
        node_name: spec.node_name,
        node_selector: spec.node_selector,
        overhead: spec.overhead,
        priority: spec.priority,
        priority_class_name: spec.priority_class_name,
        resource_claims: spec.resource_claims,
        resources: spec.resources,
        restart_policy: spec.restart_policy,
        scheduling_gates: spec.scheduling_gates,
        service_account_name: spec.service_account_name,
        subdomain: spec.subdomain,
        termination_grace_period_seconds: spec.termination_grace_period_seconds,
        tolerations: spec.tolerations,
        volumes: spec.volumes.map(|volumes| volumes.into_iter().filter_map(slim_volume).collect::<Vec<_>>()),
        ..PodSpec::default()
    };
    slim.volumes = slim.volumes.filter(|volumes| !volumes.is_empty());
    fit(&mut slim.volumes);
    fit(&mut slim.tolerations);
    slim
}

/// Ports are for services, resources for quotas, references to secrets for the cleaner of old tokens. A container that has none of
/// these counts for nobody.
fn slim_container(container: Container) -> Option<Container> {
    let mut env = container.env;
    if let Some(env) = &mut env {
        env.retain(|env| env.value_from.as_ref().is_some_and(|from| from.secret_key_ref.is_some()));
    }
    let mut env_from = container.env_from;
    if let Some(from) = &mut env_from {
        from.retain(|from| from.secret_ref.is_some());
    }
    let mut slim = Container {
        name: container.name,
        ports: container.ports,
        resources: container.resources.filter(|resources| resources.requests.is_some() || resources.limits.is_some()),
        restart_policy: container.restart_policy,
        env: env.filter(|env| !env.is_empty()),
        env_from: env_from.filter(|from| !from.is_empty()),
        ..Container::default()
    };
    fit(&mut slim.ports);
    fit(&mut slim.env);
    let matters = slim.ports.is_some()
        || slim.resources.is_some()
        || slim.restart_policy.is_some()
        || slim.env.is_some()
        || slim.env_from.is_some();
    matters.then_some(slim)
}

/// Volumes count where they are claims (protection, attaching, stateful sets) or secrets (old tokens).
fn slim_volume(volume: Volume) -> Option<Volume> {
    let projected = volume.projected.filter(|projected| projected.sources.iter().flatten().any(|source| source.secret.is_some()));
    let keep =
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || volume.secret.is_some() || projected.is_some();
    keep.then(|| Volume {
        name: volume.name,
        persistent_volume_claim: volume.persistent_volume_claim,
        ephemeral: volume.ephemeral,
        secret: volume.secret,
        projected,
        ..Volume::default()
    })
}

fn slim_status(status: PodStatus) -> PodStatus {
    let statuses =
        |list: Option<Vec<ContainerStatus>>| list.map(|list| list.into_iter().map(slim_container_status).collect::<Vec<_>>());
    let mut slim = PodStatus {
        conditions: status.conditions,
        container_statuses: statuses(status.container_statuses),
        host_ip: status.host_ip,
        init_container_statuses: statuses(status.init_container_statuses),
        message: status.message,
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        reason: status.reason,
        resource_claim_statuses: status.resource_claim_statuses,
        start_time: status.start_time,
        ..PodStatus::default()
    };
    fit(&mut slim.conditions);
    fit(&mut slim.pod_ips);
    slim
}

fn slim_container_status(status: ContainerStatus) -> ContainerStatus {
    ContainerStatus {
        name: status.name,
        ready: status.ready,
        restart_count: status.restart_count,
        started: status.started,
        state: status.state,
        ..ContainerStatus::default()
    }
}

/// Decoders leave room for four where there is one.
fn fit<T>(list: &mut Option<Vec<T>>) {
    if let Some(list) = list {
        list.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_controllers_read_stays_and_the_rest_goes() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a": "b"}, "managedFields": [{"manager": "m"}],
                "annotations": {LAST_APPLIED: "{}", "controller.kubernetes.io/pod-deletion-cost": "1"}},
            "spec": {"nodeName": "n", "schedulerName": "s", "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}], "command": ["x"],
                    "env": [{"name": "A", "value": "b"}], "resources": {"requests": {"cpu": "1"}},
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}]}, {"name": "d", "image": "i", "resources": {}}],
                "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
                    {"name": "v", "persistentVolumeClaim": {"claimName": "v"}}, {"name": "e", "emptyDir": {}}]},
            "status": {"phase": "Running", "qosClass": "Burstable", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "id", "ready": true, "restartCount": 2,
                    "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}]}}))
        .unwrap();
        slim(&mut pod);
        let left = json!({
            "metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"controller.kubernetes.io/pod-deletion-cost": "1"}},
            "spec": {"nodeName": "n", "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}], "resources": {"requests": {"cpu": "1"}}}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 2,
                    "state": {"running": {}}}]}});
        let mut expected: Pod = serde_json::from_value(left).unwrap();
        expected.metadata.managed_fields = None;
        assert_eq!(pod, expected);
    }
}
