//! Security contexts of pods and containers.
//!
//! Upstream: ValidateSecurityContext, validatePodSpecSecurityContext

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use crate::check;
use crate::tree::Tree;

const SYSCTL: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// A container's security context.
pub fn container(context: &Value, host_users: bool, path: &Path, errors: &mut Errors) {
    if context.is_null() {
        return;
    }
    check::id(context.at("runAsUser"), &path.child("runAsUser"), errors);
    check::id(context.at("runAsGroup"), &path.child("runAsGroup"), errors);
    let mount = context.text("procMount");
    if context.has("procMount") {
        if !matches!(mount, "Default" | "Unmasked") {
            errors.not_supported(&path.child("procMount"), mount, &["Default", "Unmasked"]);
        } else if mount == "Unmasked" && host_users {
            errors.invalid(&path.child("procMount"), mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(context.at("seccompProfile"), &path.child("seccompProfile"), errors);
    if context.at("allowPrivilegeEscalation") == false {
        if context.truth("privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.add_shown(ErrorType::Invalid, path, crate::internal::compact("SecurityContext", context), why);
        }
        if context.at("capabilities").items("add").iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.add_shown(ErrorType::Invalid, path, crate::internal::compact("SecurityContext", context), why);
        }
    }
    app_armor(context.at("appArmorProfile"), &path.child("appArmorProfile"), errors);
}

fn seccomp(profile: &Value, path: &Path, errors: &mut Errors) {
    if profile.is_null() {
        return;
    }
    match profile.text("type") {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
        other => errors.not_one_of(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    let local = path.child("localhostProfile");
    if profile.text("type") == "Localhost" {
        if profile.has("localhostProfile") {
            check::descending(profile.text("localhostProfile"), &local, errors);
        } else {
            errors.required(&local, "must be set when seccomp type is Localhost");
        }
    } else if profile.has("localhostProfile") {
        errors.invalid(&local, profile.clone(), "can only be set when seccomp type is Localhost");
    }
}

fn app_armor(profile: &Value, path: &Path, errors: &mut Errors) {
    if profile.is_null() {
        return;
    }
    let local = path.child("localhostProfile");
    let name = profile.text("localhostProfile");
    match profile.text("type") {
        "Localhost" => {
            if !profile.has("localhostProfile") {
                errors.required(&local, "must be set when AppArmor type is Localhost");
            } else if name.trim() != name {
                errors.invalid(&local, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&local, "must be set when AppArmor type is Localhost");
            }
            if name.len() > 4095 {
                errors.too_long(&local, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if profile.has("localhostProfile") {
                errors.invalid(&local, name, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        other => errors.not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// A pod's security context.
pub fn pod(spec: &Value, path: &Path, errors: &mut Errors) {
    let context = spec.at("securityContext");
    if context.is_null() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        check::id(context.at(field), &path.child(field), errors);
    }
    for (index, group) in context.items("supplementalGroups").iter().enumerate() {
        check::id(group, &path.child("supplementalGroups").index(index), errors);
    }
    if spec.truth("shareProcessNamespace") && spec.truth("hostPID") {
        errors.invalid(&path.child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    let mut seen = Vec::new();
    for (index, sysctl) in context.items("sysctls").iter().enumerate() {
        let path = path.child("sysctls").index(index);
        let name = sysctl.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !is_sysctl(name) {
            errors.invalid(&path.child("name"), name, format!("must have at most 253 characters and match regex {SYSCTL}"));
        } else if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        let dotted = name.replace('/', ".");
        if spec.truth("hostNetwork") && dotted.starts_with("net.") {
            errors.invalid(&path.child("name"), name, "may not be specified when 'hostNetwork' is set to true");
        }
        if spec.truth("hostIPC")
            && (dotted.starts_with("kernel.shm")
                || dotted.starts_with("kernel.msg")
                || dotted == "kernel.sem"
                || dotted.starts_with("fs.mqueue."))
        {
            errors.invalid(&path.child("name"), name, "may not be specified when 'hostIPC' is set to true");
        }
        seen.push(name);
    }
    for (field, allowed) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        let value = context.text(field);
        if context.has(field) && !allowed.contains(&value) {
            errors.not_supported(&path.child(field), value, &allowed);
        }
    }
    seccomp(context.at("seccompProfile"), &path.child("seccompProfile"), errors);
    app_armor(context.at("appArmorProfile"), &path.child("appArmorProfile"), errors);
}

fn is_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = part.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if plain(first) && plain(last))
            && bytes.iter().all(|&byte| plain(byte) || byte == b'-' || byte == b'_')
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}
