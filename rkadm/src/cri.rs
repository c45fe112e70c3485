//! The few calls of the container runtime interface that setting up and clearing a node take: version, images, sandboxes.
//!
//! The messages name only the fields that are used; protobuf skips the rest.
//! Upstream: k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

/// Where containerd listens, for commands that have no configuration at hand.
pub const DEFAULT_SOCKET: &str = crate::config::types::DEFAULT_CRI_SOCKET;

/// A connection to the runtime.
#[derive(Clone)]
pub struct Runtime(Channel);

#[derive(Clone, PartialEq, Message)]
pub struct VersionRequest {
    #[prost(string, tag = "1")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct VersionResponse {
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    #[prost(string, tag = "3")]
    pub runtime_version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    images: Vec<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, repeated, tag = "2")]
    repo_tags: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PodSandbox {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<PodSandboxMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxId {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct StopContainer {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(int64, tag = "2")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

/// One container, running or not.
#[derive(Clone, PartialEq, Message)]
pub struct Container {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<ContainerMetadata>,
    /// 0 created, 1 running, 2 exited, 3 unknown.
    #[prost(int32, tag = "6")]
    pub state: i32,
    #[prost(int64, tag = "7")]
    pub created_at: i64,
    #[prost(map = "string, string", tag = "8")]
    pub labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

impl Container {
    pub fn name(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
    }

    pub fn is_running(&self) -> bool {
        self.state == 1
    }
}

/// How long a runtime may take from listening to serving.
const INITIALIZED: Duration = Duration::from_secs(15);
/// How long one call may take; stopping a sandbox waits for its processes.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// `unix:///run/x.sock` as a path.
pub fn socket_path(socket: &str) -> PathBuf {
    PathBuf::from(socket.strip_prefix("unix://").unwrap_or(socket))
}

impl Runtime {
    /// Connects to a socket given as `unix:///path`.
    pub async fn connect(socket: &str) -> anyhow::Result<Runtime> {
        let path = socket_path(socket);
        let connect = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The authority must be a name that the runtime accepts; `localhost` is what kubelets send.
        let channel = Endpoint::from_static("http://localhost")
            .timeout(CALL_TIMEOUT)
            .connect_with_connector(connect)
            .await
            .with_context(|| format!("cannot connect to the container runtime at {socket}"))?;
        Ok(Runtime(channel))
    }

    async fn call<Q: Message + Clone + 'static, A: Message + Default + 'static>(
        &self,
        path: &'static str,
        request: Q,
    ) -> anyhow::Result<A> {
        let started = std::time::Instant::now();
        loop {
            let mut grpc = tonic::client::Grpc::new(self.0.clone());
            grpc.ready().await.context("the container runtime went away")?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let answer = grpc.unary(tonic::Request::new(request.clone()), PathAndQuery::from_static(path), codec).await;
            match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                // Right after a boot containerd listens before its CRI part is up.
                Err(status) if status.message().contains("not initialized yet") && started.elapsed() < INITIALIZED => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(status) => anyhow::bail!("{path}: {}", status.message()),
            }
        }
    }

    pub async fn version(&self) -> anyhow::Result<VersionResponse> {
        self.call("/runtime.v1.RuntimeService/Version", VersionRequest { version: "v1".into() }).await
    }

    /// Every tag that the runtime has.
    pub async fn image_tags(&self) -> anyhow::Result<Vec<String>> {
        let answer: ListImagesResponse = self.call("/runtime.v1.ImageService/ListImages", Empty {}).await?;
        Ok(answer.images.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    pub async fn containers(&self) -> anyhow::Result<Vec<Container>> {
        let answer: ListContainersResponse = self.call("/runtime.v1.RuntimeService/ListContainers", Empty {}).await?;
        Ok(answer.containers)
    }

    pub async fn sandboxes(&self) -> anyhow::Result<Vec<PodSandbox>> {
        let answer: ListPodSandboxResponse = self.call("/runtime.v1.RuntimeService/ListPodSandbox", Empty {}).await?;
        Ok(answer.items)
    }

    /// Stops a container; the kubelet decides what comes after it.
    pub async fn stop_container(&self, id: &str) -> anyhow::Result<()> {
        let _: Empty =
            self.call("/runtime.v1.RuntimeService/StopContainer", StopContainer { container_id: id.into(), timeout: 30 }).await?;
        Ok(())
    }

    /// Stops and removes a sandbox with its containers.
    pub async fn remove_sandbox(&self, id: &str) -> anyhow::Result<()> {
        let _: Empty = self.call("/runtime.v1.RuntimeService/StopPodSandbox", SandboxId { pod_sandbox_id: id.into() }).await?;
        let _: Empty = self.call("/runtime.v1.RuntimeService/RemovePodSandbox", SandboxId { pod_sandbox_id: id.into() }).await?;
        Ok(())
    }
}

/// Whether something listens at the socket.
pub fn is_listening(socket: &str) -> bool {
    std::os::unix::net::UnixStream::connect(socket_path(socket)).is_ok()
}

/// `unix:///run/x.sock` for messages and commands that want a plain path.
pub fn plain(socket: &str) -> String {
    socket_path(socket).display().to_string()
}

/// Whether a path looks like a CRI socket on this host.
pub fn exists(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}
