//! `rkadm etcd`: state, members, snapshots and their restoration. Ours: kubeadm leaves this to etcdctl.

mod schedule;
mod seal;

use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use pki::Files;
use sha2::{Digest as _, Sha256};

use crate::cri::{DEFAULT_SOCKET, Runtime};
use crate::{host, manifest, say};
use schedule::Schedule;

/// Where snapshots go when nothing else is said.
pub const SNAPSHOT_DIR: &str = "/var/lib/etcd-snapshots";
const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub struct EtcdArgs {
    #[command(subcommand)]
    command: EtcdCommand,
    /// The path where the certificates are
    #[arg(long, global = true, default_value = "/etc/kubernetes/pki")]
    cert_dir: PathBuf,
    /// etcd's client URLs
    #[arg(long, global = true, value_delimiter = ',', default_value = "https://127.0.0.1:2379")]
    endpoints: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum EtcdCommand {
    /// Version, size, leader and alarms of a member
    Status,
    /// Give free space inside the database back to the disk
    Defrag,
    /// List, remove or replace members
    #[command(subcommand)]
    Member(MemberCommand),
    /// Clear alarms (a database that is over its quota takes no writes until compacted, defragmented and disarmed)
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Save, list, verify and restore snapshots
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// List the members of the cluster
    List,
    /// Remove a member by its id (hexadecimal, as `list` prints it) or its name
    Remove { id: String },
    /// Give this host's member its data anew from the other members: for a member whose data is lost or damaged
    Replace,
}

#[derive(Debug, Subcommand)]
enum AlarmCommand {
    /// List the alarms of all members
    List,
    /// Compact the history, defragment every member and disarm all alarms
    Disarm,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Save the whole database to a file
    Save {
        /// The file; without, one with the date in its name below /var/lib/etcd-snapshots
        file: Option<PathBuf>,
        /// Keep only this many files in the directory
        #[arg(long)]
        keep: Option<usize>,
        /// Encrypt with the key (32 bytes, hexadecimal) in this file
        #[arg(long)]
        key_file: Option<PathBuf>,
    },
    /// Save snapshots from time to time, by a daemon of this host (`--stop` ends it)
    Schedule {
        /// The time between two
        #[arg(long, value_parser = component::duration::parse, default_value = "6h")]
        every: Duration,
        /// Keep this many
        #[arg(long, default_value_t = 8)]
        keep: usize,
        #[arg(long, default_value = SNAPSHOT_DIR)]
        dir: PathBuf,
        /// Encrypt with the key (32 bytes, hexadecimal) in this file
        #[arg(long)]
        key_file: Option<PathBuf>,
        /// End the schedule of this host
        #[arg(long)]
        stop: bool,
        /// Be the daemon
        #[arg(long, hide = true)]
        run: bool,
    },
    /// List the snapshots of a directory
    List {
        #[arg(default_value = SNAPSHOT_DIR)]
        dir: PathBuf,
    },
    /// Check a snapshot's checksum
    Verify {
        file: PathBuf,
        /// The key (32 bytes, hexadecimal) that it is encrypted with
        #[arg(long)]
        key_file: Option<PathBuf>,
    },
    /// Put a snapshot in the place of this host's data. The control plane stops meanwhile; the old data is kept beside
    Restore {
        file: PathBuf,
        /// Restore into another directory and change nothing else
        #[arg(long)]
        data_dir: Option<PathBuf>,
        /// Restore even though other members exist (they must be restored from the same snapshot)
        #[arg(long)]
        force: bool,
        /// The key (32 bytes, hexadecimal) that it is encrypted with
        #[arg(long)]
        key_file: Option<PathBuf>,
    },
}

pub async fn run(args: EtcdArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    let files = rootfs.map_or_else(Files::host, Files::below);
    let connect = || crate::etcd::connect(&files, &args.cert_dir, &args.endpoints, TIMEOUT);
    match args.command {
        EtcdCommand::Status => {
            let mut client = connect().await?;
            let status = client.status().await.context("etcd does not answer")?;
            let members = client.member_list().await?;
            let leader =
                members.members().iter().find(|member| member.id() == status.leader()).map_or("none", |member| member.name());
            println!(
                "version {}, database {}, leader {leader}, raft term {}",
                status.version(),
                bytes(status.db_size()),
                status.raft_term()
            );
            if !status.errors().is_empty() {
                println!("errors: {}", status.errors().join(", "));
            }
            let alarms = alarms(&mut client).await?;
            if !alarms.is_empty() {
                println!("alarms: {}; see `rkadm etcd alarm disarm`", alarms.join(", "));
            }
            println!("{} members", members.members().len());
            Ok(())
        }
        EtcdCommand::Defrag => {
            let mut client = connect().await?;
            let before = client.status().await?.db_size();
            client.defragment().await.context("etcd could not defragment")?;
            println!("{} before, {} now", bytes(before), bytes(client.status().await?.db_size()));
            Ok(())
        }
        EtcdCommand::Member(MemberCommand::List) => {
            let list = connect().await?.member_list().await?;
            let mut rows = vec![["ID", "NAME", "PEER URLS", "CLIENT URLS"].map(str::to_string).to_vec()];
            for member in list.members() {
                let name = if member.name().is_empty() { "<not started>" } else { member.name() };
                rows.push(vec![
                    format!("{:x}", member.id()),
                    name.into(),
                    member.peer_urls().join(","),
                    member.client_urls().join(","),
                ]);
            }
            print!("{}", super::token::table(rows));
            Ok(())
        }
        EtcdCommand::Alarm(AlarmCommand::List) => {
            alarms(&mut connect().await?).await?.iter().for_each(|alarm| println!("{alarm}"));
            Ok(())
        }
        EtcdCommand::Alarm(AlarmCommand::Disarm) => disarm(&files, &args.cert_dir, &mut connect().await?).await,
        EtcdCommand::Member(MemberCommand::Replace) => replace(&files, &args.cert_dir).await,
        EtcdCommand::Member(MemberCommand::Remove { id }) => {
            let mut client = connect().await?;
            let list = client.member_list().await?;
            let named = list.members().iter().find(|member| member.name() == id).map(etcd_client::Member::id);
            let number = named
                .map_or_else(|| u64::from_str_radix(&id, 16), Ok)
                .with_context(|| format!("{id:?} is neither a name nor an id as `rkadm etcd member list` prints them"))?;
            client.member_remove(number).await.with_context(|| format!("etcd did not remove the member {id}"))?;
            println!("member {id} removed");
            Ok(())
        }
        EtcdCommand::Snapshot(SnapshotCommand::Schedule { every, keep, dir, key_file, stop, run }) => {
            let schedule = Schedule { every, keep: keep.max(1), dir, key_file };
            match (stop, run) {
                (true, _) => schedule::stop().await,
                (false, false) => schedule.start(&args.cert_dir, &args.endpoints).await,
                (false, true) => schedule.run(&files, &args.cert_dir, &args.endpoints).await,
            }
        }
        EtcdCommand::Snapshot(SnapshotCommand::Save { file, keep, key_file }) => {
            let file = file.unwrap_or_else(|| Path::new(SNAPSHOT_DIR).join(default_name()));
            let size = save_sealed(&mut connect().await?, &file, key_file.as_deref()).await?;
            println!("Snapshot saved at {} ({})", file.display(), bytes(size.cast_signed()));
            if let Some(keep) = keep {
                rotate(file.parent().unwrap_or(Path::new(".")), keep.max(1))?;
            }
            Ok(())
        }
        EtcdCommand::Snapshot(SnapshotCommand::List { dir }) => {
            let mut rows = vec![["FILE", "SIZE", "CHECKSUM"].map(str::to_string).to_vec()];
            for file in snapshots(&dir)? {
                let size = std::fs::metadata(&file)?.len();
                if seal::is_sealed(&file) {
                    rows.push(vec![file.display().to_string(), bytes(size.cast_signed()), "encrypted".into()]);
                    continue;
                }
                let good = verify(&file).map_or_else(|error| format!("{error:#}"), |_| "good".into());
                rows.push(vec![file.display().to_string(), bytes(size.cast_signed()), good]);
            }
            print!("{}", super::token::table(rows));
            Ok(())
        }
        EtcdCommand::Snapshot(SnapshotCommand::Verify { file, key_file }) => {
            verify(&opened(&file, key_file.as_deref())?.path)?;
            println!("{}: the checksum is good", file.display());
            Ok(())
        }
        EtcdCommand::Snapshot(SnapshotCommand::Restore { file, data_dir, force, key_file }) => {
            let opened = opened(&file, key_file.as_deref())?;
            restore(&files, &opened.path, data_dir, force).await
        }
    }
}

/// Alarms by member.
async fn alarms(client: &mut etcd_client::Client) -> anyhow::Result<Vec<String>> {
    let answer =
        client.alarm(etcd_client::AlarmAction::Get, etcd_client::AlarmType::None, None).await.context("etcd does not answer")?;
    Ok(answer.alarms().iter().map(|alarm| format!("{:?} of member {:x}", alarm.alarm(), alarm.member_id())).collect())
}

/// Room in the database, then writes again: compaction, defragmentation of every member, alarms off.
async fn disarm(files: &Files, cert_dir: &Path, client: &mut etcd_client::Client) -> anyhow::Result<()> {
    let revision = client.status().await?.header().map_or(0, etcd_client::ResponseHeader::revision);
    match client.compact(revision, None).await {
        Ok(_) => println!("compacted up to revision {revision}"),
        Err(error) if error.to_string().contains("compacted") => {}
        Err(error) => return Err(error).context("etcd could not compact its history"),
    }
    for member in client.member_list().await?.members() {
        let mut one = crate::etcd::connect(files, cert_dir, member.client_urls(), TIMEOUT).await?;
        let before = one.status().await?.db_size();
        one.defragment().await.with_context(|| format!("{} could not defragment", member.name()))?;
        println!("{}: {} before, {} now", member.name(), bytes(before), bytes(one.status().await?.db_size()));
    }
    client
        .alarm(etcd_client::AlarmAction::Deactivate, etcd_client::AlarmType::Nospace, None)
        .await
        .context("etcd did not disarm")?;
    println!("alarms disarmed");
    Ok(())
}

/// This host's member again, empty: out of the cluster, its data aside, in again as a learner, promoted.
async fn replace(files: &Files, cert_dir: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    let own = member(files)?;
    let others: Vec<String> = own
        .initial_cluster
        .split(',')
        .filter_map(|part| part.split_once('='))
        .filter(|(_, url)| *url != own.peer)
        .map(|(_, url)| url.replace(":2380", ":2379"))
        .collect();
    let mut known = others.clone();
    // Members that came later are not in this one's manifest, but in the API server's pods.
    if let Ok(api) = crate::apply::Api::connect(Path::new(crate::node::ADMIN), Duration::from_secs(2)).await
        && let Ok(Ok(found)) = tokio::time::timeout(Duration::from_secs(5), crate::etcd::endpoints(&api, Some(&own.name))).await
    {
        known.extend(found);
    }
    if known.is_empty() {
        bail!("this host's member is the only one: there is nobody to get the data from; restore a snapshot instead");
    }
    let mut client = crate::etcd::connect(files, cert_dir, &known, TIMEOUT).await?;
    let held = hold(files, &["etcd"])?;
    let result = async {
        let runtime = Runtime::connect(DEFAULT_SOCKET).await?;
        wait_gone(&runtime, &["etcd"]).await?;
        crate::etcd::remove(&mut client, &own.peer).await?;
        let old = aside(&own.data_dir)?;
        say::phase("etcd", &format!("The member {} is out of the cluster; its old data is in {}", own.name, old.display()));
        let (id, members) = crate::etcd::add_learner(&mut client, &own.name, &own.peer, TIMEOUT * 3).await?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&own.data_dir)?;
        std::fs::set_permissions(&own.data_dir, std::fs::Permissions::from_mode(0o700))?;
        anyhow::Ok((id, members))
    }
    .await;
    if let Ok((_, members)) = &result {
        let path = Path::new(HELD).join("etcd.yaml");
        let text = files.read(&path)?.context("etcd's manifest is gone")?;
        let mut pod: serde_json::Value = serde_yaml::from_slice(&text)?;
        let list: Vec<String> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
        if let Some(flags) = pod["spec"]["containers"][0]["command"].as_array_mut() {
            flags.retain(|flag| !flag.as_str().is_some_and(|flag| flag.starts_with("--initial-cluster")));
            flags.push(format!("--initial-cluster={}", list.join(",")).into());
            flags.push("--initial-cluster-state=existing".into());
        }
        Files::host().write(&path, pki::files::SECRET, crate::config::yaml(&pod)?)?;
    }
    held.release()?;
    let (id, members) = result?;
    crate::etcd::promote(&mut client, id, TIMEOUT * 9).await?;
    say::phase("etcd", &format!("{} is a member again, one of {} {}", own.name, members.len(), say::took(started)));
    Ok(())
}

