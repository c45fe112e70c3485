//! Device plugins: their registration, their streams of devices, and what they answer.
//!
//! Upstream: pkg/kubelet/cm/devicemanager/plugin/v1beta1

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use super::device::{Device, Devices};
use crate::kubelet::Shared;
use crate::metrics::metrics;

/// The generated messages and services of `proto/deviceplugin.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1beta1 {
    tonic::include_proto!("v1beta1");
}

use v1beta1::device_plugin_client::DevicePluginClient;
use v1beta1::registration_server::{Registration, RegistrationServer};

/// The only version there is.
const VERSION: &str = "v1beta1";
/// How long a plugin may take to answer. Upstream waits for as long as its context lives; a pod must not wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// A plugin that offers a resource.
#[derive(Clone)]
pub struct Plugin {
    client: DevicePluginClient<Channel>,
    /// Asks to be told before a container starts.
    pub pre_start: bool,
    /// Has a say in which devices are taken.
    pub prefers: bool,
    /// Counts registrations of a resource: an older stream's end says nothing of a newer plugin.
    pub generation: u64,
}

impl Plugin {
    /// What to do with the devices that a container gets.
    ///
    /// # Errors
    /// The plugin's words.
    pub async fn allocate(&self, ids: &BTreeSet<String>) -> Result<v1beta1::ContainerAllocateResponse, String> {
        let container = v1beta1::ContainerAllocateRequest { devices_ids: ids.iter().cloned().collect() };
        let mut request = Request::new(v1beta1::AllocateRequest { container_requests: vec![container] });
        request.set_timeout(PATIENCE);
        let answer = self.client.clone().allocate(request).await.map_err(|status| words(&status))?.into_inner();
        answer.container_responses.into_iter().next().ok_or_else(|| "no containers return in allocation response".to_owned())
    }

    /// Which of `free` the plugin would take; empty where it does not mind.
    pub async fn preferred(&self, free: &BTreeSet<String>, must: &BTreeSet<String>, count: usize) -> BTreeSet<String> {
        let container = v1beta1::ContainerPreferredAllocationRequest {
            available_device_i_ds: free.iter().cloned().collect(),
            must_include_device_i_ds: must.iter().cloned().collect(),
            allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
        };
        let mut request = Request::new(v1beta1::PreferredAllocationRequest { container_requests: vec![container] });
        request.set_timeout(PATIENCE);
        match self.client.clone().get_preferred_allocation(request).await {
            Ok(answer) => {
                let first = answer.into_inner().container_responses.into_iter().next();
                first.map(|response| response.device_i_ds.into_iter().collect()).unwrap_or_default()
            }
            Err(status) => {
                tracing::warn!(err = words(&status), "A device plugin did not say what it prefers");
                BTreeSet::new()
            }
        }
    }

    /// Tells the plugin that a container with these devices is about to start.
    ///
    /// # Errors
    /// The plugin's words.
    pub async fn pre_start(&self, ids: &BTreeSet<String>) -> Result<(), String> {
        let mut request = Request::new(v1beta1::PreStartContainerRequest { devices_ids: ids.iter().cloned().collect() });
        request.set_timeout(PATIENCE);
        self.client.clone().pre_start_container(request).await.map_err(|status| words(&status))?;
        Ok(())
    }
}

fn words(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// Whether a name can be an extended resource: of a domain that is not Kubernetes' own.
pub fn is_extended(name: &str) -> bool {
    let Some((domain, rest)) = name.split_once('/') else { return false };
    !domain.is_empty() && !rest.is_empty() && !domain.ends_with("kubernetes.io") && !name.starts_with("requests.")
}

/// The directory of sockets.
pub fn directory(kubelet: &crate::config::Config) -> PathBuf {
    kubelet.root_dir.join("device-plugins")
}

struct Registrar(Shared);

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<v1beta1::RegisterRequest>) -> Result<Response<v1beta1::Empty>, Status> {
        let request = request.into_inner();
        if request.version != VERSION {
            return Err(Status::unknown(format!(
                "requested API version {:?} is not supported by kubelet. Supported version is [\"{VERSION}\"]",
                request.version
            )));
        }
        if !is_extended(&request.resource_name) {
            return Err(Status::unknown(format!("the ResourceName {:?} is invalid", request.resource_name)));
        }
        // A name in the directory, nothing else.
        if request.endpoint.is_empty() || request.endpoint.contains('/') {
            return Err(Status::unknown(format!("the Endpoint {:?} is invalid", request.endpoint)));
        }
        let socket = directory(&self.0.config).join(&request.endpoint);
        connect(&self.0, &request.resource_name, &socket, request.options);
        Ok(Response::new(v1beta1::Empty {}))
    }
}

/// Serves the registration socket until the tasks stop. Plugins that were there before see their sockets go, and come again.
pub async fn serve(kubelet: Shared) {
    let dir = directory(&kubelet.config);
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let listener = std::fs::create_dir_all(&dir).and_then(|()| UnixListener::bind(dir.join("kubelet.sock")));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(err = %error, dir = %dir.display(), "Device plugins cannot register");
            return;
        }
    };
    let server = Server::builder().add_service(RegistrationServer::new(Registrar(kubelet)));
    if let Err(error) = server.serve_with_incoming(UnixListenerStream::new(listener)).await {
        tracing::error!(err = %error, "The registration server of device plugins ended");
    }
}

/// Follows a plugin's devices until it is gone.
pub fn connect(kubelet: &Shared, resource: &str, socket: &Path, options: Option<v1beta1::DevicePluginOptions>) {
    metrics().device_registrations.with_label_values(&[resource]).inc();
    tracing::info!(resource, socket = %socket.display(), "Device plugin registered");
    let client = DevicePluginClient::new(crate::plugins::channel(socket));
    let options = options.unwrap_or_default();
    let plugin = Plugin {
        client,
        pre_start: options.pre_start_required,
        prefers: options.get_preferred_allocation_available,
        generation: 0,
    };
    let generation = kubelet.allocation.put_plugin(resource, plugin.clone());
    let (kubelet, resource) = (kubelet.clone(), resource.to_owned());
    let (tasks, stop) = (kubelet.tasks.clone(), kubelet.tasks.token());
    tasks.spawn("device-plugin", async move {
        let work = async {
            let mut stream = match plugin.client.clone().list_and_watch(v1beta1::Empty {}).await {
                Ok(stream) => stream.into_inner(),
                Err(status) => {
                    tracing::warn!(resource, err = words(&status), "A device plugin does not list its devices");
                    kubelet.allocation.plugin_gone(&kubelet, &resource, generation);
                    return;
                }
            };
            while let Ok(Some(list)) = stream.message().await {
                kubelet.allocation.offered(&kubelet, &resource, generation, devices(list));
            }
            tracing::info!(resource, "Device plugin is gone");
            kubelet.allocation.plugin_gone(&kubelet, &resource, generation);
        };
        stop.run_until_cancelled(work).await;
    });
}

fn devices(list: v1beta1::ListAndWatchResponse) -> Devices {
    let device = |device: v1beta1::Device| {
        let nodes = device.topology.into_iter().flat_map(|topology| topology.nodes);
        let nodes = nodes.filter_map(|node| usize::try_from(node.id).ok()).collect();
        (device.id, Device { healthy: device.health == "Healthy", nodes })
    };
    list.devices.into_iter().map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_extended_resources_have_plugins() {
        for (name, is) in
            [("ex.io/gpu", true), ("cpu", false), ("kubernetes.io/x", false), ("requests.ex.io/x", false), ("ex.io/", false)]
        {
            assert_eq!(is_extended(name), is, "{name}");
        }
    }
}
