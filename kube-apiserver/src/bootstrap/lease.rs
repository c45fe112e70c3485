//! The Lease by which a server is known to be alive, and the removal of those of servers long gone.
//!
//! Upstream: pkg/controlplane/apiserver/server.go, controller/apiserverleasegc

use std::sync::Arc;
use std::time::Duration;

use api::lister::Lister;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{change, create};
use crate::call::{Call, micro_timestamp};
use crate::metadata;
use crate::server::Server;
use crate::verb::delete::{self, DeleteOptions};

/// Upstream: IdentityLeaseDurationSeconds, 3600; renewed every 10 s there. A minute is often enough for an hour.
const DURATION_SECONDS: i64 = 3600;
const INTERVAL: Duration = Duration::from_secs(60);
const LABEL: &str = "apiserver.kubernetes.io/identity";

/// Renews until dropped.
pub(super) async fn run(server: Arc<Server>) {
    let host = server.identity.split('_').next().unwrap_or("").to_owned();
    let name = format!("apiserver-{}", &hex::encode(Sha256::digest(format!("kube-apiserver/{host}")))[..26]);
    loop {
        renew(&server, &name, &host).await;
        collect(&server, &name).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn renew(server: &Arc<Server>, name: &str, host: &str) {
    let now = micro_timestamp(Timestamp::now());
    let holder = format!("{name}_{}", server.identity.split('_').nth(1).unwrap_or(""));
    let result = if server.caches.get("coordination.k8s.io", "leases", "kube-system", name).is_some() {
        change(server, "coordination.k8s.io", "leases", "kube-system", name, |old| {
            let mut new = old.clone();
            new["spec"]["renewTime"] = now.as_str().into();
            new["spec"]["holderIdentity"] = holder.as_str().into();
            new
        })
        .await
    } else {
        let object = json!({
            "metadata": {"namespace": "kube-system", "name": name, "labels": {LABEL: "kube-apiserver", "kubernetes.io/hostname": host}},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now},
        });
        create(server, "coordination.k8s.io", "leases", object).await
    };
    if let Err(error) = result {
        tracing::debug!(err = %error, "Failed to renew the identity lease");
    }
}

/// Removes leases of servers that have not renewed for their whole duration.
async fn collect(server: &Arc<Server>, own: &str) {
    let table = server.table.load_full();
    let Some(served) = table.any_version("coordination.k8s.io", "leases").cloned() else { return };
    for lease in server.caches.list("coordination.k8s.io", "leases", Some("kube-system")) {
        let ours = lease.pointer("/metadata/labels").and_then(|labels| labels.get(LABEL)).and_then(Value::as_str)
            == Some("kube-apiserver");
        let name = metadata::name(&lease).to_owned();
        if !ours || name == own {
            continue;
        }
        let renewed: Option<Timestamp> =
            lease.pointer("/spec/renewTime").and_then(Value::as_str).and_then(|time| time.parse().ok());
        let age = renewed.map_or(i64::MAX, |renewed| Timestamp::now().as_second() - renewed.as_second());
        if age > DURATION_SECONDS {
            let mut call = Call::internal(server, &served, "delete", "kube-system", &name);
            let _ = delete::one(&mut call, &served, "kube-system", &name, &DeleteOptions::default()).await;
        }
    }
}
