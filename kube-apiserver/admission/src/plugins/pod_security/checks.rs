//! The checks of the baseline and restricted levels, in upstream's order and words.
//!
//! Upstream: k8s.io/pod-security-admission/policy

use serde_json::Value;

use super::Level;
use crate::pod::{containers, items, text};

/// Why a pod does not meet a check: the reason, and what in the pod is the matter.
type Finding = (&'static str, String);
type Check = fn(&Value, &Value, u32) -> Option<Finding>;

/// A check: its name, the first minor version that has it, the function, and the check that it stands for.
type Row = (&'static str, u32, Check, &'static str);

const BASELINE: &[Row] = &[
    ("appArmorProfile", 0, app_armor, ""),
    ("capabilities_baseline", 0, capabilities_baseline, ""),
    ("hostNamespaces", 0, host_namespaces, ""),
    ("hostPathVolumes", 0, host_path_volumes, ""),
    ("hostPorts", 0, host_ports, ""),
    ("hostProbesAndHostLifecycle", 34, host_probes, ""),
    ("privileged", 0, privileged, ""),
    ("procMount", 0, proc_mount, ""),
    ("seLinuxOptions", 0, se_linux, ""),
    ("seccompProfile_baseline", 0, seccomp_baseline, ""),
    ("sysctls", 0, sysctls, ""),
    ("windowsHostProcess", 0, windows_host_process, ""),
];
const RESTRICTED: &[Row] = &[
    ("allowPrivilegeEscalation", 8, allow_privilege_escalation, ""),
    ("capabilities_restricted", 22, capabilities_restricted, "capabilities_baseline"),
    ("procMount_restricted", 35, |metadata, spec, _| proc_mount(metadata, spec, 0), "procMount"),
    ("restrictedVolumes", 0, restricted_volumes, "hostPathVolumes"),
    ("runAsNonRoot", 0, run_as_non_root, ""),
    ("runAsUser", 23, run_as_user, ""),
    ("seccompProfile_restricted", 19, seccomp_restricted, "seccompProfile_baseline"),
];

/// Rules about Windows pods are what the kubelet can enforce since this version.
const WINDOWS: u32 = 25;
/// Pods in a user namespace of their own may be root in it since this version.
const USER_NAMESPACES: u32 = 35;

fn findings(level: Level, minor: u32, metadata: &Value, spec: &Value) -> Vec<Finding> {
    let restricted: &[Row] = if level == Level::Restricted { RESTRICTED } else { &[] };
    let baseline: &[Row] = if level == Level::Privileged { &[] } else { BASELINE };
    let active = |row: &&Row| row.1 <= minor;
    let replaced = |id: &str| restricted.iter().filter(active).any(|row| row.3 == id);
    baseline
        .iter()
        .filter(|row| !replaced(row.0))
        .chain(restricted)
        .filter(active)
        .filter_map(|(_, _, check, _)| check(metadata, spec, minor))
        .collect()
}

pub(super) fn run(level: Level, minor: u32, metadata: &Value, spec: &Value) -> Vec<String> {
    findings(level, minor, metadata, spec)
        .into_iter()
        .map(|(reason, detail)| if detail.is_empty() { reason.to_owned() } else { format!("{reason} ({detail})") })
        .collect()
}

pub(super) fn reasons(level: Level, minor: u32, metadata: &Value, spec: &Value) -> Vec<&'static str> {
    findings(level, minor, metadata, spec).into_iter().map(|(reason, _)| reason).collect()
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    format!("{} {}", if names.len() == 1 { "container" } else { "containers" }, quoted(names))
}

/// The names of the containers for which `bad` holds.
fn which(spec: &Value, bad: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(spec).filter(|container| bad(container)).map(|container| text(container, "name")).collect()
}

fn is_windows(spec: &Value) -> bool {
    text(&spec["os"], "name") == "windows"
}

fn privileged(_metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    let bad = which(spec, |container| container["securityContext"]["privileged"] == true);
    (!bad.is_empty()).then(|| ("privileged", format!("{} must not set securityContext.privileged=true", named(&bad))))
}

fn host_namespaces(_metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!set.is_empty()).then(|| ("host namespaces", set.join(", ")))
}

