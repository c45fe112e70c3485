//! `rkadm kubeconfig user`: a kubeconfig for somebody, with a certificate or a token.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use pki::kubeconfig::Credentials;
use pki::{Files, KeyPool, Kubeconfig, Subject, tree};

use crate::apply::Api;

#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    #[command(subcommand)]
    command: KubeconfigCommand,
}

#[derive(Debug, Subcommand)]
enum KubeconfigCommand {
    /// Output a kubeconfig file for an additional user
    User {
        /// The name of user. It will be used as the CN if client certificates are created
        #[arg(long)]
        client_name: String,
        /// Path to a kubeadm configuration file; without, the cluster is asked
        #[arg(long)]
        config: Option<String>,
        /// The organizations of the client certificate. It will be used as the O if client certificates are created
        #[arg(long, value_delimiter = ',')]
        org: Vec<String>,
        /// The token that should be used as the authentication mechanism for this kubeconfig, instead of client certificates
        #[arg(long)]
        token: Option<String>,
        /// The validity period of the client certificate
        #[arg(long, value_parser = component::duration::parse, default_value = "8760h0m0s")]
        validity_period: Duration,
    },
}

pub async fn run(args: KubeconfigArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    let KubeconfigCommand::User { client_name, config, org, token, validity_period } = args.command;
    let files = rootfs.map_or_else(Files::host, Files::below);
    let cluster = match &config {
        Some(path) => crate::config::load(path)?.cluster.unwrap_or_default(),
        None => super::cluster_configuration(&Api::connect(crate::node::ADMIN.as_ref(), Duration::from_secs(5)).await?).await?,
    };
    let dir = PathBuf::from(&cluster.certificates_dir);
    // admin.conf knows the endpoint that this cluster is reached at.
    let admin =
        files.read(crate::node::ADMIN)?.context("/etc/kubernetes/admin.conf is missing: run this on a control-plane node")?;
    let server = Kubeconfig::parse(&admin)?.server;
    let made = match token {
        Some(token) => {
            let ca = tree::authority_certificate(&files, &dir, "ca")?;
            Kubeconfig {
                cluster: cluster.cluster_name,
                user: client_name,
                server,
                tls_server_name: None,
                certificate_authority: ca.to_pem().into_bytes(),
                credentials: Credentials::Token(token),
            }
        }
        None => {
            let authority = tree::load_authority(&files, &dir, "ca")?;
            let subject = Subject { common_name: client_name, organizations: org };
            let keys = KeyPool::lazy(cluster.encryption_algorithm.parse()?);
            tree::user_kubeconfig(&authority, subject, &cluster.cluster_name, &server, SystemTime::now(), validity_period, &keys)?
        }
    };
    print!("{}", made.to_yaml()?);
    Ok(())
}
