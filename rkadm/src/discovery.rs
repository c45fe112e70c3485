//! How a host that joins comes to trust a cluster: by a token's signature and a pinned key, or by a file.
//! Upstream: cmd/kubeadm/app/discovery.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use pki::{Certificate, Kubeconfig};
use serde_json::Value;

use crate::config::types::{BootstrapTokenDiscovery, Discovery, FileDiscovery};
use crate::https::{self, Trust};
use crate::{jws, say, token};

const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
/// One try.
const TRY: Duration = Duration::from_secs(10);
/// Between tries while the cluster does not answer or has not signed yet.
const RETRY: Duration = Duration::from_millis(100);
/// Nobody who mistyped an address wants to wait five minutes for the answer; `timeouts.discovery` and --discovery-timeout change it.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(20);

/// What is believed after discovery: server and authority, no user.
pub async fn discover(discovery: &Discovery, patience: Duration) -> anyhow::Result<Kubeconfig> {
    match (&discovery.bootstrap_token, &discovery.file) {
        (Some(token), _) => by_token(token, patience).await,
        (None, Some(file)) => by_file(file, patience).await,
        (None, None) => bail!("neither a token nor a file says how to find the cluster"),
    }
}

/// Why a try failed, and whether another may succeed.
enum Failure {
    Passing(anyhow::Error),
    Final(anyhow::Error),
}

