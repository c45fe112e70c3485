//! A device plugin and the static CPU policy, through a whole kubelet against a fake runtime.

use std::pin::Pin;
use std::time::Duration;

use component::tasks::Tasks;
use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use super::plugin::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use super::plugin::v1beta1::registration_client::RegistrationClient;
use super::plugin::v1beta1::*;
use super::pod_resources::v1::ListPodResourcesRequest;
use super::pod_resources::v1::pod_resources_lister_client::PodResourcesListerClient;
use crate::fake_cri::Fake;
use crate::worker::tests::{manifest, phase, start_with, wait_for};

/// Two devices, of which it would rather give the second.
struct Plugin;

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let device = |id: &str| Device { id: id.into(), health: "Healthy".into(), topology: None };
        let list = ListAndWatchResponse { devices: vec![device("d1"), device("d2")] };
        let stream = futures::StreamExt::chain(futures::stream::iter([Ok(list)]), futures::stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let container = ContainerPreferredAllocationResponse { device_i_ds: vec!["d2".into()] };
        Ok(Response::new(PreferredAllocationResponse { container_responses: vec![container] }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let request = request.into_inner();
        let ids = request.container_requests[0].devices_ids.join(",");
        let container = ContainerAllocateResponse {
            envs: [("DEVICES".to_owned(), ids)].into(),
            mounts: vec![Mount { container_path: "/lib/d".into(), host_path: "/usr/lib/d".into(), read_only: true }],
            devices: vec![DeviceSpec {
                container_path: "/dev/d".into(),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            }],
            ..Default::default()
        };
        Ok(Response::new(AllocateResponse { container_responses: vec![container] }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

async fn connect(socket: std::path::PathBuf) -> tonic::transport::Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_its_devices_and_a_later_kubelet_knows() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.serve(&dir.path().join("cri.sock"));
    let tasks = Tasks::new();
    let kubelet = start_with(dir.path(), &tasks, "").await;
    let plugins = dir.path().join("root/device-plugins");
    // Sockets of before are removed first.
    wait_for("the registration socket", || plugins.join("kubelet.sock").exists()).await;
    let listener = UnixListener::bind(plugins.join("d.sock")).unwrap();
    tokio::spawn(
        Server::builder().add_service(DevicePluginServer::new(Plugin)).serve_with_incoming(UnixListenerStream::new(listener)),
    );
    let mut registration = RegistrationClient::new(connect(plugins.join("kubelet.sock")).await);
    let options = DevicePluginOptions { get_preferred_allocation_available: true, ..Default::default() };
    let request = |version: &str| RegisterRequest {
        version: version.into(),
        endpoint: "d.sock".into(),
        resource_name: "ex.io/d".into(),
        options: Some(options),
    };
    assert!(registration.register(request("v1alpha")).await.is_err(), "an unknown version");
    registration.register(request("v1beta1")).await.unwrap();
    wait_for("devices", || kubelet.allocation.extended().get("ex.io/d") == Some(&(2, 2))).await;

    manifest(dir.path(), "{containers: [{name: a, image: 'x:1', resources: {limits: {ex.io/d: 1}}}]}");
    wait_for("running", || phase(&kubelet) == "Running").await;
    let config = fake.0.lock().configs["a"].clone();
    assert!(config.envs.iter().any(|env| env.key == "DEVICES" && env.value == "d2"), "{:?}", config.envs);
    assert!(config.mounts.iter().any(|mount| mount.container_path == "/lib/d" && mount.readonly));
    assert_eq!(config.devices.len(), 1);

    let mut lister = PodResourcesListerClient::new(connect(dir.path().join("root/pod-resources/kubelet.sock")).await);
    let list = lister.list(ListPodResourcesRequest {}).await.unwrap().into_inner();
    assert_eq!(list.pod_resources[0].containers[0].devices[0].device_ids, ["d2"]);

    tasks.stop_and_wait(Duration::from_secs(5)).await;
    drop(kubelet);
    let tasks = Tasks::new();
    let kubelet = start_with(dir.path(), &tasks, "").await;
    wait_for("running again", || phase(&kubelet) == "Running").await;
    assert_eq!(kubelet.allocation.extended().get("ex.io/d"), Some(&(0, 0)), "known, and not there before its plugin");
    let uid = crate::pod::uid(&kubelet.pods.list()[0]).to_owned();
    assert_eq!(kubelet.allocation.shown(&uid, "a").devices[0].1, ["d2"]);
    std::fs::remove_file(dir.path().join("manifests/web.yaml")).unwrap();
    wait_for("given back", || kubelet.allocation.shown(&uid, "a").devices.is_empty()).await;
    tasks.stop_and_wait(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guaranteed_container_has_a_processor_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.serve(&dir.path().join("cri.sock"));
    let tasks = Tasks::new();
    let more = "cpuManagerPolicy: static\nreservedSystemCPUs: '0'\n";
    let kubelet = start_with(dir.path(), &tasks, more).await;
    if kubelet.allocation.allocatable().0.is_empty() {
        eprintln!("SKIPPED: one processor is too few to give one away");
        tasks.stop_and_wait(Duration::from_secs(5)).await;
        return;
    }
    let own = "{limits: {cpu: 1, memory: 64Mi}}";
    manifest(dir.path(), &format!("{{containers: [{{name: a, image: 'x:1', resources: {own}}}]}}"));
    wait_for("running", || phase(&kubelet) == "Running").await;
    let cpuset = |name: &str| {
        let config = fake.0.lock().configs[name].clone();
        config.linux.and_then(|linux| linux.resources).map(|resources| resources.cpuset_cpus).unwrap_or_default()
    };
    assert_eq!(cpuset("a").parse::<usize>().map(|cpu| cpu > 0), Ok(true), "{}", cpuset("a"));
    let state = std::fs::read_to_string(dir.path().join("root/cpu_manager_state")).unwrap();
    assert!(state.contains("\"policyName\":\"static\"") && state.contains("\"a\":"), "{state}");
    let uid = crate::pod::uid(&kubelet.pods.list()[0]).to_owned();
    std::fs::remove_file(dir.path().join("manifests/web.yaml")).unwrap();
    wait_for("given back", || kubelet.allocation.shown(&uid, "a").cpus.is_empty()).await;
    tasks.stop_and_wait(Duration::from_secs(5)).await;
}
