//! The CNI configuration that container runtimes read.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use super::Options;
use super::desired::Network;
use crate::plugin::conf::NetConf;

/// Sorts before most other configurations; runtimes take the first.
pub const FILE: &str = "10-rk.conflist";
/// Name of the network, also of the directory of its reservations.
pub const NETWORK: &str = "rk";
/// Understood by containerd from 1.6 on.
const VERSION: &str = "1.0.0";

fn render(options: &Options, network: &Network, mtu: u32) -> Value {
    let subnets: Vec<String> = network.pod_cidrs.iter().map(|cidr| cidr.trunc().to_string()).collect();
    let mut plugin = json!({
        "type": "rk-cni", "bridge": "cni0", "mtu": mtu, "hairpinMode": true, "subnets": subnets,
        "capabilities": {"portMappings": true, "bandwidth": true},
    });
    if options.data_dir.as_os_str() != crate::plugin::conf::DATA_DIR {
        plugin["dataDir"] = json!(options.data_dir);
    }
    json!({"cniVersion": VERSION, "name": NETWORK, "plugins": [plugin]})
}

/// The configuration as the plugin gets it.
pub fn parsed(options: &Options, network: &Network, mtu: u32) -> anyhow::Result<NetConf> {
    let list = render(options, network, mtu);
    // What libcni hands to a plugin: its entry with the list's name and version.
    let mut conf = list["plugins"][0].clone();
    conf["cniVersion"] = list["cniVersion"].clone();
    conf["name"] = list["name"].clone();
    NetConf::parse(&conf.to_string()).context("the plugin does not understand its configuration")
}

/// Where the configuration is.
pub fn path(options: &Options) -> PathBuf {
    options.conf_dir.join(FILE)
}

/// Writes the configuration unless it is already so; readers see the old one or the new one.
pub fn write(options: &Options, network: &Network, mtu: u32) -> anyhow::Result<()> {
    let text =
        serde_json::to_string_pretty(&render(options, network, mtu)).context("failed to encode the CNI configuration")? + "\n";
    let path = path(options);
    if fs::read_to_string(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let temporary = options.conf_dir.join(format!(".{FILE}.new"));
    fs::create_dir_all(&options.conf_dir)
        .and_then(|()| fs::write(&temporary, &text))
        .and_then(|()| fs::rename(&temporary, &path))
        .with_context(|| format!("failed to write {}", path.display()))?;
    tracing::info!(path = %path.display(), "Wrote the CNI configuration");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::desired::plan;
    use crate::agent::desired::tests::{node, options};

    #[test]
    fn the_plugin_understands_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&[&format!("--conf-dir={}", dir.path().display())]);
        let network = plan(&options, &[node("a", "172.30.0.1", &["10.244.0.0/24", "fd00:10::/64"])]).unwrap();
        write(&options, &network, 1450).unwrap();
        let list: Value = serde_json::from_str(&fs::read_to_string(path(&options)).unwrap()).unwrap();
        assert_eq!(list, render(&options, &network, 1450));
        let parsed = parsed(&options, &network, 1450).unwrap();
        assert_eq!((parsed.ranges.len(), parsed.mtu), (2, 1450));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
