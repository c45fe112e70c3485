//! Security context of pods and containers in CRI's words. Pure.
//!
//! Upstream: pkg/kubelet/kuberuntime/security_context.go, pkg/securitycontext

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use crate::cri::v1::{self, NamespaceMode};
use crate::pod::{self, init_containers, spec};

/// Hidden below /proc and /sys. Upstream: pkg/securitycontext defaultMaskedPaths.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Not writable below /proc.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Decided for the whole kubelet.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `--seccomp-default`.
    pub seccomp_default: bool,
    /// Directory of `Localhost` seccomp profiles.
    pub seccomp_dir: String,
}

/// The user an image asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageUser {
    /// By number.
    pub uid: Option<i64>,
    /// By name.
    pub name: String,
}

fn pod_context(pod: &Pod) -> &PodSecurityContext {
    static EMPTY: std::sync::LazyLock<PodSecurityContext> = std::sync::LazyLock::new(PodSecurityContext::default);
    spec(pod).security_context.as_ref().unwrap_or(&EMPTY)
}

fn context(container: &Container) -> &SecurityContext {
    static EMPTY: std::sync::LazyLock<SecurityContext> = std::sync::LazyLock::new(SecurityContext::default);
    container.security_context.as_ref().unwrap_or(&EMPTY)
}

/// Whether a container asks for all rights.
pub fn is_privileged(container: &Container) -> bool {
    context(container).privileged.unwrap_or(false)
}

fn any_privileged(pod: &Pod) -> bool {
    init_containers(pod).iter().chain(&spec(pod).containers).any(is_privileged)
        || pod::container::ephemeral(pod).iter().any(is_privileged)
}

/// The namespaces of the pod; `target` is the container whose processes an ephemeral container wants to see.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> v1::NamespaceOption {
    let spec = spec(pod);
    let node = |flag: Option<bool>, otherwise| if flag.unwrap_or(false) { NamespaceMode::Node } else { otherwise } as i32;
    let pid = match (spec.host_pid, spec.share_process_namespace, target) {
        (Some(true), ..) => NamespaceMode::Node,
        (_, Some(true), _) => NamespaceMode::Pod,
        (_, _, Some(_)) => NamespaceMode::Target,
        _ => NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: node(spec.host_network, NamespaceMode::Pod),
        ipc: node(spec.host_ipc, NamespaceMode::Pod),
        pid: pid as i32,
        target_id: if pid == NamespaceMode::Target { target.unwrap_or_default().to_owned() } else { String::new() },
        userns_options: None,
    }
}

/// Puts the sandbox into a user namespace; containers take it from there.
pub fn set_user_namespace(config: &mut v1::PodSandboxConfig, namespace: v1::UserNamespace) {
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    if let Some(options) = context.and_then(|context| context.namespace_options.as_mut()) {
        options.userns_options = Some(namespace);
    }
}

/// The sandbox's user namespace, for its containers.
pub fn user_namespace(config: &v1::PodSandboxConfig) -> Option<v1::UserNamespace> {
    config.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()?.userns_options.clone()
}

/// Security context of the sandbox.
pub fn sandbox(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        privileged: any_privileged(pod),
        run_as_user: int(context.run_as_user),
        run_as_group: int(context.run_as_group),
        selinux_options: selinux(context.se_linux_options.as_ref()),
        supplemental_groups: groups(context),
        supplemental_groups_policy: groups_policy(context),
        // The sandbox runs no code of the user: always confined.
        seccomp: Some(profile(v1::security_profile::ProfileType::RuntimeDefault, "")),
        ..Default::default()
    }
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict as i32,
        _ => v1::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn int(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

fn selinux(options: Option<&SELinuxOptions>) -> Option<v1::SeLinuxOption> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    options.map(|options| v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    })
}

fn profile(kind: v1::security_profile::ProfileType, reference: &str) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: reference.to_owned() }
}

fn seccomp(wanted: Option<&SeccompProfile>, policy: &Policy) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    match wanted.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => profile(RuntimeDefault, ""),
        Some("Localhost") => {
            let name = wanted.and_then(|profile| profile.localhost_profile.as_deref()).unwrap_or_default();
            profile(Localhost, &format!("{}/{name}", policy.seccomp_dir))
        }
        Some(_) => profile(Unconfined, ""),
        None if policy.seccomp_default => profile(RuntimeDefault, ""),
        None => profile(Unconfined, ""),
    }
}

fn apparmor(wanted: Option<&AppArmorProfile>) -> Option<v1::SecurityProfile> {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    wanted.map(|wanted| match wanted.type_.as_str() {
        "RuntimeDefault" => profile(RuntimeDefault, ""),
        "Localhost" => profile(Localhost, wanted.localhost_profile.as_deref().unwrap_or_default()),
        _ => profile(Unconfined, ""),
    })
}

