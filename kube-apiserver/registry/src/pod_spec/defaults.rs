//! Defaults of pod specs, containers and volumes.
//!
//! Upstream: pkg/apis/core/v1/defaults.go

use serde_json::{Value, json};

use super::image;
use crate::quantity;
use crate::tree::Tree;

/// Defaults of a pod spec wherever it stands (pods and templates).
pub fn pod_spec(spec: &mut Value) {
    spec.fill_text("dnsPolicy", "ClusterFirst");
    spec.fill_text("restartPolicy", "Always");
    spec.fill("securityContext", json!({}));
    spec.fill("terminationGracePeriodSeconds", 30);
    spec.fill_text("schedulerName", "default-scheduler");
    if spec.text("serviceAccountName").is_empty() {
        let deprecated = spec.text("serviceAccount").to_owned();
        if !deprecated.is_empty() {
            spec.set("serviceAccountName", deprecated);
        }
    }
    match spec.text("serviceAccountName").to_owned() {
        name if name.is_empty() => spec.drop("serviceAccount"),
        name => spec.set("serviceAccount", name),
    }
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for item in spec.items_mut(key) {
            container(item);
        }
    }
    for item in spec.items_mut("volumes") {
        volume(item);
    }
    if let Some(overhead) = spec.child_if("overhead") {
        resource_list(overhead);
    }
    if let Some(item) = spec.child_if("resources") {
        resources(item);
    }
}

