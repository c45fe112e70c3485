//! Whether the runtime and its network are ready, looked at often until they are and seldom after.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::kubelet::Shared;
use crate::node::capabilities::Capabilities;

/// While something is not ready.
const EAGER: Duration = Duration::from_millis(300);
/// Upstream: updateRuntimeUp every 5 s.
const CALM: Duration = Duration::from_secs(5);

/// Looks until the tasks stop; notifies when something turned.
pub async fn run(kubelet: Shared, turned: Arc<Notify>) {
    loop {
        let (runtime, network) = match kubelet.cri.status(false).await {
            Ok(status) => {
                let capabilities = Capabilities::of(&status);
                if *kubelet.node.capabilities.read() != capabilities {
                    *kubelet.node.capabilities.write() = capabilities;
                }
                let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
                let find = |kind: &str| conditions.iter().find(|condition| condition.r#type == kind && !condition.status);
                let show = |condition: &crate::cri::v1::RuntimeCondition| {
                    format!("{}=false reason:{} message:{}", condition.r#type, condition.reason, condition.message)
                };
                (find("RuntimeReady").map(show), find("NetworkReady").map(show))
            }
            Err(status) => (Some(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())), None),
        };
        let before = (kubelet.node.runtime_error.read().clone(), kubelet.node.network_error.read().clone());
        let calm = runtime.is_none() && network.is_none();
        if before != (runtime.clone(), network.clone()) {
            *kubelet.node.runtime_error.write() = runtime;
            *kubelet.node.network_error.write() = network.clone();
            turned.notify_one();
            if network.is_none() {
                // Pods that waited for the network.
                for handle in kubelet.workers.list() {
                    handle.poke();
                }
            }
        }
        tokio::time::sleep(if calm { CALM } else { EAGER }).await;
    }
}
