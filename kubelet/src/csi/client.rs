//! A driver's services, each call with its deadline. Upstream: pkg/volume/csi/csi_client.go

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::OnceCell;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::v1::node_client::NodeClient;
use super::v1::node_service_capability::{Type, rpc};
use super::v1::*;

/// How long a call may take. Upstream: csiTimeout.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A registered driver.
pub struct Driver {
    /// Its name.
    pub name: String,
    node: NodeClient<Channel>,
    can: OnceCell<HashSet<i32>>,
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Status>;

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

impl Driver {
    /// A driver at the end of `channel`.
    pub fn new(name: &str, channel: Channel) -> Self {
        Self { name: name.to_owned(), node: NodeClient::new(channel), can: OnceCell::new() }
    }

    /// Who this node is to the driver.
    pub async fn node_info(&self) -> Result<NodeGetInfoResponse> {
        Ok(self.node.clone().node_get_info(timed(NodeGetInfoRequest {})).await?.into_inner())
    }

    /// Whether the driver can do something. Asked once.
    pub async fn can(&self, what: rpc::Type) -> Result<bool> {
        let known = self.can.get_or_try_init(|| async {
            let answer = self.node.clone().node_get_capabilities(timed(NodeGetCapabilitiesRequest {})).await?.into_inner();
            let list = answer.capabilities.into_iter().filter_map(|capability| {
                let Type::Rpc(rpc) = capability.r#type?;
                Some(rpc.r#type)
            });
            Ok::<_, Status>(list.collect())
        });
        Ok(known.await?.contains(&(what as i32)))
    }

    /// Makes a volume ready on the node.
    pub async fn stage(&self, request: NodeStageVolumeRequest) -> Result<()> {
        self.node.clone().node_stage_volume(timed(request)).await.map(drop)
    }

    /// Takes that back.
    pub async fn unstage(&self, request: NodeUnstageVolumeRequest) -> Result<()> {
        self.node.clone().node_unstage_volume(timed(request)).await.map(drop)
    }

    /// Shows a volume to a pod.
    pub async fn publish(&self, request: NodePublishVolumeRequest) -> Result<()> {
        self.node.clone().node_publish_volume(timed(request)).await.map(drop)
    }

    /// Takes that back.
    pub async fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<()> {
        self.node.clone().node_unpublish_volume(timed(request)).await.map(drop)
    }

    /// Makes a volume's file system as large as the volume.
    pub async fn expand(&self, request: NodeExpandVolumeRequest) -> Result<i64> {
        Ok(self.node.clone().node_expand_volume(timed(request)).await?.into_inner().capacity_bytes)
    }

    /// How full a volume is.
    pub async fn stats(&self, request: NodeGetVolumeStatsRequest) -> Result<Vec<VolumeUsage>> {
        Ok(self.node.clone().node_get_volume_stats(timed(request)).await?.into_inner().usage)
    }
}
