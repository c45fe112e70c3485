//! Replaces the static pods of this host one by one, and puts everything back when one does not come up.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use pki::Files;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Upgrade;
use crate::cri::Runtime;
use crate::https::{self, Trust};
use crate::{command, diagnose, manifest, say};

/// Where the state before an upgrade is kept. Upstream: /etc/kubernetes/tmp.
const BACKUP_DIR: &str = "/etc/kubernetes/tmp";
const POLL: Duration = Duration::from_millis(200);

/// The image of a component's manifest.
pub fn image_of(files: &Files, component: &str) -> Option<String> {
    let text = files.read(manifest::path(component)).ok()??;
    let pod: Value = serde_yaml::from_slice(&text).ok()?;
    pod["spec"]["containers"][0]["image"].as_str().map(str::to_string)
}

/// Old and new text of every manifest that changes, in the order of replacement.
pub fn manifests(upgrade: &Upgrade) -> anyhow::Result<Vec<(String, (String, String))>> {
    let mut changes = Vec::new();
    for component in manifest::COMPONENTS {
        let Some(old) = upgrade.node.files.read(manifest::path(component))? else { continue };
        let old = String::from_utf8(old).with_context(|| format!("{} is not text", manifest::path(component)))?;
        let members = if component == "etcd" { members_of(&old) } else { Vec::new() };
        if component == "etcd" {
            // etcd changes only with its image: a restart costs a leader election.
            let wanted = upgrade.node.images.etcd().map(str::to_string);
            if !upgrade.etcd || wanted == image_of(&upgrade.node.files, "etcd") {
                continue;
            }
        }
        let Some(pod) = upgrade.node.manifest(component, &members)? else { continue };
        let new = crate::config::yaml(&pod)?;
        if new != old {
            changes.push((component.to_string(), (old, new)));
        }
    }
    Ok(changes)
}

/// Members that an etcd manifest was written with; none for the first one of a cluster.
fn members_of(manifest: &str) -> Vec<(String, String)> {
    let pod: Value = serde_yaml::from_str(manifest).unwrap_or_default();
    let flags: Vec<&str> =
        pod["spec"]["containers"][0]["command"].as_array().into_iter().flatten().filter_map(|flag| flag.as_str()).collect();
    if !flags.contains(&"--initial-cluster-state=existing") {
        return Vec::new();
    }
    let list = flags.iter().find_map(|flag| flag.strip_prefix("--initial-cluster=")).unwrap_or_default();
    list.split(',').filter_map(|part| part.split_once('=')).map(|(name, url)| (name.to_string(), url.to_string())).collect()
}

/// What is being done, written before anything changes: who comes after a power cut can go on or go back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    pub current: String,
    pub target: String,
    /// Where the old manifests are.
    pub backup: PathBuf,
    /// Components that change, in the order of replacement.
    pub components: Vec<String>,
    pub snapshot: Option<PathBuf>,
    /// `https://` of this host's API server.
    pub server: String,
}

const JOURNAL: &str = "/etc/kubernetes/tmp/rk-upgrade.json";

impl Journal {
    /// That of an upgrade that has not ended.
    pub fn load(files: &Files) -> Option<Journal> {
        serde_json::from_slice(&files.read(JOURNAL).ok()??).ok()
    }

    fn save(&self, files: &mut Files) -> anyhow::Result<()> {
        Ok(files.write(JOURNAL, pki::files::SECRET, serde_json::to_vec_pretty(self)?)?)
    }
}

/// The upgrade has ended, well or not.
pub fn tidy_up() -> anyhow::Result<()> {
    match std::fs::remove_file(JOURNAL) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {JOURNAL}"))
        }
        _ => Ok(()),
    }
}

