//! Takes back addresses whose interface is gone: a node that lost its power, a runtime that never called DEL.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use net::{Socket, link};

use super::conflist::NETWORK;
use crate::plugin::bridge::{self, host_name};
use crate::plugin::conf::NetConf;
use crate::plugin::ipam::{Owner, Store};

/// An ADD reserves its address a moment before it makes the interface; younger reservations are left alone.
const YOUNG: Duration = Duration::from_secs(120);

/// Connects pods again whose bridge or port somebody removed by hand.
pub fn reconnect(conf: &NetConf) -> anyhow::Result<()> {
    if !Store::exists(&conf.data_dir, &conf.name) {
        return Ok(());
    }
    let store = Store::open(&conf.data_dir, &conf.name).context("failed to open the address reservations")?;
    let owners: Vec<Owner> = store.reservations().context("failed to read the address reservations")?.into_values().collect();
    // The lock is not held while devices change; an ADD of these moments makes its own port a member itself.
    drop(store);
    let loose = bridge::heal(conf, &owners).context("failed to connect pods to the bridge")?;
    if loose > 0 {
        tracing::warn!(ports = loose, bridge = conf.bridge, "Connected pods whose bridge had been removed");
    }
    Ok(())
}

/// Releases every reservation older than [`YOUNG`] that has no interface.
pub fn collect(data_dir: &Path) -> anyhow::Result<()> {
    collect_older(data_dir, YOUNG)
}

fn collect_older(data_dir: &Path, young: Duration) -> anyhow::Result<()> {
    if !Store::exists(data_dir, NETWORK) {
        return Ok(());
    }
    let store = Store::open(data_dir, NETWORK).context("failed to open the address reservations")?;
    let present: Vec<String> = link::list(&Socket::route()?)?.into_iter().map(|link| link.name).collect();
    let released = store
        .release_where(|owner, age| age >= young && !present.contains(&host_name(&owner.container_id, &owner.ifname)))
        .context("failed to release stale addresses")?;
    if !released.is_empty() {
        tracing::info!(addresses = ?released, "Released addresses that no pod has any more");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::conf::Range;

    #[test]
    fn only_reservations_without_an_interface_go() {
        let dir = tempfile::tempdir().unwrap();
        let sets =
            vec![vec![Range { subnet: "10.1.0.0/24".parse().unwrap(), range_start: None, range_end: None, gateway: None }]];
        let owner = |id: &str| Owner { container_id: id.into(), ifname: "eth0".into() };
        for id in ["alive", "dead"] {
            Store::open(dir.path(), NETWORK).unwrap().allocate(&sets, &owner(id)).unwrap();
        }
        let namespace = net::NetNs::fresh().unwrap();
        link::create_bridge(&namespace.socket().unwrap(), &host_name("alive", "eth0"), None, 1500).unwrap();
        namespace.run(|| collect(dir.path()).unwrap()).unwrap();
        assert_eq!(Store::open(dir.path(), NETWORK).unwrap().reservations().unwrap().len(), 2, "both are young");
        namespace.run(|| collect_older(dir.path(), Duration::ZERO).unwrap()).unwrap();
        let left: Vec<_> = Store::open(dir.path(), NETWORK).unwrap().reservations().unwrap().into_values().collect();
        assert_eq!(left, [owner("alive")]);
    }
}
