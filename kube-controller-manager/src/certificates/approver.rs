//! Approves the certificates that nodes ask for themselves: the first one with a bootstrap token, its renewals, and serving
//! certificates whose every name and address the node really has.
//!
//! Upstream: pkg/controller/certificates/approver. Serving certificates are left to people there; here they are approved when they
//! claim nothing that the Node object does not confirm.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::PostParams;

use super::request::{self, Request};
use super::{KUBELET_CLIENT, KUBELET_SERVING, has_condition, is_issued, with_condition};
use crate::api_error;
use crate::context::{Context, Requeue, Store};
use crate::key::Key;

/// Workers, as upstream.
const WORKERS: usize = 5;

/// What a request was recognized as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recognized {
    /// A node renews its own client certificate.
    SelfNodeClient,
    /// Somebody (a bootstrap token) asks for a node's first one.
    NodeClient,
    /// A node asks for its serving certificate, and all it claims is its own.
    NodeServing,
}

impl Recognized {
    /// The subresource whose `create` permission decides, and the message on success.
    fn rule(self) -> (Option<&'static str>, &'static str) {
        match self {
            Recognized::SelfNodeClient => {
                (Some("selfnodeclient"), "Auto approving self kubelet client certificate after SubjectAccessReview.")
            }
            Recognized::NodeClient => {
                (Some("nodeclient"), "Auto approving kubelet client certificate after SubjectAccessReview.")
            }
            Recognized::NodeServing => {
                (None, "Auto approving kubelet serving certificate after comparing it with the node's addresses.")
            }
        }
    }
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (store, nodes, queue) = (ctx.store::<CertificateSigningRequest>(), ctx.store::<Node>(), ctx.queue());
    store.feed(&queue);
    store.synced().await;
    nodes.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, WORKERS, move |key| {
        let (ctx, store, nodes) = (this.clone(), store.clone(), nodes.clone());
        async move { sync(&ctx, &store, &nodes, &key).await }
    });
    Ok(())
}

async fn sync(
    ctx: &Context,
    store: &Store<CertificateSigningRequest>,
    nodes: &Store<Node>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(csr) = store.get(key) else { return Ok(Requeue::No) };
    if is_issued(&csr) || has_condition(&csr, "Approved") || has_condition(&csr, "Denied") || has_condition(&csr, "Failed") {
        return Ok(Requeue::No);
    }
    let Ok(request) = request::parse(&csr.spec.request.0) else { return Ok(Requeue::No) };
    let node = csr
        .spec
        .username
        .as_deref()
        .and_then(|user| user.strip_prefix("system:node:"))
        .and_then(|name| nodes.get(&Key::cluster(name)));
    let candidates = recognize(&csr.spec, &request, node.as_deref());
    for recognized in &candidates {
        let (subresource, message) = recognized.rule();
        if let Some(subresource) = subresource
            && !permitted(ctx, &csr.spec, subresource).await?
        {
            continue;
        }
        let approved = with_condition(&csr, "Approved", "AutoApproved", message, ctx.now());
        let api = ctx.cluster::<CertificateSigningRequest>();
        match api.replace_subresource("approval", &csr.name_any(), &PostParams::default(), &approved).await {
            Err(error) if api_error::is_forbidden(&error) && *recognized == Recognized::NodeServing => {
                tracing::debug!(csr = %key, "Not allowed to approve kubelet serving certificates");
            }
            other => drop(other?),
        }
        return Ok(Requeue::No);
    }
    if candidates.is_empty() {
        return Ok(Requeue::No);
    }
    anyhow::bail!("recognized csr {:?} as {candidates:?} but subject access review was not approved", csr.name_any())
}

/// All that the request may be taken for, the narrowest first.
fn recognize(spec: &CertificateSigningRequestSpec, request: &Request, node: Option<&Node>) -> Vec<Recognized> {
    let usages = spec.usages.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    if spec.signer_name == KUBELET_CLIENT && request::check_kubelet_client(request, usages).is_ok() {
        if spec.username.as_ref() == Some(&request.common_name) {
            found.push(Recognized::SelfNodeClient);
        }
        found.push(Recognized::NodeClient);
    }
    let own =
        spec.username.as_ref() == Some(&request.common_name) && spec.groups.iter().flatten().any(|group| group == "system:nodes");
    if spec.signer_name == KUBELET_SERVING
        && own
        && request::check_kubelet_serving(request, usages).is_ok()
        && confirms(node, request)
    {
        found.push(Recognized::NodeServing);
    }
    found
}

/// Whether the Node object has every name and address that the request claims.
fn confirms(node: Option<&Node>, request: &Request) -> bool {
    let Some(node) = node else { return false };
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let has_ip = |ip: &std::net::IpAddr| {
        addresses.iter().any(|a| matches!(a.type_.as_str(), "InternalIP" | "ExternalIP") && a.address.parse() == Ok(*ip))
    };
    let has_name = |name: &String| {
        *name == node.name_any()
            || addresses
                .iter()
                .any(|a| matches!(a.type_.as_str(), "Hostname" | "InternalDNS" | "ExternalDNS") && a.address == *name)
    };
    request.ips.iter().all(has_ip) && request.dns_names.iter().all(has_name)
}

async fn permitted(ctx: &Context, spec: &CertificateSigningRequestSpec, subresource: &str) -> kube::Result<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                verb: Some("create".to_owned()),
                subresource: Some(subresource.to_owned()),
                version: Some("*".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = ctx.cluster::<SubjectAccessReview>().create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(signer: &str, user: &str, usages: &[&str]) -> CertificateSigningRequestSpec {
        serde_json::from_value(
            json!({"request": "", "signerName": signer, "username": user, "groups": ["system:nodes"], "usages": usages}),
        )
        .unwrap()
    }

    #[test]
    fn requests_are_recognized_by_requestor_and_content() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}, {"type": "Hostname", "address": "n1.lan"}]}}))
        .unwrap();
        let client =
            Request { common_name: "system:node:n1".into(), organizations: vec!["system:nodes".into()], ..Request::default() };
        let usages = ["digital signature", "client auth"];
        assert_eq!(recognize(&spec(KUBELET_CLIENT, "system:bootstrap:abc", &usages), &client, None), [Recognized::NodeClient]);
        assert_eq!(
            recognize(&spec(KUBELET_CLIENT, "system:node:n1", &usages), &client, None),
            [Recognized::SelfNodeClient, Recognized::NodeClient]
        );
        let serving =
            Request { dns_names: vec!["n1".into(), "n1.lan".into()], ips: vec!["10.0.0.7".parse().unwrap()], ..client.clone() };
        let usages = ["digital signature", "server auth"];
        assert_eq!(
            recognize(&spec(KUBELET_SERVING, "system:node:n1", &usages), &serving, Some(&node)),
            [Recognized::NodeServing]
        );
        for bad in [
            Request { ips: vec!["10.0.0.8".parse().unwrap()], ..serving.clone() },
            Request { dns_names: vec!["kubernetes.default".into()], ..serving.clone() },
            Request { common_name: "system:node:n2".into(), ..serving.clone() },
        ] {
            assert!(recognize(&spec(KUBELET_SERVING, "system:node:n1", &usages), &bad, Some(&node)).is_empty(), "{bad:?}");
        }
        assert!(recognize(&spec(KUBELET_SERVING, "system:node:n1", &usages), &serving, None).is_empty());
    }
}
