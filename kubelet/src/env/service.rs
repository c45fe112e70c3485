//! Service addresses as environment variables. Upstream: pkg/kubelet/envvars

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

/// Variables for the services of `namespace` (where `links` is on) and for `default/kubernetes` (always).
pub fn environment(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (name, of) = (service.metadata.name.as_deref().unwrap_or(""), service.metadata.namespace.as_deref().unwrap_or(""));
        let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or("");
        if address.is_empty() || address == "None" {
            continue;
        }
        if of == namespace && (links || name == "kubernetes" && of == "default") {
            chosen.insert(name, service);
        } else if of == "default" && name == "kubernetes" {
            // The master service; one of the same name in the pod's namespace wins.
            chosen.entry(name).or_insert(service);
        }
    }
    for (name, service) in chosen {
        add(&mut out, name, service);
    }
    out
}

fn add(out: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let address = spec.cluster_ip.as_deref().unwrap_or("");
    let prefix = name.to_uppercase().replace('-', "_");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    out.insert(format!("{prefix}_SERVICE_HOST"), address.to_owned());
    out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.insert(format!("{prefix}_SERVICE_PORT_{}", name.to_uppercase().replace('-', "_")), port.port.to_string());
        }
    }
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            out.insert(format!("{prefix}_PORT"), url.clone());
        }
        let port_prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.insert(port_prefix.clone(), url);
        out.insert(format!("{port_prefix}_PROTO"), protocol.to_lowercase());
        out.insert(format!("{port_prefix}_PORT"), port.port.to_string());
        out.insert(format!("{port_prefix}_ADDR"), address.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_of_the_namespace_and_the_master_are_named() {
        let service = |namespace: &str, name: &str, ip: &str| {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})).unwrap())
        };
        let services = [
            service("n", "my-db", "10.0.0.1"),
            service("m", "other", "10.0.0.2"),
            service("n", "headless", "None"),
            service("default", "kubernetes", "10.96.0.1"),
        ];
        let got = environment(&services, "n", true);
        assert_eq!(got["MY_DB_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(got["MY_DB_PORT_80_TCP"], "tcp://10.0.0.1:80");
        assert!(
            got.contains_key("KUBERNETES_SERVICE_HOST")
                && !got.contains_key("OTHER_SERVICE_HOST")
                && !got.contains_key("HEADLESS_SERVICE_HOST")
        );
        let got = environment(&services, "n", false);
        assert!(got.contains_key("KUBERNETES_SERVICE_HOST") && !got.contains_key("MY_DB_SERVICE_HOST"));
    }
}
