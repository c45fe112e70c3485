//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign for which signer, and that no
//! ordinary request makes its owner a cluster administrator.
//!
//! Upstream: plugin/pkg/admission/certificates

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use base64::Engine;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::{Authorizer, Host, Question};
use crate::pod::{items, text};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";

pub(super) fn build_approval(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(Approval { authorizer: host.authorizer.clone() })
}

pub(super) fn build_signing(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(Signing { authorizer: host.authorizer.clone() })
}

pub(super) fn build_attest(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(Attest { authorizer: host.authorizer.clone() })
}

pub(super) fn build_subject(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(SubjectRestriction)
}

/// Whether the user may do this to requests for the signer, or for all signers of its domain.
async fn may(authorizer: &Arc<dyn Authorizer>, request: &Attributes, verb: &str, signer: &str) -> bool {
    let mut names = vec![signer.to_owned()];
    if let Some((domain, _)) = signer.split_once('/') {
        names.push(format!("{domain}/*"));
    }
    for name in names {
        let question = Question {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Question::default()
        };
        if authorizer.allowed(&request.user, &question).await {
            return true;
        }
    }
    false
}

struct Approval {
    authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Plugin for Approval {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is_sub(GROUP, RESOURCE, "approval") || request.operation != Operation::Update {
            return Ok(());
        }
        let signer = text(&old.unwrap_or(object)["spec"], "signerName");
        if may(&self.authorizer, request, "approve", signer).await {
            return Ok(());
        }
        Err(request.forbidden(object, format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

/// ClusterTrustBundleAttest: a bundle that speaks for a signer comes from somebody who may attest for it.
struct Attest {
    authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Plugin for Attest {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is(GROUP, "clustertrustbundles") || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let signer = text(&object["spec"], "signerName");
        if signer.is_empty() || may(&self.authorizer, request, "attest", signer).await {
            return Ok(());
        }
        Err(request.forbidden(object, format!("user not permitted to attest for signerName {signer:?}")))
    }
}

struct Signing {
    authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Plugin for Signing {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is_sub(GROUP, RESOURCE, "status") || request.operation != Operation::Update {
            return Ok(());
        }
        let Some(old) = old else { return Ok(()) };
        let failed = |object: &Value| {
            items(&object["status"], "conditions")
                .iter()
                .filter(|condition| text(condition, "type") == "Failed")
                .cloned()
                .collect::<Vec<_>>()
        };
        if old["status"]["certificate"] == object["status"]["certificate"] && failed(old) == failed(object) {
            return Ok(());
        }
        let signer = text(&old["spec"], "signerName");
        if may(&self.authorizer, request, "sign", signer).await {
            return Ok(());
        }
        Err(request.forbidden(object, format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

struct SubjectRestriction;

#[async_trait]
impl Plugin for SubjectRestriction {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is(GROUP, RESOURCE) || request.operation != Operation::Create {
            return Ok(());
        }
        if text(&object["spec"], "signerName") != "kubernetes.io/kube-apiserver-client" {
            return Ok(());
        }
        let pem = base64::engine::general_purpose::STANDARD.decode(text(&object["spec"], "request")).unwrap_or_default();
        let groups = organizations(&pem).map_err(|why| request.forbidden(object, format!("failed to parse CSR: {why}")))?;
        if groups.iter().any(|group| group == "system:masters") {
            let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
            return Err(request.forbidden(object, why));
        }
        Ok(())
    }
}

fn organizations(pem: &[u8]) -> Result<Vec<String>, String> {
    use x509_parser::prelude::FromDer;
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    let (_, csr) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| error.to_string())?;
    Ok(csr
        .certification_request_info
        .subject
        .iter_organization()
        .filter_map(|value| value.as_str().ok().map(str::to_owned))
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, request};
    use super::*;

    #[tokio::test]
    async fn approval_and_signing_need_permission_for_the_signer() {
        let host = Cluster::default().host();
        let mut update = request(Operation::Update, GROUP, RESOURCE, "", "c");
        update.subresource = "approval".into();
        let object = json!({"spec": {"signerName": "example.com/s"}, "status": {"certificate": "eA=="}});
        let refused = build_approval(&host).validate(&update, &object, Some(&object), &mut Vec::new()).await.unwrap_err();
        assert!(refused.message.ends_with("user not permitted to approve requests with signerName \"example.com/s\""));
        update.subresource = "status".into();
        let old = json!({"spec": {"signerName": "example.com/s"}});
        assert!(build_signing(&host).validate(&update, &object, Some(&old), &mut Vec::new()).await.is_err());
        assert!(build_signing(&host).validate(&update, &old, Some(&old), &mut Vec::new()).await.is_ok());
    }

    #[test]
    fn what_is_no_request_is_told() {
        assert!(organizations(b"x").is_err());
    }
}
