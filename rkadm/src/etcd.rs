//! etcd's members: found, added, promoted, removed.
//! Upstream: cmd/kubeadm/app/util/etcd.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, MemberAddOptions, TlsOptions};
use pki::Files;

use crate::apply::{Api, readable};

const RETRY: Duration = Duration::from_millis(100);
/// How long a removal waits for members that have just come back.
const SETTLE: Duration = Duration::from_secs(12);
/// Where every etcd pod says how clients reach it.
const ANNOTATION: &str = "kubeadm.kubernetes.io/etcd.advertise-client-urls";

/// Client URLs of the cluster's etcd pods, but for the one on `without`.
pub async fn endpoints(api: &Api, without: Option<&str>) -> anyhow::Result<Vec<String>> {
    let path = "/api/v1/namespaces/kube-system/pods?labelSelector=component%3Detcd%2Ctier%3Dcontrol-plane";
    let pods = api.get(path).await.map_err(readable).context("cannot list the etcd pods")?;
    let of = |pod: &serde_json::Value| {
        let other = pod["spec"]["nodeName"].as_str() != without || without.is_none();
        pod["metadata"]["annotations"][ANNOTATION].as_str().filter(|_| other).map(str::to_string)
    };
    Ok(pods["items"].as_array().into_iter().flatten().filter_map(of).collect())
}

/// A client with the health check's certificate, as kubeadm uses it.
pub async fn connect(files: &Files, pki_dir: &Path, endpoints: &[String], timeout: Duration) -> anyhow::Result<Client> {
    let read = |name: &str| -> anyhow::Result<Vec<u8>> {
        let path = pki_dir.join("etcd").join(name);
        files.read(&path)?.with_context(|| format!("{} is missing", path.display()))
    };
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")?))
        .identity(Identity::from_pem(read("healthcheck-client.crt")?, read("healthcheck-client.key")?));
    let options = ConnectOptions::new()
        .with_tls(tls)
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(timeout.min(Duration::from_secs(20)));
    Client::connect(endpoints, Some(options)).await.with_context(|| format!("cannot connect to etcd at {}", endpoints.join(", ")))
}

/// Adds `name` as a learner, unless a former try did. Returns its id and all members as `initial-cluster` wants them.
pub async fn add_learner(
    client: &mut Client,
    name: &str,
    peer: &str,
    timeout: Duration,
) -> anyhow::Result<(u64, Vec<(String, String)>)> {
    let started = Instant::now();
    loop {
        let list = client.member_list().await.context("cannot list etcd's members")?;
        if let Some(known) = list.members().iter().find(|member| member.peer_urls().iter().any(|url| url == peer)) {
            return Ok((known.id(), initial_cluster(list.members(), name, peer)));
        }
        match client.member_add([peer], Some(MemberAddOptions::new().with_is_learner())).await {
            Ok(added) => {
                let id = added.member().context("etcd added a member without saying which")?.id();
                return Ok((id, initial_cluster(added.member_list(), name, peer)));
            }
            // Another learner is on its way, or a member is being reconfigured: etcd takes one at a time.
            Err(error) if started.elapsed() < timeout => {
                tracing::debug!(err = %error, "etcd did not add the member yet");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error).context("etcd did not accept this host as a member"),
        }
    }
}

/// A member that has not started yet has no name: it is this host.
fn initial_cluster(members: &[etcd_client::Member], name: &str, peer: &str) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for member in members {
        for url in member.peer_urls() {
            let own = url == peer || member.name().is_empty();
            list.push((if own { name.to_string() } else { member.name().to_string() }, url.clone()));
        }
    }
    list.sort();
    list
}

/// Makes a learner a voting member once it has caught up.
pub async fn promote(client: &mut Client, id: u64, timeout: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        match client.member_promote(id).await {
            Ok(_) => return Ok(()),
            Err(error) if is_voter(&error.to_string()) => return Ok(()),
            Err(error) if started.elapsed() > timeout => {
                return Err(error).context(
                    "this host's etcd did not catch up with the cluster: see its log in /var/log/pods/kube-system_etcd-*; `rkadm reset` takes \
                     the member back",
                );
            }
            Err(error) => {
                tracing::debug!(err = %error, "The learner cannot be promoted yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Whether promotion failed because the member votes already (a former try promoted it). "… which is in sync with leader" is the other
/// case: a learner that has not caught up yet.
fn is_voter(message: &str) -> bool {
    message.contains("can only promote a learner member") && !message.contains("in sync")
}

/// Removes the member that is reached at `peer`, unless it is the last one. Says whether it did.
pub async fn remove(client: &mut Client, peer: &str) -> anyhow::Result<bool> {
    let list = client.member_list().await.context("cannot list etcd's members")?;
    let Some(own) = list.members().iter().find(|member| member.peer_urls().iter().any(|url| url == peer)) else {
        return Ok(false);
    };
    if list.members().len() == 1 {
        bail!("it is the only member");
    }
    let (id, started) = (own.id(), Instant::now());
    loop {
        match client.member_remove(id).await {
            Ok(_) => return Ok(true),
            // A member has been back for less than five seconds: etcd counts it as missing until then.
            Err(error) if error.to_string().contains("unhealthy cluster") && started.elapsed() < SETTLE => {
                tokio::time::sleep(RETRY * 5).await;
            }
            Err(error) => return Err(error).context("etcd did not remove the member"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_that_lags_is_not_taken_for_a_voter() {
        assert!(is_voter(
            "grpc request error: status: FailedPrecondition, message: \"etcdserver: can only promote a learner member\""
        ));
        assert!(!is_voter("etcdserver: can only promote a learner member which is in sync with leader"));
        assert!(!is_voter("etcdserver: member not found"));
    }
}