/// Replaces what changes. After a failure the old manifests run again, and the old data where they need it.
pub async fn control_plane(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let changes = manifests(upgrade)?;
    if changes.is_empty() {
        say::phase("upgrade/staticpods", "Every static pod is as it should be already");
        return renew(upgrade);
    }
    let journal = prepare(upgrade, &changes).await?;
    renew(upgrade)?;
    let runtime = upgrade.node.runtime().await?;
    for (component, (_, new)) in &changes {
        let started = Instant::now();
        let result = async {
            let before = SystemTime::now();
            upgrade.node.files.write(manifest::path(component), pki::files::SECRET, new)?;
            wait_for(&journal.server, upgrade.timeout, &runtime, component, before).await
        }
        .await;
        let Err(error) = result else {
            let text = format!("Component {component:?} upgraded successfully! {}", say::took(started));
            say::phase("upgrade/staticpods", &text);
            continue;
        };
        say::warning(&format!("{component} did not come up: going back to {}", upgrade.current));
        let back = roll_back(&mut upgrade.node.files, &runtime, upgrade.timeout, &journal).await;
        return Err(match back {
            Ok(()) => error.context(format!(
                "the upgrade to {} failed and was rolled back: the control plane runs {} as before; manifests of the try are not kept, the \
                 state before it is in {}",
                upgrade.target,
                upgrade.current,
                journal.backup.display()
            )),
            Err(worse) => error.context(format!(
                "and the way back failed too ({worse:#}): the old manifests are in {}, the etcd snapshot is {}; `rkadm upgrade rollback` tries again",
                journal.backup.display(),
                journal.snapshot.map_or("not there (external etcd)".into(), |path| path.display().to_string())
            )),
        });
    }
    tidy_up()
}

/// Snapshot, old manifests, journal. A journal that is there already has them: its state is the one to go back to.
async fn prepare(upgrade: &mut Upgrade, changes: &[(String, (String, String))]) -> anyhow::Result<Journal> {
    if let Some(journal) = Journal::load(&upgrade.node.files)
        && journal.target == upgrade.target
        && journal.backup.is_dir()
    {
        say::phase("upgrade", &format!("Going on with the upgrade from {} that was interrupted", journal.current));
        return Ok(journal);
    }
    let stamp = jiff::Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S").to_string();
    let snapshot = snapshot(upgrade, &stamp).await?;
    let backup = PathBuf::from(BACKUP_DIR).join(format!("kubeadm-backup-manifests-{stamp}"));
    for (component, (old, _)) in changes {
        upgrade.node.files.write(backup.join(format!("{component}.yaml")), pki::files::SECRET, old)?;
    }
    let journal = Journal {
        current: upgrade.current.clone(),
        target: upgrade.target.clone(),
        backup,
        components: changes.iter().map(|(component, _)| component.clone()).collect(),
        snapshot,
        server: upgrade.node.local_server(),
    };
    journal.save(&mut upgrade.node.files)?;
    Ok(journal)
}

/// Certificates of this host, renewed on the way; authorities that sign elsewhere are left alone.
fn renew(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    if !upgrade.renew {
        return Ok(());
    }
    let dir = upgrade.node.pki_dir();
    let names: Vec<&str> = pki::expiration::names().collect();
    let (now, validity) = (SystemTime::now(), upgrade.node.cluster.certificate_validity_period);
    let mut renewed = 0;
    for name in names {
        let outcome = pki::expiration::renew(
            &mut upgrade.node.files,
            crate::node::KUBERNETES.as_ref(),
            &dir,
            name,
            now,
            validity,
            &upgrade.node.keys,
        )?;
        renewed += usize::from(outcome == pki::expiration::Renewed::Yes);
    }
    say::phase("upgrade/certs", &format!("Renewed {renewed} certificates"));
    Ok(())
}

/// A snapshot of the local etcd before anything changes.
async fn snapshot(upgrade: &Upgrade, stamp: &str) -> anyhow::Result<Option<PathBuf>> {
    if upgrade.node.cluster.etcd.local.is_none() || !upgrade.node.files.exists(manifest::path("etcd")) {
        return Ok(None);
    }
    let endpoints = ["https://127.0.0.1:2379".to_string()];
    let mut client =
        crate::etcd::connect(&upgrade.node.files, &upgrade.node.pki_dir(), &endpoints, Duration::from_secs(20)).await?;
    let file = PathBuf::from(BACKUP_DIR).join(format!("kubeadm-backup-etcd-{stamp}.db"));
    command::etcd::save(&mut client, &file).await?;
    say::phase("upgrade/etcd", &format!("Saved a snapshot to {}", file.display()));
    Ok(Some(file))
}

