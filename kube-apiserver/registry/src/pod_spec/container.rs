//! Containers of any sort.
//!
//! Upstream: validateContainers, validateInitContainers, validateContainerCommon

use api::field::{Errors, Path};
use serde_json::Value;

use super::{environment, probe, resources, security, volume};
use crate::check;
use crate::identifier;
use crate::tree::Tree;

/// What checks of containers need to know of the pod.
pub struct Pod<'a> {
    /// Its volumes that are fine.
    pub volumes: &'a [&'a Value],
    /// Names of its resource claims.
    pub claims: &'a [&'a str],
    /// Seconds of grace.
    pub grace: i64,
    /// Whether it shares the host's users.
    pub host_users: bool,
}

/// `containers`.
pub fn containers(spec: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let all = spec.items("containers");
    if all.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut names = Vec::new();
    for (index, container) in all.iter().enumerate() {
        let path = path.index(index);
        common(container, pod, &path, errors);
        let name = container.text("name");
        if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            names.push(name);
        }
        probe::all(container, pod.grace, &path, errors);
    }
    host_ports(all, path, errors);
}

/// `initContainers`.
pub fn init_containers(spec: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let mut names: Vec<&str> = spec.items("containers").iter().map(|container| container.text("name")).collect();
    for (index, container) in spec.items("initContainers").iter().enumerate() {
        let item = path.index(index);
        common(container, pod, &item, errors);
        let name = container.text("name");
        if names.contains(&name) {
            errors.duplicate(&item.child("name"), name);
        } else if !name.is_empty() {
            names.push(name);
        }
        host_ports(std::slice::from_ref(container), path, errors);
        if container.text("restartPolicy") == "Always" {
            probe::all(container, pod.grace, &item, errors);
        } else {
            for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.has(key) {
                    errors.forbidden(&item.child(key), "may not be set for init containers without restartPolicy=Always");
                }
            }
        }
    }
}

/// `ephemeralContainers`.
pub fn ephemeral_containers(spec: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let others: Vec<&str> =
        ["containers", "initContainers"].iter().flat_map(|key| spec.items(key)).map(|c| c.text("name")).collect();
    let mut names: Vec<&str> = Vec::new();
    for (index, container) in spec.items("ephemeralContainers").iter().enumerate() {
        let path = path.index(index);
        common(container, pod, &path, errors);
        let name = container.text("name");
        if names.contains(&name) || others.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            names.push(name);
        }
        let target = container.text("targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        for key in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy", "restartPolicy"] {
            let set = match container.at(key) {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                _ => true,
            };
            if set {
                errors.forbidden(&path.child(key), "cannot be set for an Ephemeral Container");
            }
        }
        if container.at("resources").as_object().is_some_and(|map| !map.is_empty()) {
            errors.forbidden(&path.child("resources"), "cannot be set for an Ephemeral Container");
        }
        for (index, mount) in container.items("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.text(field).is_empty() {
                    errors.forbidden(
                        &path.child("volumeMounts").index(index).child(field),
                        "cannot be set for an Ephemeral Container",
                    );
                }
            }
        }
    }
}

fn common(container: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let name = container.text("name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        check::label_name(name, &path.child("name"), errors);
    }
    if container.text("image").is_empty() {
        errors.required(&path.child("image"), "");
    }
    match container.text("terminationMessagePolicy") {
        "File" | "FallbackToLogsOnError" => {}
        "" => errors.required(&path.child("terminationMessagePolicy"), ""),
        other => errors.not_one_of(&path.child("terminationMessagePolicy"), other, &["File", "FallbackToLogsOnError"]),
    }
    ports(container, &path.child("ports"), errors);
    environment::variables(container, &path.child("env"), errors);
    environment::sources(container, &path.child("envFrom"), errors);
    mounts(container, pod, &path.child("volumeMounts"), errors);
    devices(container, pod, &path.child("volumeDevices"), errors);
    volume::pull_policy(container.text("imagePullPolicy"), &path.child("imagePullPolicy"), errors);
    resources::requirements(container.at("resources"), pod.claims, &path.child("resources"), errors);
    resize_policy(container, &path.child("resizePolicy"), errors);
    restart_policy(container, path, errors);
    security::container(container.at("securityContext"), pod.host_users, &path.child("securityContext"), errors);
}

