//! pki: makes and looks at the certificates of a cluster, without a cluster.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context as _;
use clap::Parser;
use pki::{
    Algorithm, Authority, Certificate, Files, KeyPool, Kubeconfig, PrivateKey, Request, San, Subject, Usage, expiration, tree,
};

#[derive(Parser)]
#[command(name = "pki", version, about = "Makes and looks at the certificates of a Kubernetes cluster")]
enum Command {
    /// Write the whole tree of a control-plane node: certificates, keys, kubeconfigs
    Init {
        /// The directory that stands for /etc/kubernetes
        #[arg(long, default_value = "/etc/kubernetes")]
        dir: PathBuf,
        #[arg(long)]
        node_name: String,
        #[arg(long)]
        advertise_address: IpAddr,
        #[arg(long, default_value = "10.96.0.1")]
        service_address: IpAddr,
        #[arg(long, default_value = "cluster.local")]
        dns_domain: String,
        #[arg(long, default_value_t = 6443)]
        port: u16,
        /// More names or addresses of the API server
        #[arg(long = "san")]
        sans: Vec<String>,
        #[arg(long, default_value = "RSA-2048")]
        algorithm: Algorithm,
    },
    /// Show what certificates, requests or kubeconfigs say
    Show { files: Vec<PathBuf> },
    /// Print a new key and request: key first
    Request {
        #[arg(long)]
        common_name: String,
        #[arg(long = "organization")]
        organizations: Vec<String>,
        #[arg(long = "san")]
        sans: Vec<String>,
        #[arg(long, default_value = "RSA-2048")]
        algorithm: Algorithm,
    },
    /// Sign a request with an authority and print the certificate
    Sign {
        #[arg(long)]
        ca: PathBuf,
        #[arg(long)]
        ca_key: PathBuf,
        #[arg(long, default_value_t = 365)]
        days: u64,
        /// A usage by its name in CertificateSigningRequests, e.g. "client auth"
        #[arg(long = "usage", default_values = ["digital signature", "key encipherment", "client auth"])]
        usages: Vec<String>,
        request: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let now = SystemTime::now();
    match Command::parse() {
        Command::Init { dir, node_name, advertise_address, service_address, dns_domain, port, sans, algorithm } => {
            let cluster = tree::Cluster {
                node_name,
                advertise_address,
                service_addresses: vec![service_address],
                dns_domain,
                control_plane_host: None,
                apiserver_sans: sans,
                etcd_server_sans: Vec::new(),
                etcd_peer_sans: Vec::new(),
                external_etcd: false,
                algorithm,
                validity: pki::LEAF_VALIDITY,
                ca_validity: pki::CA_VALIDITY,
                now,
            };
            let keys = KeyPool::start(algorithm, tree::key_count(&cluster));
            let server = format!("https://{}", std::net::SocketAddr::new(advertise_address, port));
            let dir = std::path::absolute(&dir).context("finding the directory")?;
            tree::ensure_all(&mut Files::host(), &dir, &cluster, &server, &server, &keys)?;
        }
        Command::Show { files } => {
            for path in files {
                let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                show(&path.display().to_string(), &text).with_context(|| path.display().to_string())?;
            }
        }
        Command::Request { common_name, organizations, sans, algorithm } => {
            let key = PrivateKey::generate(algorithm)?;
            let sans: Vec<_> = sans.iter().map(|san| San::guess(san)).collect();
            let request = Request::generate(&key, &Subject { common_name, organizations }, &sans)?;
            print!("{}{}", key.to_pem()?, request.to_pem());
        }
        Command::Sign { ca, ca_key, days, usages, request } => {
            let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
            let authority = Authority::from_pem(&read(&ca)?, &read(&ca_key)?)?;
            let request = Request::from_pem(&read(&request)?)?;
            let usages = usages
                .iter()
                .map(|name| Usage::parse(name).with_context(|| format!("unknown usage {name:?}")))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let end = now + std::time::Duration::from_secs(days * 86400);
            print!("{}", authority.sign_request(&request, &usages, now - pki::BACKDATE, end)?.to_pem());
        }
    }
    Ok(())
}

fn show(name: &str, text: &[u8]) -> anyhow::Result<()> {
    if let Ok(request) = Request::from_pem(text) {
        println!("{name}: request for {} {}", request.subject(), list(request.sans()));
        return Ok(());
    }
    let mut certificates = Certificate::chain_from_pem(text).unwrap_or_default();
    if certificates.is_empty() {
        let config = Kubeconfig::parse(text)?;
        println!("{name}: kubeconfig, user {} at {}", config.user, config.server);
        certificates.extend(config.certificate()?);
    }
    for certificate in certificates {
        println!(
            "{name}: {} issued by {} from {} to {} {}",
            certificate.subject(),
            certificate.issuer(),
            expiration::stamp(certificate.not_before()),
            expiration::stamp(certificate.not_after()),
            list(certificate.sans())
        );
    }
    Ok(())
}

fn list(sans: &[San]) -> String {
    sans.iter().map(San::to_string).collect::<Vec<_>>().join(", ")
}