/// Security context of a container. `target` as in [`namespaces`].
pub fn container(
    pod: &Pod,
    container: &Container,
    user: &ImageUser,
    policy: &Policy,
    target: Option<&str>,
) -> v1::LinuxContainerSecurityContext {
    let (of_pod, own) = (pod_context(pod), context(container));
    let privileged = is_privileged(container);
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    let (uid, name) = match (run_as_user, user.uid, user.name.as_str()) {
        (Some(uid), ..) | (None, Some(uid), _) => (Some(uid), String::new()),
        (None, None, "") => (Some(0), String::new()),
        (None, None, name) => (None, name.to_owned()),
    };
    let capabilities = own.capabilities.as_ref().map(|wanted| v1::Capability {
        add_capabilities: wanted.add.clone().unwrap_or_default(),
        drop_capabilities: wanted.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| if unmasked { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() };
    v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: selinux(own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref())),
        run_as_user: int(uid),
        run_as_group: int(own.run_as_group.or(of_pod.run_as_group)),
        run_as_username: name,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(if privileged {
            profile(v1::security_profile::ProfileType::Unconfined, "")
        } else {
            seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), policy)
        }),
        apparmor: if privileged {
            Some(profile(v1::security_profile::ProfileType::Unconfined, ""))
        } else {
            apparmor(own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref()))
        },
        ..Default::default()
    }
}

/// Whether `runAsNonRoot` allows this container.
///
/// # Errors
/// It does not; the message is upstream's.
pub fn verify_non_root(pod: &Pod, container: &Container, user: &ImageUser) -> Result<(), String> {
    let (of_pod, own) = (pod_context(pod), context(container));
    if !own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        return Ok(());
    }
    let who = format!("(pod: {:?}, container: {})", pod::describe(pod), container.name);
    match (own.run_as_user.or(of_pod.run_as_user), user.uid, user.name.as_str()) {
        (Some(0), ..) => Err(format!("container's runAsUser breaks non-root policy {who}")),
        (Some(_), ..) => Ok(()),
        (None, Some(0), _) | (None, None, "") => Err(format!("container has runAsNonRoot and image will run as root {who}")),
        (None, Some(_), _) => Ok(()),
        (None, None, name) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {who}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(of_pod: Value, own: Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"securityContext": of_pod,
            "containers": [{"name": "c", "securityContext": own}]}}),
        )
        .unwrap()
    }

    fn make(of_pod: Value, own: Value, user: ImageUser) -> v1::LinuxContainerSecurityContext {
        let pod = pod(of_pod, own);
        container(&pod, &spec(&pod).containers[0], &user, &Policy { seccomp_default: false, seccomp_dir: "/s".into() }, None)
    }

    #[test]
    fn the_containers_own_context_wins() {
        let got = make(
            json!({"runAsUser": 1, "fsGroup": 5, "supplementalGroups": [6]}),
            json!({"runAsUser": 2, "readOnlyRootFilesystem": true}),
            ImageUser::default(),
        );
        assert_eq!(got.run_as_user.unwrap().value, 2);
        assert_eq!(got.supplemental_groups, [5, 6]);
        assert!(got.readonly_rootfs && !got.masked_paths.is_empty());
        let got = make(
            json!({}),
            json!({"privileged": true, "seccompProfile": {"type": "RuntimeDefault"}}),
            ImageUser { uid: None, name: "www".into() },
        );
        assert!(got.privileged && got.masked_paths.is_empty() && got.run_as_user.is_none());
        assert_eq!(got.run_as_username, "www");
        assert_eq!(got.seccomp.unwrap().profile_type, v1::security_profile::ProfileType::Unconfined as i32);
        let got = make(
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}),
            json!({"allowPrivilegeEscalation": false}),
            ImageUser::default(),
        );
        assert_eq!(got.seccomp.unwrap().localhost_ref, "/s/a.json");
        assert!(got.no_new_privs);
    }

    #[test]
    fn non_root_is_verified_by_number() {
        let user = |uid, name: &str| ImageUser { uid, name: name.into() };
        for (own, image, ok) in [
            (json!({"runAsNonRoot": true}), user(None, ""), false),
            (json!({"runAsNonRoot": true}), user(Some(1), ""), true),
            (json!({"runAsNonRoot": true}), user(None, "www"), false),
            (json!({"runAsNonRoot": true, "runAsUser": 7}), user(None, ""), true),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), user(Some(3), ""), false),
            (json!({}), user(Some(0), ""), true),
        ] {
            let pod = pod(json!({}), own.clone());
            assert_eq!(verify_non_root(&pod, &spec(&pod).containers[0], &image).is_ok(), ok, "{own} {image:?}");
        }
    }

    #[test]
    fn namespaces_follow_the_host_flags() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"hostNetwork": true, "hostPID": true, "containers": []}})).unwrap();
        let got = namespaces(&pod, None);
        assert_eq!((got.network, got.pid, got.ipc), (2, 2, 0));
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        assert_eq!(namespaces(&pod, Some("id")).target_id, "id");
    }
}
