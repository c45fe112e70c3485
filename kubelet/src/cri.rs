//! The container runtime, over CRI v1 on a unix socket.
//!
//! Every call has a deadline: a runtime that hangs costs one pod's worker its time, never the kubelet.
//! Upstream: staging/src/k8s.io/cri-client

mod metered;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Request, Status};

/// The generated messages and services of `proto/api.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

use metered::Metered;
use v1::image_service_client::ImageServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;

/// Largest answer read, bytes. Upstream: maxMsgSize, 16 MiB.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// A client of the runtime and of its image store. Cheap to clone; connects on first use and again after every loss.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Metered>,
    image: ImageServiceClient<Metered>,
    timeout: Duration,
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Status>;

fn channel(endpoint: &str) -> std::result::Result<Metered, String> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if !path.starts_with('/') {
        return Err(format!(
            "container runtime endpoint {endpoint:?} is not a unix socket (unix:///run/containerd/containerd.sock)"
        ));
    }
    let path = PathBuf::from(path);
    // The authority: containerd ≤ 1.6 refuses the socket's path as one.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(Duration::from_secs(3));
    Ok(Metered(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    }))))
}

impl Cri {
    /// Clients for `endpoint` and `image_endpoint` (the same where empty).
    ///
    /// # Errors
    /// An endpoint is not a unix socket.
    pub fn new(endpoint: &str, image_endpoint: &str, timeout: Duration) -> std::result::Result<Self, String> {
        let runtime = channel(endpoint)?;
        let image =
            if image_endpoint.is_empty() || image_endpoint == endpoint { runtime.clone() } else { channel(image_endpoint)? };
        Ok(Self {
            runtime: RuntimeServiceClient::new(runtime).max_decoding_message_size(MAX_MESSAGE_BYTES),
            image: ImageServiceClient::new(image).max_decoding_message_size(MAX_MESSAGE_BYTES),
            timeout,
        })
    }

    /// Names and versions of the runtime.
    pub async fn version(&self) -> Result<v1::VersionResponse> {
        let request = self.request(v1::VersionRequest { version: "v1".into() });
        Ok(self.runtime.clone().version(request).await?.into_inner())
    }

    /// Whether runtime and network are ready, and what the runtime can do.
    pub async fn status(&self, verbose: bool) -> Result<v1::StatusResponse> {
        Ok(self.runtime.clone().status(self.request(v1::StatusRequest { verbose })).await?.into_inner())
    }

    /// The cgroup driver, where the runtime tells (containerd ≥ 2.0).
    pub async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse> {
        Ok(self.runtime.clone().runtime_config(self.request(v1::RuntimeConfigRequest {})).await?.into_inner())
    }

    /// Tells the runtime the node's pod CIDR.
    pub async fn update_runtime_config(&self, pod_cidr: &str) -> Result<()> {
        let network = v1::NetworkConfig { pod_cidr: pod_cidr.into() };
        let config = v1::RuntimeConfig { network_config: Some(network) };
        self.runtime
            .clone()
            .update_runtime_config(self.request(v1::UpdateRuntimeConfigRequest { runtime_config: Some(config) }))
            .await?;
        Ok(())
    }

