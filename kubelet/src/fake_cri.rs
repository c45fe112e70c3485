//! A runtime for tests: keeps sandboxes and containers in memory, on a unix socket. Containers run until told to exit.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::cri::v1::image_service_server::{ImageService, ImageServiceServer};
use crate::cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use crate::cri::v1::*;

/// What the runtime has, and what was asked of it.
#[derive(Default)]
pub(crate) struct State {
    /// Sandboxes by id.
    pub(crate) sandboxes: HashMap<String, PodSandboxStatus>,
    /// Containers by id, with their sandbox.
    pub(crate) containers: HashMap<String, (String, ContainerStatus)>,
    /// Calls that change something, in order: `run`, `create web`, `start web`, `stop web`, …
    pub(crate) calls: Vec<String>,
    /// The last configuration asked for, by container's name.
    pub(crate) configs: HashMap<String, ContainerConfig>,
    /// Images that are there.
    pub(crate) images: Vec<String>,
    /// Exit code and output of every `ExecSync`.
    pub(crate) exec: (i32, String),
    next: u64,
    clock: i64,
}

impl State {
    fn id(&mut self) -> String {
        self.next += 1;
        format!("{:064x}", self.next)
    }

    fn now(&mut self) -> i64 {
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
        self.clock = now.max(self.clock + 1);
        self.clock
    }

    /// Makes a running container end.
    pub(crate) fn exit(&mut self, name: &str, code: i32) {
        let now = self.now();
        for (_, status) in self.containers.values_mut() {
            let this = status.metadata.as_ref().is_some_and(|metadata| metadata.name == name);
            if this && status.state == ContainerState::ContainerRunning as i32 {
                status.state = ContainerState::ContainerExited as i32;
                status.exit_code = code;
                status.finished_at = now;
                status.reason = if code == 0 { "Completed" } else { "Error" }.into();
            }
        }
    }
}

/// The fake. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Fake(pub(crate) Arc<Mutex<State>>);