fn restart_policy(container: &Value, path: &Path, errors: &mut Errors) {
    let policy = container.text("restartPolicy");
    if container.has("restartPolicy") && !matches!(policy, "Always" | "Never" | "OnFailure") {
        errors.not_supported(&path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    }
    if !container.items("restartPolicyRules").is_empty() && !container.has("restartPolicy") {
        errors.required(&path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
}

fn resize_policy(container: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for policy in container.items("resizePolicy") {
        let resource = policy.text("resourceName");
        if seen.contains(&resource) {
            errors.duplicate(path, resource);
        }
        seen.push(resource);
        match resource {
            "cpu" | "memory" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, other, &["cpu", "memory"]),
        }
        match policy.text("restartPolicy") {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, other, &["NotRequired", "RestartContainer"]),
        }
    }
}

fn ports(container: &Value, path: &Path, errors: &mut Errors) {
    let mut names = Vec::new();
    for (index, port) in container.items("ports").iter().enumerate() {
        let path = path.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            let messages = identifier::port_name(name);
            if !messages.is_empty() {
                check::each(messages, name, &path.child("name"), errors);
            } else if names.contains(&name) {
                errors.duplicate(&path.child("name"), name);
            } else {
                names.push(name);
            }
        }
        match port.int("containerPort").unwrap_or(0) {
            0 => errors.required(&path.child("containerPort"), ""),
            number => check::each(identifier::port_number(number), number, &path.child("containerPort"), errors),
        }
        match port.int("hostPort").unwrap_or(0) {
            0 => {}
            number => check::each(identifier::port_number(number), number, &path.child("hostPort"), errors),
        }
        protocol(port.text("protocol"), &path.child("protocol"), errors);
    }
}

/// TCP, UDP or SCTP.
pub fn protocol(protocol: &str, path: &Path, errors: &mut Errors) {
    match protocol {
        "TCP" | "UDP" | "SCTP" => {}
        "" => errors.required(path, ""),
        other => errors.not_supported(path, other, &["SCTP", "TCP", "UDP"]),
    }
}

fn host_ports(containers: &[Value], path: &Path, errors: &mut Errors) {
    let mut taken = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in container.items("ports").iter().enumerate() {
            let number = port.int("hostPort").unwrap_or(0);
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if taken.contains(&key) {
                errors.duplicate(&path.index(index).child("ports").index(port_index).child("hostPort"), key);
            } else {
                taken.push(key);
            }
        }
    }
}

fn mounts(container: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let mut points = Vec::new();
    let devices = container.items("volumeDevices");
    for (index, mount) in container.items("volumeMounts").iter().enumerate() {
        let item = path.index(index);
        let (name, point) = (mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            errors.required(&item.child("name"), "");
        }
        if !pod.volumes.iter().any(|volume| volume.text("name") == name) {
            errors.not_found(&item.child("name"), name);
        }
        if point.is_empty() {
            errors.required(&item.child("mountPath"), "");
        }
        if points.contains(&point) {
            errors.invalid(&item.child("mountPath"), point, "must be unique");
        }
        points.push(point);
        if devices.iter().any(|device| device.text("name") == name) {
            errors.invalid(&item.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device.text("devicePath") == point) {
            errors.invalid(&item.child("mountPath"), point, "must not already exist as a path in volumeDevices");
        }
        if !mount.text("subPath").is_empty() {
            check::descending(mount.text("subPath"), &path.child("subPath"), errors);
        }
        let expression = mount.text("subPathExpr");
        if !expression.is_empty() {
            if !mount.text("subPath").is_empty() {
                errors.invalid(&item.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive");
            }
            check::descending(expression, &path.child("subPathExpr"), errors);
        }
        if mount.has("mountPropagation") {
            let propagation = mount.text("mountPropagation");
            let path = path.child("mountPropagation");
            if !matches!(propagation, "None" | "HostToContainer" | "Bidirectional") {
                errors.not_supported(&path, propagation, &["Bidirectional", "HostToContainer", "None"]);
            } else if propagation == "Bidirectional" && !container.at("securityContext").truth("privileged") {
                errors.forbidden(&path, "Bidirectional mount propagation is available only to privileged containers");
            }
        }
        recursive_read_only(mount, &item.child("recursiveReadOnly"), errors);
    }
}

fn recursive_read_only(mount: &Value, path: &Path, errors: &mut Errors) {
    if !mount.has("recursiveReadOnly") {
        return;
    }
    match mount.text("recursiveReadOnly") {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.truth("readOnly") {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if !matches!(mount.text("mountPropagation"), "" | "None") {
                errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        other => errors.not_supported(path, other, &["Disabled", "IfPossible", "Enabled"]),
    }
}

fn devices(container: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let (mut names, mut points) = (Vec::new(), Vec::new());
    for (index, device) in container.items("volumeDevices").iter().enumerate() {
        let item = path.index(index);
        let (name, point) = (device.text("name"), device.text("devicePath"));
        if name.is_empty() {
            errors.required(&item.child("name"), "");
        }
        if names.contains(&name) {
            errors.invalid(&item.child("name"), name, "must be unique");
        }
        match pod.volumes.iter().find(|volume| volume.text("name") == name) {
            Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => {
                errors.invalid(
                    &item.child("name"),
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            Some(_) => {}
            None => errors.not_found(&item.child("name"), name),
        }
        if point.is_empty() {
            errors.required(&item.child("devicePath"), "");
        }
        if points.contains(&point) {
            errors.invalid(&item.child("devicePath"), point, "must be unique");
        }
        if !point.is_empty() && point.split('/').any(|part| part == "..") {
            errors.invalid(&item.child("devicePath"), point, "can not contain backsteps ('..')");
        }
        names.push(name);
        points.push(point);
    }
}