fn host_path_volumes(_metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    let bad: Vec<&str> =
        items(spec, "volumes").iter().filter(|volume| volume["hostPath"].is_object()).map(|v| text(v, "name")).collect();
    let word = if bad.len() == 1 { "volume" } else { "volumes" };
    (!bad.is_empty()).then(|| ("hostPath volumes", format!("{word} {}", quoted(&bad))))
}

fn host_ports(_metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    let port = |port: &Value| port["hostPort"].as_i64().filter(|port| *port != 0);
    let bad = which(spec, |container| items(container, "ports").iter().any(|p| port(p).is_some()));
    let mut ports: Vec<i64> = containers(spec).flat_map(|container| items(container, "ports")).filter_map(port).collect();
    ports.sort_unstable();
    ports.dedup();
    let list = ports.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    (!bad.is_empty()).then(|| {
        let uses = if bad.len() == 1 { "uses" } else { "use" };
        let word = if ports.len() == 1 { "hostPort" } else { "hostPorts" };
        ("hostPort", format!("{} {uses} {word} {list}", named(&bad)))
    })
}

const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn added(spec: &Value, allowed: &[&str]) -> Option<String> {
    let extra = |container: &Value| -> Vec<String> {
        items(&container["securityContext"]["capabilities"], "add")
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| !allowed.contains(name))
            .map(str::to_owned)
            .collect()
    };
    let bad = which(spec, |container| !extra(container).is_empty());
    if bad.is_empty() {
        return None;
    }
    let mut names: Vec<String> = containers(spec).flat_map(extra).collect();
    names.sort();
    names.dedup();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Some(format!("{} must not include {} in securityContext.capabilities.add", named(&bad), quoted(&names)))
}

fn capabilities_baseline(_metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    added(spec, DEFAULT_CAPABILITIES).map(|detail| ("non-default capabilities", detail))
}

fn capabilities_restricted(_metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    if minor >= WINDOWS && is_windows(spec) {
        return None;
    }
    let keeps = which(spec, |container| {
        !items(&container["securityContext"]["capabilities"], "drop").iter().any(|capability| capability == "ALL")
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    }
    details.extend(added(spec, &["NET_BIND_SERVICE"]));
    (!details.is_empty()).then(|| ("unrestricted capabilities", details.join("; ")))
}

fn allow_privilege_escalation(_metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    if minor >= WINDOWS && is_windows(spec) {
        return None;
    }
    let bad = which(spec, |container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    (!bad.is_empty()).then(|| {
        ("allowPrivilegeEscalation != false", format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad)))
    })
}

fn run_as_non_root(_metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    if minor >= USER_NAMESPACES && spec["hostUsers"] == false {
        return None;
    }
    let pod = &spec["securityContext"]["runAsNonRoot"];
    let mut details = Vec::new();
    if *pod == false {
        details.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    let explicit = which(spec, |container| container["securityContext"]["runAsNonRoot"] == false);
    if !explicit.is_empty() {
        details.push(format!("{} must not set securityContext.runAsNonRoot=false", named(&explicit)));
    }
    if !details.is_empty() {
        return Some(("runAsNonRoot != true", details.join(", ")));
    }
    let silent = which(spec, |container| container["securityContext"]["runAsNonRoot"].is_null());
    (*pod != true && !silent.is_empty())
        .then(|| ("runAsNonRoot != true", format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent))))
}

fn run_as_user(_metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    if minor >= USER_NAMESPACES && spec["hostUsers"] == false {
        return None;
    }
    let mut details = Vec::new();
    if spec["securityContext"]["runAsUser"] == 0 {
        details.push("pod must not set runAsUser=0".to_owned());
    }
    let bad = which(spec, |container| container["securityContext"]["runAsUser"] == 0);
    if !bad.is_empty() {
        details.push(format!("{} must not set runAsUser=0", named(&bad)));
    }
    (!details.is_empty()).then(|| ("runAsUser=0", details.join(" and ")))
}

fn profile(holder: &Value) -> &str {
    text(&holder["securityContext"]["seccompProfile"], "type")
}

