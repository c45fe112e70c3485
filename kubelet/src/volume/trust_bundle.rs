//! `clusterTrustBundle` projections: certificates of authorities that the cluster publishes, as one PEM file.
//!
//! Upstream: pkg/kubelet/clustertrustbundle

use std::collections::BTreeSet;

use base64::Engine as _;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use kube::Api;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};

use super::VolumeError;
use crate::kubelet::Kubelet;
use crate::objects::message;

/// Versions to look for, the newest first.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// The file's content; `None` where there is no such bundle and none is needed.
pub async fn read(kubelet: &Kubelet, source: &ClusterTrustBundleProjection) -> Result<Option<Vec<u8>>, VolumeError> {
    let api = kubelet.api.clone().ok_or_else(|| VolumeError("no API server is configured".into()))?;
    let optional = source.optional.unwrap_or(false);
    let mut last = String::new();
    for version in VERSIONS {
        let kind = GroupVersionKind::gvk("certificates.k8s.io", version, "ClusterTrustBundle");
        let bundles = Api::<DynamicObject>::all_with(api.clone(), &ApiResource::from_gvk(&kind));
        let found = match (&source.name, &source.signer_name) {
            (Some(name), _) => bundles.get_opt(name).await.map(|found| found.into_iter().collect::<Vec<_>>()),
            (None, Some(signer)) => {
                let mut params = ListParams::default().fields(&format!("spec.signerName={signer}"));
                // No selector selects nothing, an empty one everything.
                let Some(selector) = &source.label_selector else { return empty(optional, "no label selector") };
                params.label_selector = Some(text(selector)).filter(|text| !text.is_empty());
                bundles.list(&params).await.map(|list| list.items)
            }
            (None, None) => return Err(VolumeError("a clusterTrustBundle projection needs a name or a signerName".into())),
        };
        match found {
            Ok(found) if !found.is_empty() => {
                let texts: Vec<&str> = found.iter().filter_map(|bundle| bundle.data["spec"]["trustBundle"].as_str()).collect();
                return Ok(Some(merge(&texts).into_bytes()));
            }
            // A version that is not served looks like an object that is not there.
            Ok(_) => last = "not found".into(),
            Err(kube::Error::Api(status)) if status.code == 404 => last = status.message.clone(),
            Err(error) => return Err(VolumeError(message(&error))),
        }
    }
    empty(optional, &last)
}

fn empty(optional: bool, why: &str) -> Result<Option<Vec<u8>>, VolumeError> {
    if optional {
        Ok(None)
    } else {
        Err(VolumeError(format!("combination of signerName and labelSelector or name matched zero ClusterTrustBundles: {why}")))
    }
}

/// A selector in the words of a query.
fn text(selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let (key, values) = (&expression.key, expression.values.clone().unwrap_or_default().join(","));
        match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

/// The certificates of all bundles, each once, without comments and headers.
fn merge(texts: &[&str]) -> String {
    let mut blocks = BTreeSet::new();
    for text in texts {
        for pem in x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()).flatten().filter(|pem| pem.label == "CERTIFICATE") {
            blocks.insert(pem.contents);
        }
    }
    let mut out = String::new();
    for block in blocks {
        let body = base64::engine::general_purpose::STANDARD.encode(block);
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in body.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_merged_without_repeats_and_comments() {
        let make = || {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
        };
        let (a, b) = (make(), make());
        let got = merge(&[&format!("a comment\n{a}"), &format!("{a}{b}")]);
        assert_eq!(got.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(!got.contains("comment"));
        assert_eq!(merge(&[&got]), got);
    }

    #[test]
    fn selectors_are_written_as_queries() {
        let selector = serde_json::from_value(serde_json::json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]}))
        .unwrap();
        assert_eq!(text(&selector), "a=b,c in (d,e),!f");
    }
}
