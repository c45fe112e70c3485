//! The cluster tests: a real two-node cluster in lab hosts, driven by kubectl as a user would.
//!
//! One lab for all scenarios, in the order of the table: later ones disturb the cluster more. A scenario is a sentence and a
//! function; add one as a line here and a function in the file of its kind.
//! `make cluster` runs them; `RK_KEEP_LAB=1` leaves the lab up to look at. `cargo test … -- NAME` runs those that match.

mod csi;
mod drills;
mod kubectls;
mod lifecycle;
mod node;
mod outside;
mod policies;
mod services;
mod streams;
mod teardown;
mod workloads;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use tests::lab::Lab;

/// What scenarios work on.
pub(crate) struct Cluster {
    /// The lab.
    pub(crate) lab: Lab,
    /// Its kubectl.
    pub(crate) kubectl: tests::kubectl::Kubectl,
    /// The test image.
    pub(crate) image: String,
}

impl Cluster {
    /// No scenario leaves anything of its pods on a node. Not asked once the lab is gone.
    fn leaves_nothing(&self) -> anyhow::Result<()> {
        if self.lab.dir().join("kubeconfig").exists() { tests::leaks::none(&self.lab, &self.kubectl) } else { Ok(()) }
    }
}

type Scenario = fn(&Cluster) -> anyhow::Result<()>;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("two nodes are ready with roles and addresses", workloads::nodes_are_ready),
    ("a deployment spreads over both nodes, scales and heals", workloads::deployment_spreads_scales_heals),
    ("a rollout replaces pods, and undo brings the old ones back", workloads::rollout_and_undo),
    ("configuration reaches pods as environment and files", workloads::configuration_reaches_pods),
    ("failing probes take a pod out of service and restart it", workloads::probes_act),
    ("kubectl get all -A -o yaml lists everything", workloads::get_all),
    ("pods that a node refuses say why", lifecycle::refusals_say_why),
    ("containers are resized in place", lifecycle::resize_in_place),
    ("gRPC probes act, and images are pulled with a password", lifecycle::grpc_and_passwords),
    ("volumes of a CSI driver are shared, private, grown and taken back", csi::volumes_of_a_driver),
    ("pods reach each other across nodes", services::pods_reach_each_other),
    ("a service answers by cluster IP, node port and name", services::service_answers),
    ("a service without endpoints refuses", services::no_endpoints_refuses),
    ("network policies hold, and the network outlives its programs", policies::policies_hold_and_the_network_heals),
    ("a load balancer has the nodes' addresses", outside::load_balancers_have_the_nodes_addresses),
    ("an ingress routes by host and path, with certificates", outside::ingress_routes),
    ("logs follow", streams::logs_follow),
    ("exec runs commands with exit codes, stdin and a terminal", streams::exec_works),
    ("cp copies both ways", streams::cp_works),
    ("port-forward carries many connections", streams::port_forward_works),
    ("kubectl 1.20, 1.27 and the newest do the tour", kubectls::tour_with_every_kubectl),
    ("usage of nodes and pods is told to people and autoscalers", node::usage_is_told),
    ("limits of pods and nodes are held", node::limits_are_held),
    ("a pod of many containers runs", node::many_containers),
    ("kubelet and containerd may be killed at any moment", node::kills_at_any_moment),
    ("a static pod appears and goes with its file", drills::static_pod),
    ("drain moves pods away and uncordon lets them back", drills::drain_uncordon),
    ("a restart of the kubelet restarts no container", drills::kubelet_restart_keeps_containers),
    ("killed control-plane processes come back", drills::control_plane_heals),
    ("etcd is restored by hand and all recovers", |cluster| tests::drill::etcd::by_hand(&cluster.lab)),
    ("certificates are renewed under way", |cluster| tests::drill::certificates::renewal(&cluster.lab)),
    ("a broken release is rolled back", |cluster| tests::drill::upgrade::broken_release(&cluster.lab)),
    ("deleting a namespace removes everything in it", workloads::namespace_removes_all),
    ("a node that loses power becomes NotReady and returns", drills::node_power),
    ("wrong joins fail with a clear error and leave nothing", teardown::wrong_joins_fail),
    ("reset leaves a clean host", teardown::reset_leaves_clean_host),
    ("lab down leaves nothing behind", teardown::lab_down_leaves_nothing),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One cluster, one scenario at a time.
    arguments.test_threads = Some(1);
    if arguments.list {
        let trials = SCENARIOS.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let cluster = match Lab::up(&std::env::var("RK_TEST_LAB").unwrap_or_else(|_| "rk-cluster-test".to_owned()), &["--nodes", "1"])
    {
        Ok((lab, _)) => {
            let kubectl = lab.kubectl();
            Arc::new(Cluster { lab, kubectl, image: format!("registry.k8s.io/rk-test:{}", component::version::current()) })
        }
        Err(error) => {
            eprintln!("{error:#}");
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    let trials = SCENARIOS
        .iter()
        .map(|(name, scenario)| {
            let cluster = cluster.clone();
            Trial::test(*name, move || {
                let outcome = scenario(&cluster).and_then(|()| cluster.leaves_nothing());
                outcome.map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(cluster);
    conclusion.exit_code()
}
