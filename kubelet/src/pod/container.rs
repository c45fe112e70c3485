//! Containers of all three kinds under one view, and their hash.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

use super::{init_containers, spec};

/// An ephemeral container as a plain one.
pub fn from_ephemeral(ephemeral: &EphemeralContainer) -> Container {
    let e = ephemeral.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        lifecycle: e.lifecycle,
        liveness_probe: e.liveness_probe,
        name: e.name,
        ports: e.ports,
        readiness_probe: e.readiness_probe,
        resize_policy: e.resize_policy,
        resources: e.resources,
        restart_policy: e.restart_policy,
        restart_policy_rules: e.restart_policy_rules,
        security_context: e.security_context,
        startup_probe: e.startup_probe,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
    }
}

/// The ephemeral containers, as plain ones.
pub fn ephemeral(pod: &Pod) -> Vec<Container> {
    spec(pod).ephemeral_containers.iter().flatten().map(from_ephemeral).collect()
}

/// A container of any kind by name.
pub fn find(pod: &Pod, name: &str) -> Option<Container> {
    init_containers(pod)
        .iter()
        .chain(&spec(pod).containers)
        .find(|container| container.name == name)
        .cloned()
        .or_else(|| spec(pod).ephemeral_containers.iter().flatten().find(|container| container.name == name).map(from_ephemeral))
}

/// The hash whose change restarts a container: of its name and image alone, as every other change to a pod's
/// containers is either impossible or applied in place. Equal to upstream's, so that a kubelet swap restarts nothing.
///
/// Upstream: pkg/kubelet/container/helpers.go HashContainer: FNV-1a over Go's print of the JSON's bytes.
pub fn hash(container: &Container) -> u64 {
    let quote = |text: &str| {
        serde_json::to_string(text).unwrap_or_default().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    };
    let json = format!("{{\"image\":{},\"name\":{}}}", quote(container.image.as_deref().unwrap_or("")), quote(&container.name));
    let bytes: Vec<String> = json.bytes().map(|byte| byte.to_string()).collect();
    u64::from(fnv1a_32(format!("([]uint8)[{}]", bytes.join(" ")).as_bytes()))
}

/// The 32-bit FNV-1a hash.
pub fn fnv1a_32(bytes: &[u8]) -> u32 {
    const OFFSET: u32 = 2_166_136_261;
    const PRIME: u32 = 16_777_619;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_upstreams_and_sees_name_and_image_only() {
        let container =
            |image: &str| Container { name: "test_container".into(), image: Some(image.into()), ..Default::default() };
        let mut other = container("foo/image:v1");
        other.command = Some(vec!["y".into()]);
        assert_eq!(hash(&container("foo/image:v1")), 0x8e45_cbd0, "the value of upstream's own test");
        assert_eq!(hash(&container("foo/image:v1")), hash(&other));
        assert_ne!(hash(&container("x")), hash(&container("z")));
    }
}
