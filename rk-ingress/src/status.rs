//! Where our Ingresses are reached: `status.loadBalancer` of each, as `kubectl get ingress` shows it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// The addresses that a Service is reached by from outside.
pub fn of_service(service: &Service) -> Vec<IngressLoadBalancerIngress> {
    let assigned = service.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    let mut out: Vec<_> = assigned
        .map(|ingress| IngressLoadBalancerIngress { ip: ingress.ip.clone(), hostname: ingress.hostname.clone(), ports: None })
        .collect();
    if out.is_empty() {
        let spec = service.spec.as_ref();
        let external = spec.and_then(|spec| spec.external_ips.clone()).unwrap_or_default();
        out.extend(external.into_iter().map(|ip| IngressLoadBalancerIngress { ip: Some(ip), ..Default::default() }));
    }
    out
}

/// The addresses given by flag: IPs or names.
pub fn of_flag(addresses: &[String]) -> Vec<IngressLoadBalancerIngress> {
    let one = |text: &String| match text.parse::<std::net::IpAddr>() {
        Ok(_) => IngressLoadBalancerIngress { ip: Some(text.clone()), ..Default::default() },
        Err(_) => IngressLoadBalancerIngress { hostname: Some(text.clone()), ..Default::default() },
    };
    addresses.iter().map(one).collect()
}

/// Whether the Ingress says something else.
pub fn is_due(ingress: &Ingress, wanted: &[IngressLoadBalancerIngress]) -> bool {
    let have = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref()).unwrap_or_default();
    have != wanted
}

/// Writes the status of those that say something else. Several controllers write the same: none needs to lead.
pub async fn write(client: &Client, ours: &[Arc<Ingress>], wanted: &[IngressLoadBalancerIngress]) {
    for ingress in ours.iter().filter(|ingress| is_due(ingress, wanted)) {
        let (Some(namespace), Some(name)) = (&ingress.metadata.namespace, &ingress.metadata.name) else { continue };
        let api: Api<Ingress> = Api::namespaced(client.clone(), namespace);
        let patch = json!({"status": {"loadBalancer": {"ingress": wanted}}});
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => tracing::info!(ingress = format!("{namespace}/{name}"), "Wrote the addresses"),
            Err(error) if client::is_not_found(&error) => {}
            Err(error) => tracing::warn!(
                ingress = format!("{namespace}/{name}"),
                err = component::chain(&error),
                "Failed to write the addresses"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_service_s_status_or_its_external_addresses() {
        let of = |value: serde_json::Value| {
            let service: Service = serde_json::from_value(value).unwrap();
            of_service(&service).into_iter().filter_map(|one| one.ip.or(one.hostname)).collect::<Vec<_>>()
        };
        assert_eq!(
            of(json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "a.b"}]}}})),
            ["1.2.3.4", "a.b"]
        );
        assert_eq!(of(json!({"spec": {"externalIPs": ["5.6.7.8"]}})), ["5.6.7.8"]);
        assert!(of(json!({})).is_empty());
        let wanted = of_flag(&["1.2.3.4".into(), "name.example".into()]);
        assert_eq!((wanted[0].ip.as_deref(), wanted[1].hostname.as_deref()), (Some("1.2.3.4"), Some("name.example")));
        let ingress = Ingress::default();
        assert!(is_due(&ingress, &wanted) && !is_due(&ingress, &[]));
    }
}