/// Defaults that only pods have, not their templates: requests from limits, service links, host ports.
pub fn pod_only(spec: &mut Value) {
    for key in ["containers", "initContainers"] {
        for item in spec.items_mut(key) {
            requests_from_limits(item);
        }
    }
    pod_requests(spec);
    spec.fill("enableServiceLinks", true);
    if spec.truth("hostNetwork") {
        for key in ["containers", "initContainers"] {
            for item in spec.items_mut(key) {
                for port in item.items_mut("ports") {
                    if let Some(number) = port.int("containerPort") {
                        port.fill_int("hostPort", number);
                    }
                }
            }
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.child_if("resources") else { return };
    let limits = resources.at("limits").as_object().cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let requests = resources.child("requests");
    for (name, amount) in limits {
        requests.fill(&name, amount);
    }
}

/// Pod-level requests: from the containers' sum where all state them, else from the pod's limits.
fn pod_requests(spec: &mut Value) {
    let limits = spec.at("resources").at("limits").as_object().cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let mut requests = spec.at("resources").at("requests").clone();
    for name in ["cpu", "memory"] {
        let sum: quantity::Nano = spec
            .items("containers")
            .iter()
            .filter_map(|container| quantity::parse(container.path("resources.requests").at(name)))
            .fold(0, quantity::Nano::saturating_add);
        if sum > 0 && !requests.has(name) && limits.contains_key(name) {
            let stated: Vec<&Value> =
                spec.items("containers").iter().map(|c| c.path("resources.requests").at(name)).filter(|v| !v.is_null()).collect();
            if let [only] = stated.as_slice() {
                requests.set(name, (*only).clone());
            } else {
                requests.set(name, quantity::format(sum, name));
            }
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.fill(&name, amount);
        }
    }
    spec.child("resources").set("requests", requests);
}

/// Defaults of a container of any sort.
pub fn container(container: &mut Value) {
    let policy = image::default_pull_policy(container.text("image"));
    container.fill_text("imagePullPolicy", policy);
    container.fill_text("terminationMessagePath", "/dev/termination-log");
    container.fill_text("terminationMessagePolicy", "File");
    container.fill("resources", json!({}));
    for port in container.items_mut("ports") {
        port.fill_text("protocol", "TCP");
    }
    for variable in container.items_mut("env") {
        if let Some(source) = variable.child_if("valueFrom") {
            field_source(source);
            if let Some(file) = source.child_if("fileKeyRef") {
                file.fill("optional", false);
            }
        }
    }
    if let Some(item) = container.child_if("resources") {
        resources(item);
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(item) = container.child_if(key) {
            probe(item);
        }
    }
    for key in ["postStart", "preStop"] {
        if let Some(handler) = container.child_if("lifecycle").and_then(|lifecycle| lifecycle.child_if(key)) {
            http_get(handler);
        }
    }
}

fn probe(probe: &mut Value) {
    probe.fill_int("timeoutSeconds", 1);
    probe.fill_int("periodSeconds", 10);
    probe.fill_int("successThreshold", 1);
    probe.fill_int("failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = probe.child_if("grpc") {
        grpc.fill("service", "");
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.child_if("httpGet") {
        get.fill_text("path", "/");
        get.fill_text("scheme", "HTTP");
    }
}

fn field_source(source: &mut Value) {
    if let Some(field) = source.child_if("fieldRef") {
        field.fill_text("apiVersion", "v1");
    }
    if let Some(field) = source.child_if("resourceFieldRef") {
        field.fill("divisor", "0");
    }
}

fn resources(resources: &mut Value) {
    for key in ["limits", "requests"] {
        if let Some(list) = resources.child_if(key) {
            resource_list(list);
        }
    }
}

/// Amounts finer than a thousandth are rounded up.
pub fn resource_list(list: &mut Value) {
    let Some(map) = list.as_object_mut() else { return };
    for amount in map.values_mut() {
        if let Some(rounded) = quantity::round_up_to_milli(amount) {
            *amount = rounded;
        }
    }
}

fn volume(volume: &mut Value) {
    let sources =
        volume.as_object().map_or(0, |map| map.iter().filter(|(key, value)| *key != "name" && !value.is_null()).count());
    if sources == 0 {
        volume.set("emptyDir", json!({}));
    }
    for key in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.child_if(key) {
            source.fill("defaultMode", 420);
        }
    }
    if let Some(source) = volume.child_if("downwardAPI") {
        for item in source.items_mut("items") {
            field_source(item);
        }
    }
    if let Some(source) = volume.child_if("projected") {
        for part in source.items_mut("sources") {
            if let Some(token) = part.child_if("serviceAccountToken") {
                token.fill("expirationSeconds", 3600);
            }
            if let Some(downward) = part.child_if("downwardAPI") {
                for item in downward.items_mut("items") {
                    field_source(item);
                }
            }
            if let Some(certificate) = part.child_if("podCertificate") {
                certificate.fill("maxExpirationSeconds", 86400);
            }
        }
    }
    if let Some(template) = volume.child_if("ephemeral").and_then(|source| source.child_if("volumeClaimTemplate")) {
        claim_spec(template.child("spec"));
    }
    if let Some(source) = volume.child_if("image") {
        let policy = image::default_pull_policy(source.text("reference"));
        source.fill_text("pullPolicy", policy);
    }
    storage_source(volume);
}

/// Defaults of volume sources that pods and PersistentVolumes share.
pub fn storage_source(volume: &mut Value) {
    if let Some(source) = volume.child_if("hostPath") {
        source.fill("type", "");
    }
    if let Some(source) = volume.child_if("iscsi") {
        source.fill_text("iscsiInterface", "default");
    }
    if let Some(source) = volume.child_if("rbd") {
        source.fill_text("pool", "rbd");
        source.fill_text("user", "admin");
        source.fill_text("keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = volume.child_if("azureDisk") {
        source.fill("cachingMode", "ReadWrite");
        source.fill("kind", "Shared");
        source.fill("fsType", "ext4");
        source.fill("readOnly", false);
    }
    if let Some(source) = volume.child_if("scaleIO") {
        source.fill_text("storageMode", "ThinProvisioned");
        source.fill_text("fsType", "xfs");
    }
}

/// Defaults of a PersistentVolumeClaim's spec.
pub fn claim_spec(spec: &mut Value) {
    spec.fill("volumeMode", "Filesystem");
    if let Some(item) = spec.child_if("resources") {
        resources(item);
    }
    spec.fill("resources", json!({}));
}

/// Defaults of a pod template: its spec.
pub fn template(holder: &mut Value) {
    let template = holder.child("template");
    template.fill("metadata", json!({}));
    pod_spec(template.child("spec"));
}