    /// Makes and starts a sandbox; its id. The network plugin may take its time: twice the usual deadline, as upstream.
    pub async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let mut request = Request::new(v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() });
        request.set_timeout(self.timeout * 2);
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Stops a sandbox and what is in it, at once.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = self.request(v1::StopPodSandboxRequest { pod_sandbox_id: id.into() });
        gone_is_fine(self.runtime.clone().stop_pod_sandbox(request).await.map(drop))
    }

    /// Removes a stopped sandbox.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = self.request(v1::RemovePodSandboxRequest { pod_sandbox_id: id.into() });
        gone_is_fine(self.runtime.clone().remove_pod_sandbox(request).await.map(drop))
    }

    /// Status of a sandbox, addresses included.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatusResponse> {
        let request = self.request(v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false });
        Ok(self.runtime.clone().pod_sandbox_status(request).await?.into_inner())
    }

    /// Sandboxes, all or those of one pod.
    pub async fn list_pod_sandboxes(&self, uid: Option<&str>) -> Result<Vec<v1::PodSandbox>> {
        let filter = uid.map(|uid| v1::PodSandboxFilter { label_selector: by_uid(uid), ..Default::default() });
        let request = self.request(v1::ListPodSandboxRequest { filter });
        Ok(self.runtime.clone().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// Makes a container in a sandbox; its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self.runtime.clone().create_container(self.request(request)).await?.into_inner().container_id)
    }

    /// Starts a made container.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        self.runtime.clone().start_container(self.request(v1::StartContainerRequest { container_id: id.into() })).await?;
        Ok(())
    }

    /// Stops a container: its stop signal, then SIGKILL after `grace`.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let mut request = Request::new(v1::StopContainerRequest { container_id: id.into(), timeout: grace.as_secs() as i64 });
        request.set_timeout(self.timeout + grace);
        gone_is_fine(self.runtime.clone().stop_container(request).await.map(drop))
    }

    /// Removes a stopped container.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let request = self.request(v1::RemoveContainerRequest { container_id: id.into() });
        gone_is_fine(self.runtime.clone().remove_container(request).await.map(drop))
    }

    /// Containers, all or those of one pod.
    pub async fn list_containers(&self, uid: Option<&str>) -> Result<Vec<v1::Container>> {
        let filter = uid.map(|uid| v1::ContainerFilter { label_selector: by_uid(uid), ..Default::default() });
        let request = self.request(v1::ListContainersRequest { filter });
        Ok(self.runtime.clone().list_containers(request).await?.into_inner().containers)
    }

    /// Status of a container; `NotFound` where it is gone.
    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let request = self.request(v1::ContainerStatusRequest { container_id: id.into(), verbose: false });
        let response = self.runtime.clone().container_status(request).await?.into_inner();
        response.status.ok_or_else(|| Status::not_found(format!("container {id} has no status")))
    }

    /// Changes the limits of a running container.
    pub async fn update_container_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()> {
        let request = v1::UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(linux), ..Default::default() };
        self.runtime.clone().update_container_resources(self.request(request)).await?;
        Ok(())
    }

    /// Runs a command to its end. `DeadlineExceeded` where it took longer than `timeout` (zero: the usual deadline).
    pub async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: Duration) -> Result<v1::ExecSyncResponse> {
        let mut request = Request::new(v1::ExecSyncRequest { container_id: id.into(), cmd, timeout: timeout.as_secs() as i64 });
        request.set_timeout(if timeout.is_zero() { self.timeout } else { timeout + Duration::from_secs(5) });
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }

    /// Where to stream a command's input and output.
    pub async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        Ok(self.runtime.clone().exec(self.request(request)).await?.into_inner().url)
    }

    /// Where to stream a running container's input and output.
    pub async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        Ok(self.runtime.clone().attach(self.request(request)).await?.into_inner().url)
    }

    /// Where to stream connections into a sandbox's network.
    pub async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String> {
        Ok(self.runtime.clone().port_forward(self.request(request)).await?.into_inner().url)
    }

    /// Makes the runtime open a container's log file anew.
    pub async fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.runtime
            .clone()
            .reopen_container_log(self.request(v1::ReopenContainerLogRequest { container_id: id.into() }))
            .await?;
        Ok(())
    }

    /// Usage of all containers.
    pub async fn list_container_stats(&self) -> Result<Vec<v1::ContainerStats>> {
        Ok(self
            .runtime
            .clone()
            .list_container_stats(self.request(v1::ListContainerStatsRequest::default()))
            .await?
            .into_inner()
            .stats)
    }

    /// A stream of what happens to containers; `Unimplemented` before containerd 1.7.
    pub async fn events(&self) -> Result<tonic::Streaming<v1::ContainerEventResponse>> {
        Ok(self.runtime.clone().get_container_events(Request::new(v1::GetEventsRequest {})).await?.into_inner())
    }

    /// All images.
    pub async fn list_images(&self) -> Result<Vec<v1::Image>> {
        Ok(self.image.clone().list_images(self.request(v1::ListImagesRequest::default())).await?.into_inner().images)
    }

    /// One image, `None` where it is absent.
    pub async fn image_status(&self, image: &str, handler: &str) -> Result<Option<v1::Image>> {
        let request = v1::ImageStatusRequest { image: Some(spec(image, handler)), verbose: false };
        Ok(self.image.clone().image_status(self.request(request)).await?.into_inner().image)
    }

    /// Pulls an image; its reference. May take as long as it takes.
    pub async fn pull_image(
        &self,
        image: &str,
        handler: &str,
        auth: Option<v1::AuthConfig>,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = v1::PullImageRequest { image: Some(spec(image, handler)), auth, sandbox_config: Some(sandbox) };
        Ok(self.image.clone().pull_image(Request::new(request)).await?.into_inner().image_ref)
    }

    /// Removes an image.
    pub async fn remove_image(&self, image: &str) -> Result<()> {
        let request = self.request(v1::RemoveImageRequest { image: Some(spec(image, "")) });
        gone_is_fine(self.image.clone().remove_image(request).await.map(drop))
    }

    /// Where images live and how much they take.
    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        Ok(self.image.clone().image_fs_info(self.request(v1::ImageFsInfoRequest {})).await?.into_inner())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

fn spec(image: &str, handler: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.into(),
        runtime_handler: handler.into(),
        user_specified_image: image.into(),
        ..Default::default()
    }
}

fn by_uid(uid: &str) -> HashMap<String, String> {
    HashMap::from([(crate::runtime::label::POD_UID.to_owned(), uid.to_owned())])
}

/// Stopping or removing what is not there is done.
fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other,
    }
}
