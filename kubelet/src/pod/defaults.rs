//! Defaults for pods that do not come through an API server, which would have set them.
//!
//! Upstream: pkg/apis/core/v1/defaults.go

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Fills in what the API server would have.
pub fn apply(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else { return };
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_with(Default::default);
    let host_network = spec.host_network.unwrap_or(false);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        self::container(container, host_network);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        // Mode 0644 of files.
        const MODE: i32 = 0o644;
        if let Some(source) = &mut volume.config_map {
            source.default_mode.get_or_insert(MODE);
        }
        if let Some(source) = &mut volume.secret {
            source.default_mode.get_or_insert(MODE);
        }
        if let Some(source) = &mut volume.downward_api {
            source.default_mode.get_or_insert(MODE);
        }
        if let Some(source) = &mut volume.projected {
            source.default_mode.get_or_insert(MODE);
        }
        if let Some(source) = &mut volume.host_path {
            source.type_.get_or_insert_with(String::new);
        }
        let source = serde_json::to_value(&*volume).ok();
        if source.and_then(|value| value.as_object().map(|map| map.len())) == Some(1) {
            volume.empty_dir = Some(Default::default());
        }
    }
}

fn container(container: &mut Container, host_network: bool) {
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
    container.termination_message_policy.get_or_insert_with(|| "File".into());
    let image = container.image.clone().unwrap_or_default();
    container.image_pull_policy.get_or_insert_with(|| pull_policy(&image).into());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".into());
        if host_network {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    for slot in
        [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe].into_iter().flatten()
    {
        probe(slot);
    }
    // A limit without request requests the same.
    if let Some(resources) = &mut container.resources
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, amount) in limits {
            requests.entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
    for env in container.env.iter_mut().flatten() {
        if let Some(field) = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
            field.api_version.get_or_insert_with(|| "v1".into());
        }
    }
}

fn probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    if let Some(get) = &mut probe.http_get {
        get.path.get_or_insert_with(|| "/".into());
        get.scheme.get_or_insert_with(|| "HTTP".into());
        if matches!(&get.port, IntOrString::String(text) if text.is_empty()) {
            get.port = IntOrString::Int(0);
        }
    }
}

/// `Always` for the tag `latest`, stated or implied; else `IfNotPresent`.
pub fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies_follow_the_tag() {
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("r:5000/a", "Always"),
            ("a@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_bare_pod_is_completed() {
        let mut pod: Pod = serde_yaml::from_str(
            "spec:\n  volumes: [{name: v}, {name: h, hostPath: {path: /x}}]\n  containers:\n  - {name: a, image: b, readinessProbe: {httpGet: {port: 80}}}\n",
        )
        .unwrap();
        apply(&mut pod);
        let spec = pod.spec.unwrap();
        assert!(spec.volumes.as_ref().unwrap()[0].empty_dir.is_some());
        assert!(spec.volumes.as_ref().unwrap()[1].empty_dir.is_none());
        assert_eq!(spec.containers[0].readiness_probe.as_ref().unwrap().period_seconds, Some(10));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    }
}