fn is_confined(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

fn seccomp_bad(spec: &Value) -> Vec<String> {
    let mut details = Vec::new();
    let pod = profile(spec);
    if !pod.is_empty() && !is_confined(pod) {
        details.push(format!("pod must not set securityContext.seccompProfile.type to {pod:?}"));
    }
    let bad = which(spec, |container| !profile(container).is_empty() && !is_confined(profile(container)));
    if !bad.is_empty() {
        let mut kinds: Vec<&str> = containers(spec).map(profile).filter(|kind| !kind.is_empty() && !is_confined(kind)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        details.push(format!("{} must not set securityContext.seccompProfile.type to {}", named(&bad), quoted(&kinds)));
    }
    details
}

fn seccomp_baseline(metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    if minor < SECCOMP_FIELDS {
        return seccomp_annotations(metadata, spec);
    }
    let details = seccomp_bad(spec);
    (!details.is_empty()).then(|| ("seccompProfile", details.join(" and ")))
}

/// Profiles are fields since this version, and were annotations before.
const SECCOMP_FIELDS: u32 = 19;

fn seccomp_annotations(metadata: &Value, spec: &Value) -> Option<Finding> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let fine = |profile: &str| matches!(profile, "" | "runtime/default" | "docker/default") || profile.starts_with("localhost/");
    let annotations = &metadata["annotations"];
    let keys = std::iter::once(POD.to_owned()).chain(containers(spec).map(|c| format!("{CONTAINER}{}", text(c, "name"))));
    let bad: std::collections::BTreeSet<String> =
        keys.filter(|key| !fine(text(annotations, key))).map(|key| format!("{key}={:?}", text(annotations, &key))).collect();
    let word = if bad.len() == 1 { "forbidden annotation" } else { "forbidden annotations" };
    let list = bad.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    (!bad.is_empty()).then(|| ("seccompProfile", format!("{word} {list}")))
}

fn seccomp_restricted(_metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    if minor >= WINDOWS && is_windows(spec) {
        return None;
    }
    let details = seccomp_bad(spec);
    if !details.is_empty() {
        return Some(("seccompProfile", details.join(" and ")));
    }
    let silent = which(spec, |container| profile(container).is_empty());
    (profile(spec).is_empty() && !silent.is_empty()).then(|| {
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            named(&silent)
        );
        ("seccompProfile", detail)
    })
}

const ALLOWED_VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

fn restricted_volumes(_metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    let kind = |volume: &Value| -> Option<String> {
        volume.as_object()?.iter().find(|(key, value)| *key != "name" && !value.is_null()).map(|(key, _)| key.clone())
    };
    let bad: Vec<(&str, String)> = items(spec, "volumes")
        .iter()
        .filter_map(|volume| Some((text(volume, "name"), kind(volume)?)))
        .filter(|(_, kind)| !ALLOWED_VOLUMES.contains(&kind.as_str()))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let mut kinds: Vec<&str> = bad.iter().map(|(_, kind)| kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let (volume, uses) = if names.len() == 1 { ("volume", "uses") } else { ("volumes", "use") };
    let word = if kinds.len() == 1 { "type" } else { "types" };
    Some(("restricted volume types", format!("{volume} {} {uses} restricted volume {word} {}", quoted(&names), quoted(&kinds))))
}

fn proc_mount(_metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    let mount = |container: &Value| text(&container["securityContext"], "procMount").to_owned();
    let bad = which(spec, |container| !matches!(mount(container).as_str(), "" | "Default"));
    if bad.is_empty() || minor >= USER_NAMESPACES && spec["hostUsers"] == false {
        return None;
    }
    let mut kinds: Vec<String> = containers(spec).map(mount).filter(|kind| !matches!(kind.as_str(), "" | "Default")).collect();
    kinds.sort();
    kinds.dedup();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    Some(("procMount", format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(&kinds))))
}

/// Sysctls that stay within the pod, and the first minor version that knows them to.
const SAFE_SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(_metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    let safe = |name: &str| SAFE_SYSCTLS.iter().any(|(known, since)| *known == name && *since <= minor);
    let bad: Vec<&str> = items(&spec["securityContext"], "sysctls")
        .iter()
        .map(|sysctl| text(sysctl, "name"))
        .filter(|name| !safe(&name.replace('/', ".")))
        .collect();
    (!bad.is_empty()).then(|| ("forbidden sysctls", bad.join(", ")))
}

