//! Waits until the kubelet, the API server, the controller manager and the scheduler are well; says what is wrong if they are not.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::addons::ADDONS;
use crate::apply::Api;
use crate::diagnose;
use crate::https::{self, Trust};
use crate::init::Init;
use crate::manifest::COMPONENTS;
use crate::node::{HINT_AFTER, Node, POLL, SUPER_ADMIN};
use crate::say;

/// One try of a health check.
const TRY: Duration = Duration::from_secs(5);

pub async fn run(init: &mut Init) -> anyhow::Result<()> {
    if init.node.dry_run {
        println!("[dryrun] Would wait for the kubelet, the API server, the controller manager and the scheduler");
        return Ok(());
    }
    let early = early_network(init)?;
    let waited = wait(&mut init.node).await;
    if let Some(early) = early {
        // Best effort: the add-on phase applies the same objects and tells what is wrong with them.
        early.abort();
    }
    waited?;
    init.bind_admins().await
}

/// The pod network takes longest to make the node Ready: its objects go in as soon as the API server takes them, while the controller
/// manager and the scheduler are still coming up.
fn early_network(init: &Init) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    let Some(addon) = ADDONS.iter().find(|addon| addon.phase == "rk-cni" && !addon.is_disabled(&init.node.cluster)) else {
        return Ok(None);
    };
    let skipped = init.init.skip_phases.iter().any(|name| name == "addon" || name == "addon/rk-cni");
    let path = init.node.files.real(std::path::Path::new(SUPER_ADMIN));
    if init.alone || skipped || !path.exists() {
        return Ok(None);
    }
    let objects = addon.objects(&init.node.cluster, &init.node.addon_server(), &init.proxy)?;
    let patience = init.node.timeouts.control_plane_component_health_check;
    Ok(Some(tokio::spawn(async move {
        let applied = match Api::connect(&path, patience).await {
            Ok(api) => api.apply_all(&objects).await,
            Err(error) => Err(error),
        };
        if let Err(error) = applied {
            tracing::debug!(err = %format!("{error:#}"), "The network was not applied early");
        }
    })))
}

/// Ends with the name of what has come up and how long that took.
type Wait<'a> = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<(&'static str, Duration)>> + Send + 'a>>;

/// Waits for everything at once; each that comes up is said once.
pub async fn wait(node: &mut Node) -> anyhow::Result<()> {
    let started = Instant::now();
    let timeout = node.timeouts.control_plane_component_health_check;
    let local = node.local_server();
    let api = local.trim_start_matches("https://").to_string();
    let ca = node.files.read(node.pki_dir().join("ca.crt"))?.unwrap_or_default();
    let kubelet = async { node.wait_for_kubelet().await.map(|took| ("kubelet", took)) };
    let component = |name: &'static str, endpoint: String, path: &'static str, trust: Trust| async move {
        healthy(name, &endpoint, path, &trust, timeout)
            .await
            .map(|took| (name, took))
            .map_err(|why| anyhow::anyhow!("{name}: {why:#}"))
    };
    let waits: Vec<Wait<'_>> = vec![
        Box::pin(kubelet),
        Box::pin(component("kube-apiserver", api, "/livez", Trust::Authorities(ca))),
        Box::pin(component("kube-controller-manager", "127.0.0.1:10257".into(), "/healthz", Trust::Anybody)),
        Box::pin(component("kube-scheduler", "127.0.0.1:10259".into(), "/livez", Trust::Anybody)),
    ];
    let mut pending: futures::stream::FuturesUnordered<_> = waits.into_iter().collect();
    let mut failed = Vec::new();
    while let Some(result) = futures::StreamExt::next(&mut pending).await {
        match result {
            Ok((name, took)) => say::phase("wait-control-plane", &format!("{name} is healthy after {:.2}s", took.as_secs_f64())),
            // A kubelet that does not start explains all the rest: no need to wait for it.
            Err(error) if error.to_string().starts_with("the kubelet") => return Err(error),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    drop(pending);
    if failed.is_empty() {
        say::phase("wait-control-plane", &format!("The control plane is up {}", say::took(started)));
        return Ok(());
    }
    let runtime = node.runtime().await.ok();
    let mut report = Vec::new();
    for name in COMPONENTS {
        if failed.iter().any(|why| why.starts_with(name))
            || name == "etcd" && failed.iter().any(|why| why.starts_with("kube-apiserver"))
        {
            report.push(diagnose::component(runtime.as_ref(), name).await);
        }
    }
    bail!(
        "the control plane did not come up within {timeout:?}:\n  - {}\nWhat the host says:\n  - {}\nCorrect the cause and run the same command \
         again after `rkadm reset`",
        failed.join("\n  - "),
        report.join("\n  - ")
    )
}

/// Polls one endpoint until it answers 200.
async fn healthy(name: &str, endpoint: &str, path: &str, trust: &Trust, timeout: Duration) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut hinted = false;
    loop {
        let why = match https::get(endpoint, path, trust, None, TRY).await {
            Ok(answer) if answer.status == 200 => return Ok(started.elapsed()),
            // An API server that refuses strangers is up; its first roles, which let everybody ask, follow in a moment.
            Ok(answer) if name == "kube-apiserver" && matches!(answer.status, 401 | 403) => return Ok(started.elapsed()),
            Ok(answer) => format!("{} from https://{endpoint}{path}", answer.status),
            Err(error) => format!("{error:#}"),
        };
        if started.elapsed() > timeout {
            bail!("{why}");
        }
        if !hinted && started.elapsed() > HINT_AFTER {
            hinted = true;
            say::phase("wait-control-plane", &format!("{name} is not healthy yet: {why}"));
        }
        tokio::time::sleep(POLL).await;
    }
}
