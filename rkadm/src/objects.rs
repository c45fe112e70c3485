//! The objects that `init` creates, as documents. Pure; what creates them is [`crate::apply`].
//! Upstream: cmd/kubeadm/app/phases/{uploadconfig,kubelet,bootstraptoken}.

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::config::types::{BootstrapToken, ClusterConfiguration};
use crate::config::{render, yaml};

pub const BOOTSTRAPPERS: &str = "system:bootstrappers:kubeadm:default-node-token";
pub const ADMINS: &str = "kubeadm:cluster-admins";
const RBAC: &str = "rbac.authorization.k8s.io";

/// The binding that makes admin.conf's group administrators; super-admin.conf creates it.
pub fn cluster_admins() -> Value {
    cluster_role_binding(ADMINS, "cluster-admin", &[("Group", ADMINS)])
}

/// `upload-config kubeadm`.
pub fn kubeadm_config(cluster: &ClusterConfiguration) -> anyhow::Result<Vec<Value>> {
    let data = render("ClusterConfiguration", cluster)?;
    Ok(vec![
        config_map("kubeadm-config", "kube-system", json!({"ClusterConfiguration": data})),
        reader("kubeadm:nodes-kubeadm-config", "kube-system", "kubeadm-config"),
        role_binding("kubeadm:nodes-kubeadm-config", "kube-system", &[("Group", BOOTSTRAPPERS), ("Group", "system:nodes")]),
    ])
}

/// `upload-config kubelet`.
pub fn kubelet_config(config: &Value) -> anyhow::Result<Vec<Value>> {
    let text = yaml(config)?;
    let mut map = config_map("kubelet-config", "kube-system", json!({"kubelet": text}));
    map["metadata"]["annotations"] =
        json!({"kubeadm.kubernetes.io/component-config.hash": format!("sha256:{}", hex::encode(sha2::Sha256::digest(&text)))});
    Ok(vec![
        map,
        reader("kubeadm:kubelet-config", "kube-system", "kubelet-config"),
        role_binding("kubeadm:kubelet-config", "kube-system", &[("Group", "system:nodes"), ("Group", BOOTSTRAPPERS)]),
    ])
}

/// The rules that let tokens bootstrap nodes, and `cluster-info` for discovery.
pub fn bootstrap_rules(cluster_info_kubeconfig: &str) -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRole",
        "metadata": {"name": "kubeadm:get-nodes"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
    })];
    objects.push(cluster_role_binding("kubeadm:get-nodes", "kubeadm:get-nodes", &[("Group", BOOTSTRAPPERS)]));
    objects.push(cluster_role_binding("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", &[("Group", BOOTSTRAPPERS)]));
    objects.push(cluster_role_binding(
        "kubeadm:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[("Group", BOOTSTRAPPERS)],
    ));
    objects.push(cluster_role_binding(
        "kubeadm:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[("Group", "system:nodes")],
    ));
    objects.push(cluster_role_binding(
        "kubeadm:apiserver-kubelet-client",
        "system:kubelet-api-admin",
        &[("User", "kube-apiserver-kubelet-client")],
    ));
    objects.push(config_map("cluster-info", "kube-public", json!({"kubeconfig": cluster_info_kubeconfig})));
    objects.push(reader("kubeadm:bootstrap-signer-clusterinfo", "kube-public", "cluster-info"));
    objects.push(role_binding("kubeadm:bootstrap-signer-clusterinfo", "kube-public", &[("User", "system:anonymous")]));
    objects
}

/// Ours: nodes learn which API servers there are, for their balancer.
pub fn balancer_rules() -> Vec<Value> {
    let mut role = reader("rk:api-servers", "default", "kubernetes");
    role["rules"][0]["apiGroups"] = json!(["discovery.k8s.io"]);
    role["rules"][0]["resources"] = json!(["endpointslices"]);
    vec![role, role_binding("rk:api-servers", "default", &[("Group", "system:nodes"), ("Group", BOOTSTRAPPERS)])]
}

/// The kubeconfig of `cluster-info`: a server and its authority, no user.
pub fn cluster_info_kubeconfig(server: &str, ca_pem: &[u8]) -> anyhow::Result<String> {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    yaml(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"cluster": {"certificate-authority-data": data, "server": server}, "name": ""}],
        "contexts": null,
        "current-context": "",
        "users": null,
    }))
}

/// The Secrets of bootstrap tokens.
pub fn token_secrets(tokens: &[BootstrapToken], now: jiff::Timestamp) -> Vec<Value> {
    tokens.iter().map(|token| crate::token::secret(token, now)).collect()
}