async fn by_token(wanted: &BootstrapTokenDiscovery, patience: Duration) -> anyhow::Result<Kubeconfig> {
    let endpoint = &wanted.api_server_endpoint;
    let (id, secret) = token::parse(&wanted.token).context("the token is not of the form abcdef.0123456789abcdef")?;
    let started = Instant::now();
    let mut said = false;
    let text = loop {
        // Nothing is believed yet: the signature and the pin decide.
        match signed_info(endpoint, &Trust::Anybody, id, secret).await {
            Ok(text) => break text,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(error)) => {
                if started.elapsed() > patience {
                    return Err(error);
                }
                if !said && started.elapsed() > Duration::from_secs(2) {
                    say::phase("discovery", &format!("Waiting for {endpoint}: {error:#}"));
                    said = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let config = Kubeconfig::parse(text.as_bytes()).context("the cluster's ConfigMap cluster-info")?;
    check_pins(&config, wanted)?;
    if !wanted.ca_cert_hashes.is_empty() {
        // Once more, over a connection that only the pinned authority can serve: the answer must be the same.
        let trust = Trust::Authorities(config.certificate_authority.clone());
        let again = match signed_info(endpoint, &trust, id, secret).await {
            Ok(again) => again,
            Err(Failure::Passing(error) | Failure::Final(error)) => {
                return Err(error.context(format!("{endpoint} does not serve with a certificate of the cluster's authority")));
            }
        };
        if again != text {
            bail!(
                "{endpoint} gave two different cluster-info: somebody is between this host and the cluster, or it is changing; try again"
            );
        }
    }
    Ok(config)
}

/// The kubeconfig of cluster-info, its signature checked.
async fn signed_info(endpoint: &str, trust: &Trust, id: &str, secret: &str) -> Result<String, Failure> {
    let answer = https::get(endpoint, CLUSTER_INFO, trust, None, TRY).await.map_err(|error| {
        Failure::Passing(error.context(format!(
            "the API server at {endpoint} cannot be reached: check the address, and that no firewall is in the way"
        )))
    })?;
    match answer.status {
        200 => {}
        401 | 403 => {
            let why = format!(
                "{endpoint} does not publish cluster-info to strangers (HTTP {}): join with --discovery-file instead",
                answer.status
            );
            return Err(Failure::Passing(anyhow::anyhow!(why)));
        }
        404 => {
            return Err(Failure::Passing(anyhow::anyhow!(
                "{endpoint} has no ConfigMap cluster-info: is it set up completely (`rkadm init`)?"
            )));
        }
        other => return Err(Failure::Passing(anyhow::anyhow!("{endpoint} answered HTTP {other} when asked for cluster-info"))),
    }
    let map: Value = serde_json::from_slice(&answer.body).map_err(|error| {
        Failure::Final(anyhow::anyhow!("{endpoint} answered something that is not a ConfigMap: {error}; is it an API server?"))
    })?;
    verified(&map, id, secret)
}

/// The decision about a ConfigMap: signed by the token's secret or not. Pure.
fn verified(map: &Value, id: &str, secret: &str) -> Result<String, Failure> {
    let Some(text) = map["data"]["kubeconfig"].as_str() else {
        return Err(Failure::Passing(anyhow::anyhow!("the ConfigMap cluster-info holds no kubeconfig")));
    };
    let Some(signature) = map["data"][jws::data_key(id)].as_str() else {
        return Err(Failure::Passing(anyhow::anyhow!(
            "the cluster does not know the token {id:?} (or has not signed with it yet): it may be expired or mistyped; on a control-plane node \
             `rkadm token list` shows the valid ones and `rkadm token create --print-join-command` makes a new one"
        )));
    };
    if !jws::verify(signature, text, secret) {
        return Err(Failure::Final(anyhow::anyhow!(
            "the token's secret part is wrong: the cluster's signature with token {id:?} does not match (`rkadm token list` on a control-plane node)"
        )));
    }
    Ok(text.to_string())
}

/// At least one authority of the kubeconfig must have a pinned key. Pure.
fn check_pins(config: &Kubeconfig, wanted: &BootstrapTokenDiscovery) -> anyhow::Result<()> {
    let authorities = Certificate::chain_from_pem(&config.certificate_authority).context("the authority in cluster-info")?;
    if authorities.is_empty() {
        bail!("cluster-info names no certificate authority");
    }
    if wanted.ca_cert_hashes.is_empty() {
        return Ok(());
    }
    let found: Vec<String> = authorities.iter().map(Certificate::public_key_pin).collect();
    if found.iter().any(|pin| wanted.ca_cert_hashes.iter().any(|hash| hash.eq_ignore_ascii_case(pin))) {
        return Ok(());
    }
    bail!(
        "the cluster's CA does not have the hash of --discovery-token-ca-cert-hash: given {}, found {}. Either the hash is mistyped or this is \
         another cluster; `rkadm token create --print-join-command` on a control-plane node prints the right one",
        wanted.ca_cert_hashes.join(", "),
        found.join(", ")
    )
}

async fn by_file(file: &FileDiscovery, patience: Duration) -> anyhow::Result<Kubeconfig> {
    let path = &file.kube_config_path;
    let text = if path.starts_with("https://") {
        bail!("--discovery-file {path}: fetch the file first; only local files are read")
    } else {
        std::fs::read(path).with_context(|| format!("cannot read the discovery file {path}"))?
    };
    let config = Kubeconfig::parse(&text).with_context(|| format!("in the discovery file {path}"))?;
    if config.certificate_authority.is_empty() {
        bail!("the discovery file {path} names no certificate authority");
    }
    let endpoint = config.server.trim_start_matches("https://").trim_end_matches('/').to_string();
    let trust = Trust::Authorities(config.certificate_authority.clone());
    let started = Instant::now();
    loop {
        match https::get(&endpoint, CLUSTER_INFO, &trust, None, TRY).await {
            // Any HTTP answer proves the authority; strangers may be refused.
            Ok(_) => return Ok(config),
            Err(error) if started.elapsed() > patience => {
                return Err(error
                    .context(format!("the API server of the discovery file, {}, cannot be reached or trusted", config.server)));
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_right_signature_is_believed() {
        let text = "apiVersion: v1\n";
        let signed = jws::sign(text, "abcdef", "0123456789abcdef").unwrap();
        let map = json!({"data": {"kubeconfig": text, "jws-kubeconfig-abcdef": signed}});
        assert!(matches!(verified(&map, "abcdef", "0123456789abcdef"), Ok(found) if found == text));
        assert!(
            matches!(verified(&map, "abcdef", "aaaaaaaaaaaaaaaa"), Err(Failure::Final(error)) if error.to_string().contains("secret part is wrong"))
        );
        assert!(
            matches!(verified(&map, "zzzzzz", "0123456789abcdef"), Err(Failure::Passing(error)) if error.to_string().contains("does not know the token"))
        );
        assert!(matches!(verified(&json!({}), "abcdef", ""), Err(Failure::Passing(_))));
    }

    #[test]
    fn a_wrong_pin_is_refused_with_both_hashes() {
        let key = pki::PrivateKey::generate(pki::Algorithm::EcdsaP256).unwrap();
        let authority = pki::Authority::generate("kubernetes", key, std::time::SystemTime::now(), pki::CA_VALIDITY).unwrap();
        let config = Kubeconfig {
            cluster: String::new(),
            user: String::new(),
            server: "https://x:6443".into(),
            tls_server_name: None,
            certificate_authority: authority.certificate().to_pem().into_bytes(),
            credentials: pki::kubeconfig::Credentials::None,
        };
        let wanted = |hash: &str| BootstrapTokenDiscovery { ca_cert_hashes: vec![hash.into()], ..Default::default() };
        let right = authority.certificate().public_key_pin();
        assert!(check_pins(&config, &wanted(&right)).is_ok());
        let wrong = format!("sha256:{}", "0".repeat(64));
        let error = check_pins(&config, &wanted(&wrong)).unwrap_err().to_string();
        assert!(error.contains(&wrong) && error.contains(&right) && error.contains("hash"), "{error}");
    }

    #[tokio::test]
    async fn an_unreachable_endpoint_is_named() {
        let wanted = BootstrapTokenDiscovery {
            api_server_endpoint: "127.0.0.1:1".into(),
            token: "abcdef.0123456789abcdef".into(),
            ..Default::default()
        };
        let error = format!("{:#}", by_token(&wanted, Duration::ZERO).await.unwrap_err());
        assert!(error.contains("127.0.0.1:1") && error.contains("firewall"), "{error}");
    }
}
