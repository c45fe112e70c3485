//! Signs approved requests for the built-in signers.
//!
//! Upstream: pkg/controller/certificates/signer

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use kube::api::PostParams;

use super::authority::{self, Authority};
use super::request::{self, Request, RequestError};
use super::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, has_condition, is_approved, is_issued, with_condition};
use crate::context::{Context, Requeue, Store};
use crate::key::Key;
use crate::options::Options;

/// Workers, as upstream.
const WORKERS: usize = 5;

type Check = fn(&Request, &[String]) -> Result<(), RequestError>;

/// A signer's name, the flags with its key pair, and what it accepts.
struct Signer {
    name: &'static str,
    files: fn(&Options) -> (&str, &str),
    check: Check,
}

const SIGNERS: &[Signer] = &[
    Signer {
        name: KUBELET_SERVING,
        files: |o| (&o.cluster_signing_kubelet_serving_cert_file, &o.cluster_signing_kubelet_serving_key_file),
        check: request::check_kubelet_serving,
    },
    Signer {
        name: KUBELET_CLIENT,
        files: |o| (&o.cluster_signing_kubelet_client_cert_file, &o.cluster_signing_kubelet_client_key_file),
        check: request::check_kubelet_client,
    },
    Signer {
        name: CLIENT,
        files: |o| (&o.cluster_signing_kube_apiserver_client_cert_file, &o.cluster_signing_kube_apiserver_client_key_file),
        check: |_, usages| request::check_client_usages(usages),
    },
    Signer {
        name: LEGACY_UNKNOWN,
        files: |o| (&o.cluster_signing_legacy_unknown_cert_file, &o.cluster_signing_legacy_unknown_key_file),
        check: |_, _| Ok(()),
    },
];

/// The key pair of a signer: its own, or the cluster's where no signer has its own.
fn files(options: &Options, signer: &Signer) -> Option<(PathBuf, PathBuf)> {
    let any_own = SIGNERS.iter().any(|signer| !(signer.files)(options).0.is_empty());
    let (certificate, key) = if any_own {
        (signer.files)(options)
    } else {
        (options.cluster_signing_cert_file.as_str(), options.cluster_signing_key_file.as_str())
    };
    (!certificate.is_empty() && !key.is_empty()).then(|| (PathBuf::from(certificate), PathBuf::from(key)))
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    for signer in SIGNERS {
        match files(&ctx.config.options, signer) {
            // Unusable files must show at start; they are read again for each request, since they may be replaced.
            Some((certificate, key)) => drop(Authority::load(&certificate, &key)?),
            None => tracing::info!(signer = signer.name, "Skipping CSR signer controller because no csr cert/key was specified"),
        }
    }
    let (store, queue) = (ctx.store::<CertificateSigningRequest>(), ctx.queue());
    store.feed(&queue);
    store.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, WORKERS, move |key| {
        let (ctx, store) = (this.clone(), store.clone());
        async move { sync(&ctx, &store, &key).await }
    });
    Ok(())
}

async fn sync(ctx: &Context, store: &Store<CertificateSigningRequest>, key: &Key) -> anyhow::Result<Requeue> {
    let Some(csr) = store.get(key) else { return Ok(Requeue::No) };
    if is_issued(&csr) || !is_approved(&csr) || has_condition(&csr, "Failed") {
        return Ok(Requeue::No);
    }
    let Some(signer) = SIGNERS.iter().find(|signer| signer.name == csr.spec.signer_name) else { return Ok(Requeue::No) };
    let Some((certificate, key_file)) = files(&ctx.config.options, signer) else { return Ok(Requeue::No) };
    let usages = csr.spec.usages.clone().unwrap_or_default();
    let api = ctx.cluster::<CertificateSigningRequest>();
    let checked = request::parse(&csr.spec.request.0).and_then(|request| (signer.check)(&request, &usages).map(|()| request));
    let request = match checked {
        Ok(request) => request,
        Err(error) => {
            let failed = with_condition(&csr, "Failed", "SignerValidationFailure", &error.to_string(), ctx.now());
            api.replace_status(&csr.name_any(), &PostParams::default(), &failed).await?;
            return Ok(Requeue::No);
        }
    };
    let authority = Arc::new(Authority::load(&certificate, &key_file)?);
    let lifetime = authority::lifetime(csr.spec.expiration_seconds, ctx.config.options.cluster_signing_duration);
    // RSA signing takes a millisecond or two: short enough to stay on this thread.
    let pem = match authority.issue(&request.der, &usages, lifetime, SystemTime::now()) {
        Ok(pem) => pem,
        Err(error) => anyhow::bail!("error auto signing csr: {error:#}"),
    };
    let mut signed = (*csr).clone();
    signed.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
    api.replace_status(&csr.name_any(), &PostParams::default(), &signed).await?;
    Ok(Requeue::No)
}
