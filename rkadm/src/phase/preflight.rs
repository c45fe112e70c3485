//! Is this host fit, and are the images here?

use std::time::Instant;

use crate::host::{find_own, find_program, port_in_use};
use crate::init::Init;
use crate::node::Node;
use crate::{cri, images, manifest, preflight, runtime, say, unfinished};

/// Ports of a control-plane node besides the API server's.
const CONTROL_PLANE_PORTS: [u16; 3] = [10259, 10257, 10250];
const ETCD_PORTS: [u16; 3] = [2379, 2380, 2381];

pub async fn run(init: &mut Init) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut facts = control_plane_facts(&init.node, init.node.files.is_dry());
    preflight::prepare(&mut facts, init.node.dry_run);
    if unfinished::is(&init.node.files, "init") {
        say::phase("preflight", "An earlier `rkadm init` was cut off on this host: going on with it");
        (facts.occupied, facts.ports_in_use) = Default::default();
        if !init.node.dry_run {
            unfinished::forget_lone_keys(&init.node.files, &init.node.pki_dir())?;
        }
    }
    preflight::judge(preflight::check(&facts), &init.node.ignore)?;
    if !init.alone {
        unfinished::begin(&mut init.node.files, "init")?;
    }
    if init.node.dry_run {
        say::phase("preflight", "Would import these images where they are missing:");
        init.node.images.control_plane().iter().for_each(|image| println!("\t{image}"));
        return Ok(());
    }
    let imported = bring_images(&mut init.node, true).await?;
    let images = if imported == 0 { String::new() } else { format!(", imported {imported} image archives") };
    say::phase("preflight", &format!("The host is fit for a control plane{images} {}", say::took(started)));
    Ok(())
}

/// Starts the runtime where need be and imports what is missing.
pub async fn bring_images(node: &mut Node, control_plane: bool) -> anyhow::Result<usize> {
    let runtime = node.runtime().await?;
    let wanted = if control_plane { node.images.control_plane() } else { node.images.worker() };
    if node.ignore.iter().any(|name| name.eq_ignore_ascii_case("ImagePull")) {
        return Ok(0);
    }
    images::ensure(&runtime, &node.registration.cri_socket, &wanted, &node.bundle).await
}

/// What the checks of a control-plane node look at.
pub fn control_plane_facts(node: &Node, dry: bool) -> preflight::Facts {
    let mut facts = node_facts(node, dry);
    facts.control_plane = true;
    facts.advertise_address = node.address().to_string();
    // An address is this host's if a socket can be bound to it.
    facts.advertise_is_local = std::net::TcpListener::bind((node.address(), 0)).is_ok();
    let mut ports = vec![node.endpoint.bind_port];
    ports.extend(CONTROL_PLANE_PORTS);
    let local_etcd = node.cluster.etcd.local.as_ref();
    if local_etcd.is_some() {
        ports.extend(ETCD_PORTS);
    }
    facts.ports_in_use = ports.into_iter().filter(|port| port_in_use(*port)).collect();
    for component in manifest::COMPONENTS.into_iter().filter(|name| *name != "etcd" || local_etcd.is_some()) {
        if node.files.exists(manifest::path(component)) {
            facts.occupied.push(manifest::path(component));
        }
    }
    if let Some(local) = local_etcd {
        let dir = node.files.real(std::path::Path::new(&local.data_dir));
        if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            facts.occupied.push(format!("{}/", local.data_dir));
        }
    }
    facts
}

/// What the checks of any node look at.
pub fn node_facts(node: &Node, dry: bool) -> preflight::Facts {
    let socket = &node.registration.cri_socket;
    let problem = match runtime::plan(cri::is_listening(socket), &node.host, find_program("containerd").is_some()) {
        runtime::Plan::Refuse(why) => Some(format!("the container runtime does not answer at {socket}: {why}")),
        _ => None,
    };
    let mut host = node.host.clone();
    // A dry run may be done by anybody.
    host.root |= dry;
    preflight::Facts {
        host,
        missing_programs: ["iptables", "mount", "nsenter"].into_iter().filter(|name| find_program(name).is_none()).collect(),
        kubelet_installed: find_own("kubelet").is_some(),
        node_name: node.name().to_string(),
        runtime_problem: problem,
        advertise_is_local: true,
        ..Default::default()
    }
}