impl Fake {
    /// Serves on a socket until the test ends.
    pub(crate) fn serve(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("a fresh directory");
        let fake = self.clone();
        tokio::spawn(async move {
            let _ = tonic::transport::Server::builder()
                .add_service(RuntimeServiceServer::new(fake.clone()))
                .add_service(ImageServiceServer::new(fake))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await;
        });
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.lock().calls.clone()
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn matches(filter: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    filter.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn name_of(status: &ContainerStatus) -> String {
    status.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default()
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    type GetContainerEventsStream = Pin<Box<dyn futures::Stream<Item = Result<ContainerEventResponse, Status>> + Send>>;

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse { runtime_name: "fake".into(), runtime_version: "1".into(), ..Default::default() }))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap_or_default();
        let mut state = self.0.lock();
        state.calls.push("run".into());
        let (id, now) = (state.id(), state.now());
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: PodSandboxState::SandboxReady as i32,
            created_at: now,
            network: Some(PodSandboxNetworkStatus { ip: "10.0.0.7".into(), ..Default::default() }),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace {
                    options: config.linux.and_then(|linux| linux.security_context).and_then(|context| context.namespace_options),
                }),
            }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), status);
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let mut state = self.0.lock();
        if let Some(sandbox) = state.sandboxes.get_mut(&request.into_inner().pod_sandbox_id) {
            sandbox.state = PodSandboxState::SandboxNotready as i32;
        }
        state.calls.push("stop-sandbox".into());
        Ok(Response::new(Default::default()))
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut state = self.0.lock();
        state.sandboxes.remove(&id);
        state.containers.retain(|_, (sandbox, _)| *sandbox != id);
        Ok(Response::new(Default::default()))
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let status = self.0.lock().sandboxes.get(&request.into_inner().pod_sandbox_id).cloned();
        let status = status.ok_or_else(|| Status::not_found("sandbox"))?;
        Ok(Response::new(PodSandboxStatusResponse { status: Some(status), ..Default::default() }))
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default().label_selector;
        let state = self.0.lock();
        let items = state.sandboxes.values().filter(|sandbox| matches(&filter, &sandbox.labels)).map(|sandbox| PodSandbox {
            id: sandbox.id.clone(),
            metadata: sandbox.metadata.clone(),
            state: sandbox.state,
            created_at: sandbox.created_at,
            labels: sandbox.labels.clone(),
            ..Default::default()
        });
        Ok(Response::new(ListPodSandboxResponse { items: items.collect() }))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let mut state = self.0.lock();
        let (id, now) = (state.id(), state.now());
        let name = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        state.configs.insert(name, config.clone());
        let status = ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: ContainerState::ContainerCreated as i32,
            created_at: now,
            image: config.image,
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            ..Default::default()
        };
        state.calls.push(format!("create {}", name_of(&status)));
        state.containers.insert(id.clone(), (request.pod_sandbox_id, status));
        Ok(Response::new(CreateContainerResponse { container_id: id }))
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let mut state = self.0.lock();
        let now = state.now();
        let (_, status) =
            state.containers.get_mut(&request.into_inner().container_id).ok_or_else(|| Status::not_found("container"))?;
        status.state = ContainerState::ContainerRunning as i32;
        status.started_at = now;
        let call = format!("start {}", name_of(status));
        state.calls.push(call);
        Ok(Response::new(Default::default()))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let mut state = self.0.lock();
        let now = state.now();
        let (_, status) =
            state.containers.get_mut(&request.into_inner().container_id).ok_or_else(|| Status::not_found("container"))?;
        let call = format!("stop {}", name_of(status));
        if status.state == ContainerState::ContainerRunning as i32 {
            status.state = ContainerState::ContainerExited as i32;
            status.exit_code = 137;
            status.finished_at = now;
        }
        state.calls.push(call);
        Ok(Response::new(Default::default()))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        self.0.lock().containers.remove(&request.into_inner().container_id);
        Ok(Response::new(Default::default()))
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default().label_selector;
        let state = self.0.lock();
        let containers =
            state.containers.values().filter(|(_, status)| matches(&filter, &status.labels)).map(|(sandbox, status)| Container {
                id: status.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: status.metadata.clone(),
                state: status.state,
                created_at: status.created_at,
                labels: status.labels.clone(),
                ..Default::default()
            });
        Ok(Response::new(ListContainersResponse { containers: containers.collect() }))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let status = self.0.lock().containers.get(&request.into_inner().container_id).map(|(_, status)| status.clone());
        let status = status.ok_or_else(|| Status::not_found("container"))?;
        Ok(Response::new(ContainerStatusResponse { status: Some(status), ..Default::default() }))
    }

    async fn update_container_resources(
        &self,
        _: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn reopen_container_log(&self, _: Request<ReopenContainerLogRequest>) -> Answer<ReopenContainerLogResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn exec_sync(&self, _: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let mut state = self.0.lock();
        state.calls.push("exec".into());
        let (exit_code, output) = state.exec.clone();
        Ok(Response::new(ExecSyncResponse { stdout: output.into_bytes(), stderr: Vec::new(), exit_code }))
    }

    async fn exec(&self, _: Request<ExecRequest>) -> Answer<ExecResponse> {
        Err(Status::unimplemented("exec"))
    }

    async fn attach(&self, _: Request<AttachRequest>) -> Answer<AttachResponse> {
        Err(Status::unimplemented("attach"))
    }

    async fn port_forward(&self, _: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        Err(Status::unimplemented("port-forward"))
    }

    async fn container_stats(&self, _: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn list_container_stats(&self, _: Request<ListContainerStatsRequest>) -> Answer<ListContainerStatsResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn pod_sandbox_stats(&self, _: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn list_pod_sandbox_stats(&self, _: Request<ListPodSandboxStatsRequest>) -> Answer<ListPodSandboxStatsResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn update_runtime_config(&self, _: Request<UpdateRuntimeConfigRequest>) -> Answer<UpdateRuntimeConfigResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let ready = |kind: &str| RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        let status = RuntimeStatus { conditions: vec![ready("RuntimeReady"), ready("NetworkReady")] };
        Ok(Response::new(StatusResponse { status: Some(status), ..Default::default() }))
    }

    async fn checkpoint_container(&self, _: Request<CheckpointContainerRequest>) -> Answer<CheckpointContainerResponse> {
        Err(Status::unimplemented("checkpoint"))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        Err(Status::unimplemented("events"))
    }

    async fn list_metric_descriptors(&self, _: Request<ListMetricDescriptorsRequest>) -> Answer<ListMetricDescriptorsResponse> {
        Err(Status::unimplemented("metrics"))
    }

    async fn list_pod_sandbox_metrics(&self, _: Request<ListPodSandboxMetricsRequest>) -> Answer<ListPodSandboxMetricsResponse> {
        Err(Status::unimplemented("metrics"))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        Err(Status::unimplemented("runtime config"))
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let image =
            self.0.lock().images.contains(&name).then(|| Image { id: name.clone(), repo_tags: vec![name], ..Default::default() });
        Ok(Response::new(ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let mut state = self.0.lock();
        state.calls.push(format!("pull {name}"));
        if name.contains("missing") {
            return Err(Status::not_found("no such image"));
        }
        state.images.push(name.clone());
        Ok(Response::new(PullImageResponse { image_ref: name }))
    }

    async fn remove_image(&self, _: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        Ok(Response::new(Default::default()))
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        Ok(Response::new(Default::default()))
    }
}
