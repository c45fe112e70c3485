//! The last words: how to use the cluster and how other hosts join.

use crate::init::Init;

pub async fn run(init: &mut Init) -> anyhow::Result<()> {
    if init.node.dry_run {
        crate::node::show_files(&init.node.files);
        println!("[dryrun] Finished dry-running successfully. Above are the resources that would be created");
        return Ok(());
    }
    let token = init.init.bootstrap_tokens.first().map(|token| token.token.clone()).unwrap_or_default();
    let shown = if init.skip_token_print { "<token>".to_string() } else { token };
    let join = join_command(&init.node, &shown)?;
    println!("\nYour Kubernetes control-plane has initialized successfully!\n");
    println!("To start using your cluster, you need to run the following as a regular user:\n");
    println!(
        "  mkdir -p $HOME/.kube\n  sudo cp -i /etc/kubernetes/admin.conf $HOME/.kube/config\n  sudo chown $(id -u):$(id -g) $HOME/.kube/config\n"
    );
    println!("Alternatively, if you are the root user, you can run:\n\n  export KUBECONFIG=/etc/kubernetes/admin.conf\n");
    if init.node.cluster.networking.pod_subnet.is_empty() {
        println!(
            "No --pod-network-cidr was given, so no pod network was installed: apply one with kubectl before pods can run.\n"
        );
    }
    if !init.node.cluster.control_plane_endpoint.is_empty() {
        if init.upload_certs {
            let key = if init.skip_certificate_key_print { "<key>" } else { init.init.certificate_key.as_str() };
            println!("You can now join any number of control-plane nodes running the following command on each as root:\n");
            println!("{join} \\\n\t--control-plane --certificate-key {key}\n");
            println!("Please note that the certificate-key gives access to cluster sensitive data, keep it secret!");
            println!(
                "As a safeguard, uploaded-certs will be deleted in two hours; \"rkadm init phase upload-certs --upload-certs\" uploads them anew.\n"
            );
        } else {
            println!("You can now join any number of control-plane nodes by copying certificate authorities");
            println!("and service account keys on each node and then running the following as root:\n");
            println!("{join} \\\n\t--control-plane\n");
        }
    }
    println!("Then you can join any number of worker nodes by running the following on each as root:\n\n{join}\n");
    Ok(())
}

/// `rkadm join HOST:PORT --token … --discovery-token-ca-cert-hash …`.
pub fn join_command(node: &crate::node::Node, token: &str) -> anyhow::Result<String> {
    let ca = pki::tree::authority_certificate(&node.files, &node.pki_dir(), "ca")?;
    let endpoint = node.server();
    let endpoint = endpoint.trim_start_matches("https://");
    Ok(format!("rkadm join {endpoint} --token {token} \\\n\t--discovery-token-ca-cert-hash {}", ca.public_key_pin()))
}
