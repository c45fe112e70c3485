//! `pod-resources/kubelet.sock`: tells monitoring agents which container has which devices and processors.
//!
//! Upstream: pkg/kubelet/apis/podresources

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::kubelet::Shared;
use crate::metrics::metrics;
use crate::pod::{self, init_containers, is_sidecar, spec};
use crate::worker::Stage;

/// The generated messages and services of `proto/podresources.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("v1");
}

use v1::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};

struct Lister(Shared);

impl Lister {
    fn of(&self, pod: &k8s_openapi::api::core::v1::Pod) -> v1::PodResources {
        let containers = init_containers(pod).iter().filter(|container| is_sidecar(container)).chain(&spec(pod).containers);
        let containers = containers.map(|container| {
            let shown = self.0.allocation.shown(pod::uid(pod), &container.name);
            v1::ContainerResources {
                name: container.name.clone(),
                devices: shown.devices.into_iter().map(|(name, ids, nodes)| devices(name, ids, nodes)).collect(),
                cpu_ids: ids(&shown.cpus),
                ..Default::default()
            }
        });
        v1::PodResources {
            name: pod::name(pod).to_owned(),
            namespace: pod::namespace(pod).to_owned(),
            containers: containers.collect(),
        }
    }
}

fn ids(cpus: &super::cpuset::CpuSet) -> Vec<i64> {
    cpus.0.iter().filter_map(|cpu| i64::try_from(*cpu).ok()).collect()
}

fn devices(resource_name: String, device_ids: Vec<String>, nodes: Vec<usize>) -> v1::ContainerDevices {
    let nodes: Vec<v1::NumaNode> =
        nodes.into_iter().filter_map(|node| Some(v1::NumaNode { id: i64::try_from(node).ok()? })).collect();
    let topology = (!nodes.is_empty()).then_some(v1::TopologyInfo { nodes });
    v1::ContainerDevices { resource_name, device_ids, topology }
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<v1::ListPodResourcesRequest>) -> Result<Response<v1::ListPodResourcesResponse>, Status> {
        metrics().pod_resources_requests.with_label_values(&["v1"]).inc();
        metrics().pod_resources_list.with_label_values(&["v1"]).inc();
        let handles = self.0.workers.list();
        let active = handles.iter().filter(|handle| handle.view().stage < Stage::Clean);
        let pod_resources = active.map(|handle| self.of(&handle.request().pod)).collect();
        Ok(Response::new(v1::ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<v1::AllocatableResourcesRequest>,
    ) -> Result<Response<v1::AllocatableResourcesResponse>, Status> {
        metrics().pod_resources_requests.with_label_values(&["v1"]).inc();
        metrics().pod_resources_allocatable.with_label_values(&["v1"]).inc();
        let (cpus, offered) = self.0.allocation.allocatable();
        let devices = offered.into_iter().map(|(name, ids, nodes)| devices(name, ids, nodes)).collect();
        Ok(Response::new(v1::AllocatableResourcesResponse { devices, cpu_ids: ids(&cpus), memory: Vec::new() }))
    }

    async fn get(&self, request: Request<v1::GetPodResourcesRequest>) -> Result<Response<v1::GetPodResourcesResponse>, Status> {
        metrics().pod_resources_requests.with_label_values(&["v1"]).inc();
        metrics().pod_resources_get.with_label_values(&["v1"]).inc();
        let request = request.into_inner();
        let found = self.0.pods.by_name(&request.pod_namespace, &request.pod_name).ok_or_else(|| {
            Status::unknown(format!("pod {} in namespace {} not found", request.pod_name, request.pod_namespace))
        })?;
        Ok(Response::new(v1::GetPodResourcesResponse { pod_resources: Some(self.of(&found)) }))
    }
}

/// Serves the socket until the tasks stop.
pub async fn serve(kubelet: Shared) {
    let dir = kubelet.config.root_dir.join("pod-resources");
    let socket = dir.join("kubelet.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = std::fs::create_dir_all(&dir).and_then(|()| UnixListener::bind(&socket));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(err = %error, socket = %socket.display(), "The pod resources API cannot be served");
            return;
        }
    };
    let server = Server::builder().add_service(PodResourcesListerServer::new(Lister(kubelet)));
    if let Err(error) = server.serve_with_incoming(UnixListenerStream::new(listener)).await {
        tracing::error!(err = %error, "The pod resources server ended");
    }
}
