//! The add-ons: templates of manifests/addons, filled in. Pure.

use serde_json::Value;

use crate::config::merge;
use crate::config::types::ClusterConfiguration;

/// One add-on: kubeadm's phase name and its template.
pub struct Addon {
    pub phase: &'static str,
    pub name: &'static str,
    template: &'static str,
    disabled: fn(&ClusterConfiguration) -> bool,
}

/// In the order of application: pods get no network before rk-cni runs.
pub const ADDONS: &[Addon] = &[
    Addon {
        phase: "rk-cni",
        name: "rk-cni",
        template: include_str!("../../manifests/addons/rk-cni.yaml"),
        // Without a pod range somebody else brings the network.
        disabled: |cluster| cluster.networking.pod_subnet.is_empty(),
    },
    Addon {
        phase: "kube-proxy",
        name: "kube-proxy",
        template: include_str!("../../manifests/addons/kube-proxy.yaml"),
        disabled: |cluster| cluster.proxy.disabled,
    },
    Addon {
        phase: "coredns",
        name: "CoreDNS",
        template: include_str!("../../manifests/addons/rk-dns.yaml"),
        disabled: |cluster| cluster.dns.disabled,
    },
    Addon {
        phase: "metrics",
        name: "metrics API",
        template: include_str!("../../manifests/addons/metrics.yaml"),
        disabled: |_| false,
    },
    Addon {
        phase: "ingress",
        name: "rk-ingress",
        template: include_str!("../../manifests/addons/rk-ingress.yaml"),
        disabled: |_| false,
    },
    Addon {
        phase: "node-local-dns",
        name: "node-local DNS",
        template: include_str!("../../manifests/addons/node-local-dns.yaml"),
        disabled: |cluster| cluster.dns.disabled,
    },
];

impl Addon {
    pub fn is_disabled(&self, cluster: &ClusterConfiguration) -> bool {
        (self.disabled)(cluster)
    }

    /// The objects of the add-on. `server` is the control plane's URL; `proxy` the user's KubeProxyConfiguration.
    pub fn objects(&self, cluster: &ClusterConfiguration, server: &str, proxy: &Value) -> anyhow::Result<Vec<Value>> {
        let version = crate::images::component_version(&cluster.kubernetes_version);
        let dns = crate::kubelet::dns_addresses(cluster).into_iter().next().unwrap_or_default();
        let mut text = self.template.to_string();
        if server == crate::balancer::URL {
            let line = "        server: @SERVER@";
            text = text.replace(line, &format!("{line}\n        tls-server-name: {}", crate::balancer::SERVER_NAME));
        }
        for (placeholder, value) in [
            ("@VERSION@", version.as_str()),
            ("@IMAGE_REPOSITORY@", &cluster.image_repository),
            ("@SERVER@", server),
            ("@POD_CIDR@", &cluster.networking.pod_subnet),
            ("@CLUSTER_DNS@", &dns),
            ("@DNS_DOMAIN@", &cluster.networking.dns_domain),
        ] {
            text = text.replace(placeholder, value);
        }
        let mut objects = Vec::new();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value: Value = serde::Deserialize::deserialize(document)?;
            if !value.is_null() {
                objects.push(value);
            }
        }
        if self.phase == "kube-proxy" && proxy.is_object() {
            for object in objects.iter_mut().filter(|object| object["kind"] == "ConfigMap") {
                if let Some(text) = object["data"]["config.conf"].as_str() {
                    let mut config: Value = serde_yaml::from_str(text)?;
                    merge(&mut config, proxy);
                    object["data"]["config.conf"] = Value::String(crate::config::yaml(&config)?);
                }
            }
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_are_filled_in_completely() {
        let mut cluster = ClusterConfiguration { kubernetes_version: "v1.36.7".into(), ..Default::default() };
        cluster.networking.pod_subnet = "10.244.0.0/16".into();
        let placeholder = regex::Regex::new("@[A-Z_]+@").unwrap();
        for addon in ADDONS {
            let objects = addon.objects(&cluster, "https://172.30.0.1:6443", &Value::Null).unwrap();
            // The metrics API is two objects, without an image.
            let with_image = addon.phase != "metrics";
            assert!(objects.len() > if with_image { 3 } else { 1 }, "{}", addon.name);
            let text = serde_json::to_string(&objects).unwrap();
            assert!(!placeholder.is_match(&text), "{}: {text}", addon.name);
            assert_eq!(text.contains(":v1.36.7"), with_image, "{}", addon.name);
            let balanced = addon.objects(&cluster, crate::balancer::URL, &Value::Null).unwrap();
            for map in balanced.iter().filter(|object| object["data"]["kubeconfig.conf"].is_string()) {
                let config: Value = serde_yaml::from_str(map["data"]["kubeconfig.conf"].as_str().unwrap()).unwrap();
                assert_eq!(config["clusters"][0]["cluster"]["tls-server-name"], crate::balancer::SERVER_NAME);
            }
            for object in &objects {
                crate::apply::path(object).unwrap_or_else(|e| panic!("{}: {e}", addon.name));
            }
        }
    }

    #[test]
    fn the_users_proxy_configuration_is_laid_on() {
        let cluster = ClusterConfiguration::default();
        let proxy = ADDONS.iter().find(|addon| addon.phase == "kube-proxy").unwrap();
        let objects = proxy.objects(&cluster, "https://x:6443", &json!({"mode": "nftables", "conntrack": {"min": 0}})).unwrap();
        let map = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
        let config: Value = serde_yaml::from_str(map["data"]["config.conf"].as_str().unwrap()).unwrap();
        assert_eq!(
            (&config["mode"], &config["conntrack"]["min"], &config["bindAddress"]),
            (&json!("nftables"), &json!(0), &json!("0.0.0.0"))
        );
        assert!(ADDONS[0].is_disabled(&cluster), "no pod range, no network of ours");
    }
}
