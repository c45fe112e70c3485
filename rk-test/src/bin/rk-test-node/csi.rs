//! A CSI driver whose volumes are directories, bound where they are wanted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod v1 {
    tonic::include_proto!("csi.v1");
}
#[allow(missing_docs, clippy::all, unreachable_pub)]
mod registration {
    tonic::include_proto!("pluginregistration");
}

use registration::registration_server::{Registration, RegistrationServer};
use registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use v1::identity_server::{Identity, IdentityServer};
use v1::node_server::{Node, NodeServer};
use v1::*;

#[derive(clap::Args, Clone)]
pub(crate) struct Arguments {
    /// The driver's name.
    #[arg(long, default_value = "csi.rk.test")]
    name: String,
    /// The kubelet's directory.
    #[arg(long, default_value = "/var/lib/kubelet")]
    kubelet: PathBuf,
    /// This node's name to the driver.
    #[arg(long, default_value = "node")]
    node: String,
    /// Volumes that this node can take, 0 for any number.
    #[arg(long, default_value_t = 0)]
    max_volumes: i64,
}

type Answer<T> = Result<Response<T>, Status>;

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let dir = arguments.kubelet.join("plugins").join(&arguments.name);
    std::fs::create_dir_all(dir.join("data"))?;
    let registry = arguments.kubelet.join("plugins_registry");
    std::fs::create_dir_all(&registry)?;
    let sockets = (dir.join("csi.sock"), registry.join(format!("{}-reg.sock", arguments.name)));
    for socket in [&sockets.0, &sockets.1] {
        // Of an earlier run.
        let _ = std::fs::remove_file(socket);
    }
    let driver = Driver { data: dir.join("data"), arguments: arguments.clone() };
    let listener = UnixListener::bind(&sockets.0)?;
    let serve = tonic::transport::Server::builder()
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(NodeServer::new(driver))
        .serve_with_incoming(UnixListenerStream::new(listener));
    let register = Register { name: arguments.name.clone(), endpoint: sockets.0.display().to_string() };
    let listener = UnixListener::bind(&sockets.1)?;
    let announce = tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(register))
        .serve_with_incoming(UnixListenerStream::new(listener));
    println!("serving CSI driver {}", arguments.name);
    tokio::try_join!(serve, announce)?;
    Ok(())
}

struct Register {
    name: String,
    endpoint: String,
}

#[tonic::async_trait]
impl Registration for Register {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(&self, request: Request<RegistrationStatus>) -> Answer<RegistrationStatusResponse> {
        let status = request.into_inner();
        println!("registered {} {}", status.plugin_registered, status.error);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[derive(Clone)]
struct Driver {
    data: PathBuf,
    arguments: Arguments,
}

impl Driver {
    fn volume(&self, handle: &str) -> Result<PathBuf, Status> {
        if handle.is_empty() || handle.contains('/') || handle.starts_with('.') {
            return Err(Status::invalid_argument("bad volume id"));
        }
        Ok(self.data.join(handle))
    }
}

fn words(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

fn bind(from: &Path, to: &Path, read_only: bool) -> Result<(), Status> {
    if is_mounted(to) {
        return Ok(());
    }
    std::fs::create_dir_all(to).map_err(words)?;
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(words)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, to, None::<&str>, flags, None::<&str>).map_err(words)?;
    }
    Ok(())
}

fn unbind(path: &Path) -> Result<(), Status> {
    if is_mounted(path) {
        umount2(path, MntFlags::UMOUNT_NOFOLLOW).map_err(words)?;
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(words(error)),
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(&self, _: Request<GetPluginInfoRequest>) -> Answer<GetPluginInfoResponse> {
        let name = self.arguments.name.clone();
        Ok(Response::new(GetPluginInfoResponse { name, vendor_version: "1".into(), manifest: HashMap::new() }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Answer<ProbeResponse> {
        Ok(Response::new(ProbeResponse {}))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(&self, request: Request<NodeStageVolumeRequest>) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        println!("stage {} context={:?} secrets={}", request.volume_id, request.publish_context, request.secrets.len());
        let volume = self.volume(&request.volume_id)?;
        std::fs::create_dir_all(&volume).map_err(words)?;
        bind(&volume, Path::new(&request.staging_target_path), false)?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(&self, request: Request<NodeUnstageVolumeRequest>) -> Answer<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        println!("unstage {}", request.volume_id);
        unbind(Path::new(&request.staging_target_path))?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(&self, request: Request<NodePublishVolumeRequest>) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        println!("publish {} readonly={}", request.volume_id, request.readonly);
        let volume = self.volume(&request.volume_id)?;
        let ephemeral = request.volume_context.get("csi.storage.k8s.io/ephemeral").is_some_and(|text| text == "true");
        let from = if request.staging_target_path.is_empty() { volume } else { PathBuf::from(&request.staging_target_path) };
        std::fs::create_dir_all(&from).map_err(words)?;
        if ephemeral || request.volume_context.contains_key("csi.storage.k8s.io/pod.name") {
            let mut lines: Vec<String> = request.volume_context.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            lines.sort();
            std::fs::write(from.join("context"), lines.concat()).map_err(words)?;
        }
        bind(&from, Path::new(&request.target_path), request.readonly)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(&self, request: Request<NodeUnpublishVolumeRequest>) -> Answer<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        println!("unpublish {}", request.volume_id);
        unbind(Path::new(&request.target_path))?;
        if request.volume_id.starts_with("csi-") {
            // It lived with its pod.
            let _ = std::fs::remove_dir_all(self.volume(&request.volume_id)?);
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(&self, request: Request<NodeGetVolumeStatsRequest>) -> Answer<NodeGetVolumeStatsResponse> {
        let stat = nix::sys::statvfs::statvfs(Path::new(&request.into_inner().volume_path)).map_err(words)?;
        let bytes = |blocks: u64| i64::try_from(blocks * stat.fragment_size()).unwrap_or(i64::MAX);
        let usage = VolumeUsage {
            available: bytes(stat.blocks_available()),
            total: bytes(stat.blocks()),
            used: bytes(stat.blocks() - stat.blocks_free()),
            unit: volume_usage::Unit::Bytes as i32,
        };
        Ok(Response::new(NodeGetVolumeStatsResponse { usage: vec![usage] }))
    }

    async fn node_expand_volume(&self, request: Request<NodeExpandVolumeRequest>) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
        println!("expand {} to {bytes}", request.volume_id);
        std::fs::write(self.volume(&request.volume_id)?.join("size"), bytes.to_string()).map_err(words)?;
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(&self, _: Request<NodeGetCapabilitiesRequest>) -> Answer<NodeGetCapabilitiesResponse> {
        use node_service_capability::{Rpc, Type, rpc};
        let can = [rpc::Type::StageUnstageVolume, rpc::Type::GetVolumeStats, rpc::Type::ExpandVolume];
        let capabilities =
            can.map(|can| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: can as i32 })) }).into_iter().collect();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        let segments = HashMap::from([(format!("topology.{}/node", self.arguments.name), self.arguments.node.clone())]);
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.arguments.node.clone(),
            max_volumes_per_node: self.arguments.max_volumes,
            accessible_topology: Some(Topology { segments }),
        }))
    }
}