/// Until a new container of the component runs (by the runtime's word) and the component says that it is well.
async fn wait_for(server: &str, timeout: Duration, runtime: &Runtime, component: &str, since: SystemTime) -> anyhow::Result<()> {
    let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let started = Instant::now();
    loop {
        let newest =
            runtime.containers().await?.into_iter().filter(|one| one.name() == component).max_by_key(|one| one.created_at);
        let fresh = newest.is_some_and(|one| one.is_running() && u128::try_from(one.created_at).unwrap_or(0) > since);
        if fresh && is_well(server, component).await {
            return Ok(());
        }
        if started.elapsed() > timeout {
            bail!("{}", diagnose::component(Some(runtime), component).await);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn is_well(server: &str, component: &str) -> bool {
    const TRY: Duration = Duration::from_secs(3);
    let answer = match component {
        "etcd" => https::get_plain("127.0.0.1:2381", "/health", TRY).await,
        "kube-apiserver" => https::get(server.trim_start_matches("https://"), "/readyz", &Trust::Anybody, None, TRY).await,
        "kube-controller-manager" => https::get("127.0.0.1:10257", "/healthz", &Trust::Anybody, None, TRY).await,
        _ => https::get("127.0.0.1:10259", "/livez", &Trust::Anybody, None, TRY).await,
    };
    answer.is_ok_and(|answer| answer.status == 200)
}

/// The old manifests again, the last replaced first. The old data as well where etcd itself was replaced (a newer one may have changed the
/// files' format), or where the old API server does not come up on what the new one has written.
pub async fn roll_back(files: &mut Files, runtime: &Runtime, timeout: Duration, journal: &Journal) -> anyhow::Result<()> {
    let since = SystemTime::now();
    for component in journal.components.iter().rev() {
        let path = journal.backup.join(format!("{component}.yaml"));
        let old = files.read(&path)?.with_context(|| format!("{} is missing", path.display()))?;
        if files.read(manifest::path(component))?.as_deref() != Some(old.as_slice()) {
            files.write(manifest::path(component), pki::files::SECRET, old)?;
        }
    }
    let mut data = journal.snapshot.as_deref();
    if journal.components.iter().any(|component| component == "etcd")
        && let Some(snapshot) = data.take()
    {
        command::etcd::restore(files, snapshot, None, true).await?;
    }
    for component in journal.components.iter().rev() {
        let settled = settle(&journal.server, timeout, runtime, component, since).await;
        match (settled, component.as_str(), data.take_if(|_| component == "kube-apiserver")) {
            (Ok(()), ..) => {}
            (Err(error), "kube-apiserver", Some(snapshot)) => {
                say::warning(&format!(
                    "the old API server does not come up on the present data ({error:#}): restoring the snapshot"
                ));
                command::etcd::restore(files, snapshot, None, true).await?;
                settle(&journal.server, timeout, runtime, component, since).await?;
            }
            (Err(error), ..) => return Err(error),
        }
        say::phase("upgrade/rollback", &format!("{component} runs in its old version"));
    }
    tidy_up()
}

/// Until a component runs in its old form.
async fn settle(server: &str, timeout: Duration, runtime: &Runtime, component: &str, since: SystemTime) -> anyhow::Result<()> {
    let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let started = Instant::now();
    loop {
        // The try's container may answer until the kubelet stops it; one that the kubelet never replaced is let through after a while.
        let settled = started.elapsed() > Duration::from_secs(20);
        let running = runtime.containers().await?.into_iter().any(|one| {
            one.name() == component && one.is_running() && (settled || u128::try_from(one.created_at).unwrap_or(0) > since)
        });
        if running && is_well(server, component).await {
            return Ok(());
        }
        if started.elapsed() > timeout {
            bail!("{}", diagnose::component(Some(runtime), component).await);
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_joined_etcd_are_kept() {
        let manifest = "spec:\n  containers:\n  - command:\n    - etcd\n    - --initial-cluster=a=https://1:2380,b=https://2:2380\n    - --initial-cluster-state=existing\n";
        assert_eq!(members_of(manifest), [("a".into(), "https://1:2380".into()), ("b".into(), "https://2:2380".into())]);
        assert!(members_of("spec:\n  containers:\n  - command: [etcd, '--initial-cluster=a=https://1:2380']\n").is_empty());
    }
}