/// Probes and hooks that the kubelet would send elsewhere than to the pod.
fn host_probes(_metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    let hosts = |container: &Value| -> Vec<String> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
        let handlers = probes.into_iter().chain(hooks);
        handlers
            .flat_map(|handler| [text(&handler["httpGet"], "host"), text(&handler["tcpSocket"], "host")])
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut bad = which(spec, |container| !hosts(container).is_empty());
    if bad.is_empty() {
        return None;
    }
    bad.sort_unstable();
    bad.dedup();
    let hosts: std::collections::BTreeSet<String> = containers(spec).flat_map(hosts).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let uses = if bad.len() == 1 { "uses" } else { "use" };
    let word = if hosts.len() == 1 { "probe or lifecycle host" } else { "probe or lifecycle hosts" };
    Some(("probe or lifecycle host", format!("{} {uses} {word} {}", named(&bad), quoted(&hosts))))
}

fn se_linux(_metadata: &Value, spec: &Value, minor: u32) -> Option<Finding> {
    let forbidden = |holder: &Value| -> Vec<String> {
        let options = &holder["securityContext"]["seLinuxOptions"];
        let mut out = Vec::new();
        let kind = text(options, "type");
        let engine = kind == "container_engine_t" && minor >= 31;
        if !engine && !matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t") {
            out.push(format!("type {kind:?}"));
        }
        if !text(options, "user").is_empty() {
            out.push("user may not be set".to_owned());
        }
        if !text(options, "role").is_empty() {
            out.push("role may not be set".to_owned());
        }
        out
    };
    let mut setters = Vec::new();
    let mut what = forbidden(spec);
    if !what.is_empty() {
        setters.push("pod".to_owned());
    }
    let bad = which(spec, |container| !forbidden(container).is_empty());
    if !bad.is_empty() {
        setters.push(named(&bad));
        what.extend(containers(spec).flat_map(forbidden));
    }
    what.sort();
    what.dedup();
    (!setters.is_empty()).then(|| {
        ("seLinuxOptions", format!("{} set forbidden securityContext.seLinuxOptions: {}", setters.join(" and "), what.join("; ")))
    })
}

fn app_armor(metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    let kind = |holder: &Value| text(&holder["securityContext"]["appArmorProfile"], "type").to_owned();
    let fine = |kind: &str| matches!(kind, "" | "RuntimeDefault" | "Localhost");
    let mut details = Vec::new();
    if !fine(&kind(spec)) {
        details.push(format!("pod must not set AppArmor profile type to {:?}", kind(spec)));
    }
    let bad = which(spec, |container| !fine(&kind(container)));
    if !bad.is_empty() {
        let mut kinds: Vec<String> = containers(spec).map(kind).filter(|kind| !fine(kind)).collect();
        kinds.sort();
        kinds.dedup();
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        details.push(format!("{} must not set AppArmor profile type to {}", named(&bad), quoted(&kinds)));
    }
    let mut annotations: Vec<String> = metadata["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| {
            key.starts_with("container.apparmor.security.beta.kubernetes.io/")
                && value
                    .as_str()
                    .is_some_and(|value| !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key:?}={value}"))
        .collect();
    annotations.sort();
    if !annotations.is_empty() {
        let word = if annotations.len() == 1 { "annotation" } else { "annotations" };
        details.push(format!("{word} {}", annotations.join(", ")));
    }
    let reason = if details.len() > 1 { "forbidden AppArmor profiles" } else { "forbidden AppArmor profile" };
    (!details.is_empty()).then(|| (reason, details.join(" and ")))
}

fn windows_host_process(_metadata: &Value, spec: &Value, _minor: u32) -> Option<Finding> {
    let set = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let bad = which(spec, set);
    let mut details = Vec::new();
    if set(spec) {
        details.push("pod".to_owned());
    }
    if !bad.is_empty() {
        details.push(named(&bad));
    }
    (!details.is_empty()).then(|| {
        ("hostProcess", format!("{} must not set securityContext.windowsOptions.hostProcess=true", details.join(" and ")))
    })
}