/// A plain snapshot: the file itself, or a decrypted copy that goes with this value.
struct Opened {
    path: PathBuf,
    _copy: Option<tempfile::TempDir>,
}

fn opened(file: &Path, key_file: Option<&Path>) -> anyhow::Result<Opened> {
    if !seal::is_sealed(file) {
        return Ok(Opened { path: file.to_path_buf(), _copy: None });
    }
    let key = seal::key(key_file.with_context(|| format!("{} is encrypted: --key-file says where the key is", file.display()))?)?;
    // Beside the snapshot: there is room for it, and nobody else may look there.
    let dir = tempfile::TempDir::new_in(file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    let path = dir.path().join("plain.db");
    let mut output = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
    seal::open(&key, &mut std::fs::File::open(file)?, &mut output).with_context(|| format!("cannot open {}", file.display()))?;
    Ok(Opened { path, _copy: Some(dir) })
}

/// [`save`], encrypted where there is a key.
async fn save_sealed(client: &mut etcd_client::Client, file: &Path, key_file: Option<&Path>) -> anyhow::Result<u64> {
    let Some(key_file) = key_file else { return save(client, file).await };
    let key = seal::key(key_file)?;
    let plain = file.with_extension("db.plain");
    let result = async {
        let size = save(client, &plain).await?;
        let part = file.with_extension("db.part");
        let mut output = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
        seal::seal(&key, &mut std::fs::File::open(&plain)?, &mut output)?;
        output.sync_all()?;
        std::fs::rename(&part, file)?;
        anyhow::Ok(size)
    }
    .await;
    let _ = std::fs::remove_file(&plain);
    result.with_context(|| format!("cannot save an encrypted snapshot to {}", file.display()))
}

fn default_name() -> String {
    format!("etcd-{}.db", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"))
}

/// Streams a snapshot to a file; it has its name only once it is whole, on disk and its checksum is good.
pub async fn save(client: &mut etcd_client::Client, file: &Path) -> anyhow::Result<u64> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The database holds every Secret.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let result = async {
        let mut out = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
        let mut stream = client.snapshot().await.context("etcd gives no snapshot")?;
        let mut size = 0;
        while let Some(chunk) = stream.message().await.context("the snapshot broke off")? {
            out.write_all(chunk.blob())?;
            size += chunk.blob().len() as u64;
        }
        out.sync_all()?;
        verify(&part)?;
        std::fs::rename(&part, file)?;
        anyhow::Ok(size)
    }
    .await;
    if result.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    result.with_context(|| format!("cannot save a snapshot to {}", file.display()))
}

/// etcd appends the SHA-256 of the database to a snapshot; the database itself is made of 512-byte multiples.
pub fn verify(file: &Path) -> anyhow::Result<()> {
    const HASH: u64 = 32;
    let mut input = std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let size = input.metadata()?.len();
    if size <= HASH || size % 512 != HASH {
        bail!(
            "{} is not a whole etcd snapshot ({size} bytes): it is cut off, or a copy of a data directory's file",
            file.display()
        );
    }
    let mut hasher = Sha256::new();
    let mut left = size - HASH;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let want = usize::try_from(left.min(buffer.len() as u64)).unwrap_or(buffer.len());
        input.read_exact(&mut buffer[..want])?;
        hasher.update(&buffer[..want]);
        left -= want as u64;
    }
    let mut wanted = [0; 32];
    input.seek(std::io::SeekFrom::End(-32))?;
    input.read_exact(&mut wanted)?;
    if hasher.finalize().as_slice() != wanted {
        bail!("{} is damaged: its checksum does not match", file.display());
    }
    Ok(())
}

