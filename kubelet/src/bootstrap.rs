//! The kubelet's way to the API server: its kubeconfig, or the bootstrap one until it has its own.
//!
//! Upstream: pkg/kubelet/certificate/bootstrap

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use component::tasks::Tasks;
use serde_json::{Value, json};

use crate::certificate::{self, Wanted};
use crate::config::Config;

const CLIENT: &str = "kubelet-client";
/// The key of a request that was not answered yet: a restart asks with the same.
const PENDING_KEY: &str = "kubelet-client.key.tmp";

/// A client by the kubeconfig, which is made first by TLS bootstrap where there is none; `None` in standalone mode.
///
/// # Errors
/// There is no usable way to the API server; the message says what to do.
pub async fn connect(config: &Config, tasks: &Tasks) -> anyhow::Result<Option<kube::Client>> {
    let Some(path) = &config.kubeconfig else {
        tracing::info!("Standalone mode, no API client");
        return Ok(None);
    };
    if !usable(path) {
        let Some(bootstrap) = &config.bootstrap_kubeconfig else {
            bail!(
                "unable to read existing kubeconfig {}: it does not exist or its client certificate is gone or expired",
                path.display()
            );
        };
        if !bootstrap.exists() {
            bail!("unable to load bootstrap kubeconfig: stat {}: no such file or directory", bootstrap.display());
        }
        loop {
            match first_certificate(config, bootstrap, path).await {
                Ok(()) => break,
                Err(error) if denied(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(err = format!("{error:#}"), "TLS bootstrap failed; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
    let client = client::connect::from_kubeconfig(path, "kubelet")
        .await
        .with_context(|| format!("invalid kubeconfig {}", path.display()))?;
    if config.kubelet.rotate_certificates && certificate::current(&config.cert_dir, CLIENT).exists() {
        certificate::rotate_client(client.clone(), config.cert_dir.clone(), config.node_name.clone(), tasks);
    }
    Ok(Some(client))
}

fn denied(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains(" was denied") || text.contains(" was failed")
}

/// Whether the kubeconfig is there and its certificate, if it names one, still holds.
fn usable(path: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    let Ok(document) = serde_yaml::from_str::<Value>(&text) else { return false };
    let user = &document["users"][0]["user"];
    let pem = match (user["client-certificate"].as_str(), user["client-certificate-data"].as_str()) {
        (Some(file), _) => match std::fs::read_to_string(file) {
            Ok(pem) => pem,
            Err(_) => return false,
        },
        (None, Some(data)) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(data)
                .ok()
                .and_then(|pem| String::from_utf8(pem).ok())
                .unwrap_or_default()
        }
        // A token, or nothing at all: the server will tell.
        (None, None) => return true,
    };
    certificate::validity(&pem).is_some_and(|(_, ends)| ends > jiff::Timestamp::now().as_second())
}

async fn first_certificate(config: &Config, bootstrap: &Path, kubeconfig: &Path) -> anyhow::Result<()> {
    tracing::info!(file = %bootstrap.display(), "Using bootstrap kubeconfig to make a TLS client certificate, key and kubeconfig file");
    let api = client::connect::from_kubeconfig(bootstrap, "kubelet").await.context("invalid bootstrap kubeconfig")?;
    std::fs::create_dir_all(&config.cert_dir)?;
    let pending = config.cert_dir.join(PENDING_KEY);
    let key = match std::fs::read_to_string(&pending) {
        Ok(key) => key,
        Err(_) => {
            let key = rcgen::KeyPair::generate().context("failed to make a key")?.serialize_pem();
            certificate::write_private(&pending, &key)?;
            key
        }
    };
    let wanted = Wanted {
        signer: "kubernetes.io/kube-apiserver-client-kubelet",
        usage: "client auth",
        node: &config.node_name,
        names: Vec::new(),
        bootstrap: true,
    };
    let issued = certificate::request(&api, &wanted, Some(key)).await?;
    certificate::store(&config.cert_dir, CLIENT, &issued)?;
    let text = std::fs::read_to_string(bootstrap)?;
    let document: Value = serde_yaml::from_str(&text).context("bootstrap kubeconfig")?;
    let own = own_kubeconfig(&document, &certificate::current(&config.cert_dir, CLIENT))?;
    certificate::write_private(kubeconfig, &serde_yaml::to_string(&own)?)?;
    let _ = std::fs::remove_file(pending);
    Ok(())
}

/// The bootstrap kubeconfig's cluster with the certificate file as credentials. Pure.
fn own_kubeconfig(bootstrap: &Value, certificate: &Path) -> anyhow::Result<Value> {
    let named =
        |list: &str, name: &str| bootstrap[list].as_array().into_iter().flatten().find(|entry| entry["name"] == name).cloned();
    let context = named("contexts", bootstrap["current-context"].as_str().unwrap_or(""))
        .context("the bootstrap kubeconfig has no current context")?;
    let cluster = named("clusters", context["context"]["cluster"].as_str().unwrap_or(""))
        .context("the bootstrap kubeconfig has no cluster")?;
    let file = certificate.to_string_lossy();
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster["cluster"]}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "namespace": "default", "user": "default-auth"}}],
        "current-context": "default-context",
        "preferences": {},
        "users": [{"name": "default-auth", "user": {"client-certificate": file, "client-key": file}}],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_kubeconfig_keeps_the_cluster_and_not_the_token() {
        let bootstrap = json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "t"}}],
            "clusters": [{"name": "k", "cluster": {"server": "https://x:6443", "certificate-authority-data": "QQ=="}}], "users": [{"name": "t", "user": {"token": "secret"}}]});
        let own = own_kubeconfig(&bootstrap, Path::new("/pki/kubelet-client-current.pem")).unwrap();
        assert_eq!(own["clusters"][0]["cluster"]["server"], "https://x:6443");
        assert_eq!(own["users"][0]["user"]["client-key"], "/pki/kubelet-client-current.pem");
        assert!(!own.to_string().contains("secret"));
    }

    #[test]
    fn a_kubeconfig_without_its_certificate_is_not_usable() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("kubelet.conf");
        assert!(!usable(&path));
        std::fs::write(&path, "users: [{name: a, user: {client-certificate: /nope}}]").unwrap();
        assert!(!usable(&path));
        std::fs::write(&path, "users: [{name: a, user: {token: t}}]").unwrap();
        assert!(usable(&path));
    }
}