/// The Secret with the encrypted certificates of the control plane.
pub fn certificates_secret(data: serde_json::Map<String, Value>, owner: Option<&Value>) -> Vec<Value> {
    let mut secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kubeadm-certs", "namespace": "kube-system"},
        "type": "Opaque",
        "data": data,
    });
    // Owned by the short-lived token's Secret, so that it goes with it.
    if let Some(owner) = owner {
        secret["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Secret", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": true, "controller": true,
        }]);
    }
    let mut role = reader("kubeadm:kubeadm-certs", "kube-system", "kubeadm-certs");
    role["rules"][0]["resources"] = json!(["secrets"]);
    vec![secret, role, role_binding("kubeadm:kubeadm-certs", "kube-system", &[("Group", BOOTSTRAPPERS)])]
}

fn config_map(name: &str, namespace: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data})
}

/// A Role that may get one ConfigMap.
fn reader(name: &str, namespace: &str, config_map: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "Role",
        "metadata": {"name": name, "namespace": namespace},
        "rules": [{"apiGroups": [""], "resourceNames": [config_map], "resources": ["configmaps"], "verbs": ["get"]}],
    })
}

/// Binds the Role of the same name.
fn role_binding(name: &str, namespace: &str, subjects: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
        "subjects": subjects_of(subjects),
    })
}

fn cluster_role_binding(name: &str, role: &str, subjects: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": subjects_of(subjects),
    })
}

fn subjects_of(subjects: &[(&str, &str)]) -> Vec<Value> {
    subjects.iter().map(|(kind, name)| json!({"apiGroup": RBAC, "kind": kind, "name": name})).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Every object of reference/kubeadm/init-objects.txt whose name we make, by kind and name.
    fn reference() -> Option<BTreeMap<(String, String), Value>> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/kubeadm/init-objects.txt");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("SKIPPED: no reference data at {}", path.display());
            return None;
        };
        let mut out = BTreeMap::new();
        for part in text.split("[dryrun] Attached object:\n").skip(1) {
            let document = part.split("\n\n").next().unwrap();
            let value: Value = serde_yaml::from_str(document).unwrap();
            let key = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_string();
            out.insert((value["kind"].as_str().unwrap().to_string(), key("name")), value);
        }
        Some(out)
    }

    #[test]
    fn objects_are_kubeadms() {
        let Some(reference) = reference() else { return };
        let mut cluster = ClusterConfiguration { kubernetes_version: "v1.36.0".into(), ..Default::default() };
        cluster.networking.pod_subnet = "10.244.0.0/16".into();
        let host = crate::host::Host { systemd: true, ..Default::default() };
        let kubelet = crate::kubelet::configuration(&cluster, &host, &Value::Null);
        let token = BootstrapToken { token: "abcdef.0123456789abcdef".into(), ..Default::default() };
        let now = "2026-11-20T20:21:28Z".parse().unwrap();
        let mut objects = kubeadm_config(&cluster).unwrap();
        objects.extend(kubelet_config(&kubelet).unwrap());
        objects.extend(bootstrap_rules(&cluster_info_kubeconfig("https://172.30.0.1:6443", b"x").unwrap()));
        objects.extend(token_secrets(&[token], now));
        let mut compared = 0;
        for object in &objects {
            let key = (object["kind"].as_str().unwrap().to_string(), object["metadata"]["name"].as_str().unwrap().to_string());
            let mut wanted = reference.get(&key).unwrap_or_else(|| panic!("{key:?} is not kubeadm's")).clone();
            let mut got = object.clone();
            // The reference masks hashes and authorities; the server defaults the subjects' apiGroup.
            got["metadata"].as_object_mut().unwrap().remove("annotations");
            wanted["metadata"].as_object_mut().unwrap().remove("annotations");
            for subject in got.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
                subject.as_object_mut().unwrap().remove("apiGroup");
            }
            if let Some(text) = got["data"]["kubeconfig"].as_str() {
                let masked: Vec<_> = text
                    .lines()
                    .map(|line| line.split_once("-data: ").map_or(line.to_string(), |(key, _)| format!("{key}-data: …")))
                    .collect();
                got["data"]["kubeconfig"] = json!(masked.join("\n") + "\n");
            }
            for value in [&mut got, &mut wanted] {
                for text in value.get_mut("data").and_then(Value::as_object_mut).into_iter().flat_map(|data| data.values_mut()) {
                    *text = json!(text.as_str().unwrap().trim_end());
                }
            }
            assert_eq!(got, wanted, "{key:?}");
            compared += 1;
        }
        assert_eq!(compared, 16);
    }
}