fn snapshots(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let mut list: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "db")).collect();
    list.sort();
    Ok(list)
}

/// Removes the oldest of our own snapshots (names with a date) until `keep` are left.
fn rotate(dir: &Path, keep: usize) -> anyhow::Result<()> {
    let own = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("etcd-"));
    let mut list: Vec<_> = snapshots(dir)?.into_iter().filter(own).collect();
    let surplus = list.len().saturating_sub(keep);
    for old in list.drain(..surplus) {
        std::fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        println!("Removed {}", old.display());
    }
    Ok(())
}

/// What `etcdctl snapshot restore` needs to know of this host's member.
struct Member {
    image: String,
    name: String,
    peer: String,
    data_dir: PathBuf,
    initial_cluster: String,
}

fn member(files: &Files) -> anyhow::Result<Member> {
    // Held: a restore was cut off before it put the manifests back.
    let text = match files.read(manifest::path("etcd"))? {
        Some(text) => Some(text),
        None => files.read(Path::new(HELD).join("etcd.yaml"))?,
    };
    let text = text.context("this host has no /etc/kubernetes/manifests/etcd.yaml: run this on a control-plane node")?;
    let pod: serde_json::Value = serde_yaml::from_slice(&text).context("in /etc/kubernetes/manifests/etcd.yaml")?;
    let container = &pod["spec"]["containers"][0];
    let flag = |name: &str| -> anyhow::Result<String> {
        let flags = container["command"].as_array().into_iter().flatten().filter_map(|flag| flag.as_str());
        let mut values = flags.filter_map(|flag| flag.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='));
        Ok(values.next().with_context(|| format!("etcd's manifest has no --{name}"))?.to_string())
    };
    Ok(Member {
        image: container["image"].as_str().unwrap_or_default().to_string(),
        name: flag("name")?,
        peer: flag("initial-advertise-peer-urls")?,
        data_dir: flag("data-dir")?.into(),
        initial_cluster: flag("initial-cluster")?,
    })
}

/// Puts a snapshot in the place of this host's data, with the API server and etcd stopped meanwhile; the old data stays beside.
pub async fn restore(files: &Files, file: &Path, data_dir: Option<PathBuf>, force: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    verify(file)?;
    let member = member(files)?;
    if let Some(dir) = data_dir {
        restore_into(&member, file, &dir).await?;
        println!("Restored {} into {} {}", file.display(), dir.display(), say::took(started));
        println!("Point the volume etcd-data in {} to it to use it", manifest::path("etcd"));
        return Ok(());
    }
    let others = member.initial_cluster.split(',').filter(|part| !part.is_empty()).count() > 1;
    if others && !force {
        bail!(
            "etcd has other members ({}): restore every one of them from the same snapshot (with --force), all stopped before the first starts",
            member.initial_cluster
        );
    }
    let runtime = Runtime::connect(DEFAULT_SOCKET).await?;
    // Clients hold revisions of today's history; the restored one must have passed them before they come back.
    let endpoints = ["https://127.0.0.1:2379".to_string()];
    let pki = pki_dir(files);
    let known = async {
        let mut client = crate::etcd::connect(files, &pki, &endpoints, Duration::from_secs(3)).await.ok()?;
        Some(client.status().await.ok()?.header()?.revision())
    };
    let seen = tokio::time::timeout(Duration::from_secs(5), known).await.ok().flatten();
    // Whoever writes while the data changes would be surprised: API server first, then etcd.
    let held = hold(files, &["kube-apiserver", "etcd"])?;
    let result = async {
        wait_gone(&runtime, &["kube-apiserver", "etcd"]).await?;
        say::phase("etcd", "Stopped the API server and etcd");
        let old = aside(&member.data_dir)?;
        match restore_into(&member, file, &member.data_dir).await {
            Ok(()) => {
                say::phase("etcd", &format!("Restored the data; the old data is in {}", old.display()));
                Ok(())
            }
            Err(error) => {
                let _ = std::fs::remove_dir_all(&member.data_dir);
                std::fs::rename(&old, &member.data_dir).context("cannot put the old data back")?;
                Err(error.context("the old data is in place again"))
            }
        }
    }
    .await;
    let result = match result {
        Ok(()) => {
            held.release_one("etcd")?;
            async {
                wait_healthy().await?;
                // Other members that are restored as well bring the quorum later: then the API servers notice by themselves.
                if !others {
                    let mut client = crate::etcd::connect(files, &pki, &endpoints, TIMEOUT).await?;
                    pass_revisions(&mut client, seen).await?;
                }
                anyhow::Ok(())
            }
            .await
        }
        failed => failed,
    };
    held.release()?;
    result?;
    say::phase("etcd", &format!("etcd runs on the restored data; the API server follows {}", say::took(started)));
    Ok(())
}

/// Where manifests are while a restore is at work.
pub const HELD: &str = "/etc/kubernetes/rk-held";

/// Revisions that are passed where the lost history's end is not known, because etcd did not run any more.
const PASS_BLINDLY: i64 = 1_000;
/// More are not passed: they cost a millisecond each.
const PASS_MOST: i64 = 50_000;

/// Writes until the revision is beyond `seen`, to a key that the API server uses for the same end.
async fn pass_revisions(client: &mut etcd_client::Client, seen: Option<i64>) -> anyhow::Result<()> {
    let at = client.status().await.context("etcd does not answer")?.header().map_or(0, etcd_client::ResponseHeader::revision);
    let goal = seen.unwrap_or(at + PASS_BLINDLY);
    let missing = (goal + 1 - at).clamp(0, PASS_MOST);
    let writes = futures::StreamExt::map(futures::stream::iter(0..missing), |_| {
        let mut client = client.clone();
        async move { client.put("/registry/rk-progress", "{}", None).await }
    });
    let results: Vec<_> = futures::StreamExt::collect(futures::StreamExt::buffer_unordered(writes, 64)).await;
    results.into_iter().collect::<Result<Vec<_>, _>>().context("etcd takes no writes")?;
    Ok(())
}

/// Where the certificates are, by etcd's manifest.
fn pki_dir(files: &Files) -> PathBuf {
    let text =
        files.read(manifest::path("etcd")).ok().flatten().or_else(|| files.read(Path::new(HELD).join("etcd.yaml")).ok()?);
    let pod: serde_json::Value = serde_yaml::from_slice(&text.unwrap_or_default()).unwrap_or_default();
    let flags = pod["spec"]["containers"][0]["command"].as_array().cloned().unwrap_or_default();
    let ca = flags.iter().find_map(|flag| Some(PathBuf::from(flag.as_str()?.strip_prefix("--trusted-ca-file=")?)));
    ca.and_then(|ca| Some(ca.parent()?.parent()?.to_path_buf())).unwrap_or_else(|| "/etc/kubernetes/pki".into())
}

/// Manifests that are out of the kubelet's sight for a while.
pub struct Held(Vec<(PathBuf, PathBuf)>);

/// Moves manifests out of the kubelet's directory, so that their pods stop.
pub fn hold(files: &Files, components: &[&str]) -> anyhow::Result<Held> {
    let dir = Path::new(HELD);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let mut held = Held(Vec::new());
    for component in components {
        let from = files.real(Path::new(&manifest::path(component)));
        let to = dir.join(format!("{component}.yaml"));
        if from.exists() {
            std::fs::rename(&from, &to).with_context(|| format!("cannot move {}", from.display()))?;
        }
        // One that is there from an interrupted run is put back as well.
        if to.exists() {
            held.0.push((from, to));
        }
    }
    Ok(held)
}

impl Held {
    /// Puts one manifest back.
    fn release_one(&self, component: &str) -> anyhow::Result<()> {
        for (from, to) in self.0.iter().filter(|(from, to)| to.exists() && from.ends_with(format!("{component}.yaml"))) {
            std::fs::rename(to, from).with_context(|| format!("cannot put {} back from {}", from.display(), to.display()))?;
        }
        Ok(())
    }

    /// Puts the manifests back, the last one first: etcd before the API server.
    pub fn release(self) -> anyhow::Result<()> {
        for (from, to) in self.0.into_iter().rev().filter(|(_, to)| to.exists()) {
            std::fs::rename(&to, &from).with_context(|| format!("cannot put {} back from {}", from.display(), to.display()))?;
        }
        let _ = std::fs::remove_dir(HELD);
        Ok(())
    }
}

/// Until no container of these components runs.
pub async fn wait_gone(runtime: &Runtime, components: &[&str]) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let running = runtime
            .containers()
            .await?
            .into_iter()
            .any(|container| container.is_running() && components.contains(&container.name()));
        if !running {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(90) {
            bail!("the pods of {} do not stop: does the kubelet run?", components.join(" and "));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wait_healthy() -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        if let Ok(answer) = crate::https::get_plain("127.0.0.1:2381", "/health", Duration::from_secs(2)).await
            && answer.status == 200
        {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(120) {
            bail!("etcd is not healthy on the restored data: {}", crate::diagnose::component(None, "etcd").await);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Renames a data directory; returns its new name. One that is not there is fine.
fn aside(dir: &Path) -> anyhow::Result<PathBuf> {
    let old = PathBuf::from(format!("{}.before-{}", dir.display(), jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ")));
    if !dir.exists() {
        return Ok(old);
    }
    match std::fs::rename(dir, &old) {
        Ok(()) => Ok(old),
        // A mount point cannot be renamed: its content can be moved into a directory inside.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) || error.kind() == std::io::ErrorKind::CrossesDevices => {
            let inside = dir.join(".before-restore");
            let _ = std::fs::remove_dir_all(&inside);
            std::fs::create_dir(&inside)?;
            for entry in std::fs::read_dir(dir)?.flatten() {
                if entry.file_name() != ".before-restore" {
                    std::fs::rename(entry.path(), inside.join(entry.file_name()))?;
                }
            }
            Ok(inside)
        }
        Err(error) => Err(error).with_context(|| format!("cannot move {} aside", dir.display())),
    }
}

/// `etcdctl snapshot restore` (`etcdutl` from 3.6 on): the host's, or the one in etcd's image.
async fn restore_into(member: &Member, file: &Path, dir: &Path) -> anyhow::Result<()> {
    // Restored beside and moved in, because the tool wants to make the directory itself.
    let parent = if dir.exists() { dir.to_path_buf() } else { dir.parent().unwrap_or(Path::new("/")).to_path_buf() };
    let fresh = parent.join(".rk-restore");
    let _ = std::fs::remove_dir_all(&fresh);
    let peer_name = format!("{}={}", member.name, member.peer);
    let cluster = if member.initial_cluster.contains(&peer_name) { member.initial_cluster.clone() } else { peer_name };
    let file = std::path::absolute(file)?;
    let mut args: Vec<String> = ["snapshot", "restore"].map(str::to_string).to_vec();
    args.push(file.display().to_string());
    args.extend([
        format!("--name={}", member.name),
        format!("--initial-cluster={cluster}"),
        format!("--initial-advertise-peer-urls={}", member.peer),
        "--initial-cluster-token=etcd-cluster".into(),
        format!("--data-dir={}", fresh.display()),
    ]);
    let mut command = match host::find_program("etcdutl").or_else(|| host::find_program("etcdctl")) {
        Some(tool) => tokio::process::Command::new(tool),
        None => in_image(&member.image, &[&parent, file.parent().unwrap_or(Path::new("/"))])?,
    };
    let output = command.args(&args).env("ETCDCTL_API", "3").output().await.context("running etcdctl")?;
    if !output.status.success() {
        let _ = std::fs::remove_dir_all(&fresh);
        bail!("etcdctl could not restore {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    std::fs::rename(fresh.join("member"), dir.join("member")).context("cannot put the restored data in its place")?;
    let _ = std::fs::remove_dir_all(&fresh);
    Ok(())
}

/// A command that runs etcd's image with directories of the host in it.
fn in_image(image: &str, dirs: &[&Path]) -> anyhow::Result<tokio::process::Command> {
    let ctr = host::find_program("ctr").context("neither etcdctl nor ctr is installed: apt-get install etcd-client")?;
    let mut command = tokio::process::Command::new(ctr);
    command.args(["--namespace", "k8s.io", "run", "--rm"]);
    for dir in dirs {
        command.arg("--mount").arg(format!("type=bind,src={0},dst={0},options=rbind:rw", dir.display()));
    }
    command.args([image, &format!("rk-restore-{}", std::process::id()), "etcdctl"]);
    Ok(command)
}

fn bytes(size: i64) -> String {
    let size = size as f64;
    if size >= 1e6 { format!("{:.1} MB", size / 1e6) } else { format!("{:.1} kB", size / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_and_cut_snapshots_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.db");
        let body = vec![7_u8; 4096];
        let whole = [body.as_slice(), Sha256::digest(&body).as_slice()].concat();
        std::fs::write(&file, &whole).unwrap();
        verify(&file).unwrap();
        let mut flipped = whole.clone();
        flipped[100] ^= 1;
        std::fs::write(&file, &flipped).unwrap();
        assert!(verify(&file).unwrap_err().to_string().contains("damaged"));
        std::fs::write(&file, &whole[..4000]).unwrap();
        assert!(verify(&file).unwrap_err().to_string().contains("not a whole"));
        assert!(verify(Path::new("/no/such")).is_err());
    }

    #[test]
    fn only_our_oldest_are_rotated_away() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["etcd-1.db", "etcd-2.db", "etcd-3.db", "mine.db"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        rotate(dir.path(), 1).unwrap();
        let left: Vec<_> =
            snapshots(dir.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(left, ["etcd-3.db", "mine.db"]);
    }
}
