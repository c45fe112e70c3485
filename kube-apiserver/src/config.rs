//! The flags, checked and resolved.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use api::lister::Lister;
use auth::authn::anonymous::Anonymous;
use auth::authn::request_header::RequestHeader;
use auth::authn::service_account::ServiceAccounts;
use auth::authn::token_file::TokenFile;
use auth::authn::x509::Bundle;
use auth::authn::{Authenticator, oidc};
use auth::authz::Mode;
use auth::token::issue::Issuer;
use auth::token::key::{KeySet, SigningKey};
use component::tasks::Tasks;
use component::tls::{self, Serving};
use ipnet::IpNet;

use crate::audit::{AuditConfig, log::LogOptions};
use crate::options::Options;
use crate::storage::EtcdConfig;
use crate::tls as tls_flags;

/// A client certificate and its key, as files.
pub type Pair = (PathBuf, PathBuf);

/// What the server runs with.
#[derive(Debug)]
pub struct Config {
    /// etcd.
    pub etcd: EtcdConfig,
    /// See the flag.
    pub etcd_compaction_interval: Duration,
    /// See the flag.
    pub etcd_healthcheck_timeout: Duration,
    /// See the flag.
    pub event_ttl: Duration,
    /// Where to listen.
    pub bind_address: SocketAddr,
    /// What the `kubernetes` Service leads to.
    pub advertise_address: IpAddr,
    tls: Option<Pair>,
    /// `--tls-*` beyond the certificate.
    pub tls_settings: tls_flags::Settings,
    /// See the flag.
    pub http2: bool,
    /// Requests at once on one connection of HTTP/2; 0: the default.
    pub http2_max_streams: u32,
    /// Whether others may listen on the same port.
    pub share_port: bool,
    /// What clients are told to reach the server by.
    pub external_hostname: Option<String>,
    /// The value of the Strict-Transport-Security header.
    pub strict_transport_security: Option<String>,
    /// Origins that browsers may call from.
    pub cors_origins: Vec<regex::Regex>,
    /// See the flag.
    pub goaway_chance: f64,
    /// Whether requests are sorted into priority levels.
    pub priority_and_fairness: bool,
    /// What is audited, and where it goes.
    pub audit: Option<AuditConfig>,
    client_ca: Option<PathBuf>,
    request_header: Option<(PathBuf, [Vec<String>; 5])>,
    token_file: Option<PathBuf>,
    bootstrap_tokens: bool,
    anonymous: Anonymous,
    oidc: Vec<oidc::Issuer>,
    api_audiences: Vec<String>,
    service_account_keys: Vec<PathBuf>,
    service_account_signing_key: Option<PathBuf>,
    /// `--service-account-issuer`.
    pub service_account_issuers: Vec<String>,
    /// `--service-account-jwks-uri`.
    pub service_account_jwks_uri: Option<String>,
    service_account_lookup: bool,
    service_account_extend: bool,
    service_account_max: Duration,
    /// See the flag.
    pub authorization_modes: Vec<Mode>,
    /// See the flag.
    pub enable_admission_plugins: Vec<String>,
    /// See the flag.
    pub disable_admission_plugins: Vec<String>,
    /// not-ready, unreachable.
    pub toleration_seconds: (i64, i64),
    /// See the flag.
    pub runtime_config: BTreeMap<String, String>,
    /// See the flag.
    pub allow_privileged: bool,
    /// See the flag.
    pub max_requests_inflight: usize,
    /// See the flag.
    pub max_mutating_requests_inflight: usize,
    /// See the flag.
    pub request_timeout: Duration,
    /// See the flag.
    pub min_request_timeout: Duration,
    /// See the flag.
    pub shutdown_delay: Duration,
    /// See the flag.
    pub kubelet_ca: Option<PathBuf>,
    /// See the flag.
    pub kubelet_client: Option<Pair>,
    /// See the flag.
    pub kubelet_address_types: Vec<String>,
    /// See the flag.
    pub kubelet_timeout: Duration,
    /// Addresses of Services; the first is the primary family.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports, both ends included.
    pub node_ports: (u16, u16),
    /// Whether this server adds itself to the `kubernetes` endpoints.
    pub reconcile_endpoints: bool,
    /// For the `kubernetes` Service; 0: none.
    pub kubernetes_node_port: u16,
}

impl TryFrom<Options> for Config {
    type Error = anyhow::Error;

    fn try_from(options: Options) -> anyhow::Result<Self> {
        // Destructured, so that no flag is forgotten; those without a name are accepted without effect, as their help says.
        let Options {
            version: _,
            verbosity: _,
            logging_format: _,
            log_flush_frequency: _,
            vmodule: _,
            advertise_address,
            bind_address,
            secure_port,
            cert_dir: _,
            tls_cert_file,
            tls_private_key_file,
            tls_cipher_suites,
            tls_min_version,
            tls_curve_preferences,
            tls_sni_cert_key,
            disable_http2_serving,
            http2_max_streams_per_connection,
            permit_address_sharing: _,
            permit_port_sharing,
            external_hostname,
            strict_transport_security_directives,
            cors_allowed_origins,
            etcd_servers,
            etcd_servers_overrides,
            etcd_prefix,
            etcd_cafile,
            etcd_certfile,
            etcd_keyfile,
            etcd_compaction_interval,
            etcd_healthcheck_timeout,
            etcd_readycheck_timeout: _,
            etcd_count_metric_poll_period: _,
            etcd_db_metric_poll_interval: _,
            storage_backend,
            storage_media_type,
            watch_cache,
            watch_cache_sizes: _,
            lease_reuse_duration_seconds: _,
            delete_collection_workers: _,
            enable_garbage_collector,
            event_ttl,
            encryption_provider_config,
            encryption_provider_config_automatic_reload,
            audit_policy_file,
            audit_log_path,
            audit_log_format,
            audit_log_version,
            audit_log_mode,
            audit_log_maxage,
            audit_log_maxbackup,
            audit_log_maxsize,
            audit_log_compress,
            audit_log_batch_buffer_size,
            audit_log_truncate_enabled,
            audit_log_truncate_max_event_size,
            audit_log_truncate_max_batch_size: _,
            client_ca_file,
            token_auth_file,
            enable_bootstrap_token_auth,
            anonymous_auth,
            authentication_config,
            oidc_ca_file,
            oidc_client_id,
            oidc_groups_claim,
            oidc_groups_prefix,
            oidc_issuer_url,
            oidc_required_claim,
            oidc_signing_algs,
            oidc_username_claim,
            oidc_username_prefix,
            api_audiences,
            requestheader_client_ca_file,
            requestheader_allowed_names,
            requestheader_username_headers,
            requestheader_uid_headers,
            requestheader_group_headers,
            requestheader_extra_headers_prefix,
            service_account_key_file,
            service_account_signing_key_file,
            service_account_issuer,
            service_account_jwks_uri,
            service_account_lookup,
            service_account_extend_token_expiration,
            service_account_max_token_expiration,
            authorization_config,
            authorization_mode,
            enable_admission_plugins,
            disable_admission_plugins,
            default_not_ready_toleration_seconds,
            default_unreachable_toleration_seconds,
            runtime_config,
            feature_gates,
            allow_privileged,
            max_requests_inflight,
            max_mutating_requests_inflight,
            enable_priority_and_fairness,
            request_timeout,
            min_request_timeout,
            shutdown_delay_duration,
            goaway_chance,
            livez_grace_period: _,
            profiling: _,
            kubelet_certificate_authority,
            kubelet_client_certificate,
            kubelet_client_key,
            kubelet_preferred_address_types,
            kubelet_timeout,
            proxy_client_cert_file,
            proxy_client_key_file,
            service_cluster_ip_range,
            service_node_port_range,
            endpoint_reconciler_type,
            kubernetes_service_node_port,
        } = options;
        ensure!(!etcd_servers.is_empty(), "--etcd-servers must be specified");
        ensure!(matches!(storage_backend.as_str(), "" | "etcd3"), "--storage-backend invalid, allowed values: etcd3");
        ensure!(watch_cache, "--watch-cache=false is not yet supported by rk");
        ensure!(enable_garbage_collector, "--enable-garbage-collector=false is not yet supported by rk");
        ensure!(
            matches!(storage_media_type.as_str(), "application/json" | "application/vnd.kubernetes.protobuf"),
            "--storage-media-type {storage_media_type:?} is not yet supported by rk"
        );
        ensure!((0.0..=0.02).contains(&goaway_chance), "--goaway-chance can not be less than 0 or greater than 0.02");
        let tls_settings =
            tls_flags::Settings::new(&tls_cipher_suites, tls_min_version.as_deref(), &tls_curve_preferences, &tls_sni_cert_key)
                .map_err(anyhow::Error::msg)?;
        let cors_origins = cors_allowed_origins
            .iter()
            .map(|text| {
                regex::Regex::new(text).with_context(|| format!("--cors-allowed-origins has invalid regular expression {text:?}"))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let audit = AuditConfig::new(
            audit_policy_file,
            LogOptions {
                path: audit_log_path,
                format: audit_log_format,
                version: audit_log_version,
                mode: audit_log_mode,
                max_age_days: audit_log_maxage,
                max_backups: audit_log_maxbackup,
                max_megabytes: audit_log_maxsize,
                compress: audit_log_compress,
                buffer: audit_log_batch_buffer_size,
                most_bytes: audit_log_truncate_enabled.then_some(audit_log_truncate_max_event_size),
            },
        )
        .map_err(anyhow::Error::msg)?;
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("failed to read {}", path.display()));
        let identity = match (&etcd_certfile, &etcd_keyfile) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            (None, None) => None,
            _ => bail!("--etcd-certfile and --etcd-keyfile must be given together"),
        };
        let pair = |cert: Option<PathBuf>, key: Option<PathBuf>, name: &str| match (cert, key) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (None, None) => Ok(None),
            _ => bail!("the certificate and the key of {name} must be given together"),
        };
        // For extension servers, of which there are none yet: at least the flags fit together.
        pair(proxy_client_cert_file, proxy_client_key_file, "--proxy-client-cert-file")?;
        let advertise_address = match advertise_address {
            Some(address) => address,
            None if !bind_address.is_unspecified() => bind_address,
            None => own_address(),
        };
        let authorization_modes = match authorization_config {
            Some(file) => {
                ensure!(
                    authorization_mode.is_empty(),
                    "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"
                );
                let text = String::from_utf8_lossy(&read(&file)?).into_owned();
                auth::authz::config::parse(&text).map_err(anyhow::Error::msg).context("--authorization-config")?
            }
            None => {
                let modes = if authorization_mode.is_empty() { vec!["AlwaysAllow".to_owned()] } else { authorization_mode };
                modes.iter().map(|mode| mode.parse()).collect::<Result<Vec<_>, String>>().map_err(anyhow::Error::msg)?
            }
        };
        let flags = OidcFlags {
            ca: oidc_ca_file.as_ref().map(read).transpose()?,
            client_id: oidc_client_id,
            groups_claim: oidc_groups_claim,
            groups_prefix: oidc_groups_prefix,
            url: oidc_issuer_url,
            required: oidc_required_claim,
            algorithms: oidc_signing_algs,
            username_claim: oidc_username_claim,
            username_prefix: oidc_username_prefix,
        };
        let (mut anonymous, mut oidc) = (Anonymous { enabled: anonymous_auth, paths: Vec::new() }, flags.issuer()?);
        if let Some(file) = authentication_config {
            ensure!(oidc.is_empty(), "authentication-config file and oidc-* flags are mutually exclusive");
            let text = String::from_utf8_lossy(&read(&file)?).into_owned();
            let structured = auth::authn::config::parse(&text).map_err(anyhow::Error::msg).context("--authentication-config")?;
            oidc = structured.issuers;
            anonymous = structured.anonymous.unwrap_or(anonymous);
        }
        let (low, high) = service_node_port_range
            .split_once('-')
            .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)))
            .with_context(|| format!("--service-node-port-range {service_node_port_range:?} is not a range of ports"))?;
        ensure!(low <= high && low > 0, "--service-node-port-range {service_node_port_range:?} is empty");
        ensure!(
            matches!(endpoint_reconciler_type.as_str(), "lease" | "none" | "master-count"),
            "--endpoint-reconciler-type {endpoint_reconciler_type:?} is not known"
        );
        if !feature_gates.is_empty() {
            // Gates only choose among what upstream has; what is on here is what is on there by default.
            let gates = component::flags::parse_map(&feature_gates).map_err(anyhow::Error::msg).context("--feature-gates")?;
            for (gate, value) in gates {
                ensure!(
                    matches!(value.as_str(), "true" | "false"),
                    "invalid value of {gate}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                );
                ensure!(
                    !(matches!(gate.as_str(), "AllAlpha" | "AllBeta") && value == "true"),
                    "--feature-gates={gate}=true is not yet supported by rk"
                );
                tracing::warn!(gate, value, "Feature gates are not switchable: what upstream has on by default is on");
            }
        }
        let runtime_config = parse_runtime_config(&runtime_config);
        let issuers = service_account_issuer;
        let api_audiences = if api_audiences.is_empty() { issuers.clone() } else { api_audiences };
        Ok(Self {
            etcd: EtcdConfig {
                overrides: etcd_servers_overrides.iter().map(|text| parse_override(text)).collect::<anyhow::Result<_>>()?,
                servers: etcd_servers.iter().map(|server| server.trim().to_owned()).collect(),
                prefix: format!("/{}", etcd_prefix.trim_matches('/')),
                ca: etcd_cafile.as_ref().map(read).transpose()?,
                identity,
                encryption: encryption_provider_config.map(|file| (file, encryption_provider_config_automatic_reload)),
            },
            etcd_compaction_interval,
            etcd_healthcheck_timeout,
            event_ttl,
            bind_address: SocketAddr::new(bind_address, secure_port),
            advertise_address,
            tls: pair(tls_cert_file, tls_private_key_file, "--tls-cert-file")?,
            tls_settings,
            http2: !disable_http2_serving,
            http2_max_streams: http2_max_streams_per_connection,
            share_port: permit_port_sharing,
            external_hostname: external_hostname.filter(|name| !name.is_empty()),
            strict_transport_security: (!strict_transport_security_directives.is_empty())
                .then(|| strict_transport_security_directives.join("; ")),
            cors_origins,
            goaway_chance,
            priority_and_fairness: enable_priority_and_fairness,
            audit,
            client_ca: client_ca_file,
            request_header: requestheader_client_ca_file.map(|ca| {
                (
                    ca,
                    [
                        requestheader_allowed_names,
                        requestheader_username_headers,
                        requestheader_uid_headers,
                        requestheader_group_headers,
                        requestheader_extra_headers_prefix,
                    ],
                )
            }),
            token_file: token_auth_file,
            bootstrap_tokens: enable_bootstrap_token_auth,
            anonymous,
            oidc,
            api_audiences,
            service_account_keys: if service_account_key_file.is_empty() {
                service_account_signing_key_file.iter().cloned().collect()
            } else {
                service_account_key_file
            },
            service_account_signing_key: service_account_signing_key_file,
            service_account_issuers: issuers,
            service_account_jwks_uri,
            service_account_lookup,
            service_account_extend: service_account_extend_token_expiration,
            service_account_max: service_account_max_token_expiration,
            authorization_modes,
            enable_admission_plugins,
            disable_admission_plugins,
            toleration_seconds: (default_not_ready_toleration_seconds, default_unreachable_toleration_seconds),
            runtime_config,
            allow_privileged,
            max_requests_inflight,
            max_mutating_requests_inflight,
            request_timeout,
            min_request_timeout: Duration::from_secs(min_request_timeout),
            shutdown_delay: shutdown_delay_duration,
            kubelet_ca: kubelet_certificate_authority,
            kubelet_client: pair(kubelet_client_certificate, kubelet_client_key, "--kubelet-client-certificate")?,
            kubelet_address_types: kubelet_preferred_address_types,
            kubelet_timeout,
            service_cidrs: service_cluster_ip_range.iter().map(IpNet::trunc).collect(),
            node_ports: (low, high),
            // Endpoints may not name the loopback: such a server is alone and nobody needs to find it.
            reconcile_endpoints: endpoint_reconciler_type != "none" && !advertise_address.is_loopback(),
            kubernetes_node_port: kubernetes_service_node_port,
        })
    }
}

/// The `--oidc-*` flags.
struct OidcFlags {
    ca: Option<Vec<u8>>,
    client_id: Option<String>,
    groups_claim: Option<String>,
    groups_prefix: String,
    url: Option<String>,
    required: Vec<String>,
    algorithms: Vec<String>,
    username_claim: String,
    username_prefix: String,
}

impl OidcFlags {
    /// The issuer that they describe, if any.
    fn issuer(self) -> anyhow::Result<Vec<oidc::Issuer>> {
        ensure!(
            self.url.is_some() == self.client_id.is_some(),
            "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"
        );
        let (Some(url), Some(client_id)) = (self.url, self.client_id) else { return Ok(Vec::new()) };
        auth::authn::config::check_url(&url).map_err(anyhow::Error::msg).context("--oidc-issuer-url")?;
        let prefix = match self.username_prefix.as_str() {
            "-" => String::new(),
            // Names of an issuer do not mix with others', unless they are addresses.
            "" if self.username_claim != "email" => format!("{url}#"),
            given => given.to_owned(),
        };
        let algorithm = |text: &String| {
            let known = text.parse().ok().filter(|_| !text.starts_with("HS"));
            known.with_context(|| format!("--oidc-signing-algs: {text:?} is not supported"))
        };
        let required = self.required.join(",");
        Ok(vec![oidc::Issuer {
            url,
            discovery_url: None,
            ca: self.ca,
            audiences: vec![client_id],
            username: oidc::Claim { name: self.username_claim, prefix },
            groups: self.groups_claim.map(|name| oidc::Claim { name, prefix: self.groups_prefix }),
            uid: None,
            required: component::flags::parse_map(&required).map_err(anyhow::Error::msg).context("--oidc-required-claim")?,
            algorithms: self.algorithms.iter().map(algorithm).collect::<anyhow::Result<_>>()?,
        }])
    }
}

/// Resources that this server reads from and writes to etcd by itself, always in the main one.
const AT_HOME: &[&str] = &["resourcequotas", "ipaddresses"];

/// `group/resource#server;server`
fn parse_override(text: &str) -> anyhow::Result<(String, String, Vec<String>)> {
    const FORMAT: &str = "--etcd-servers-overrides invalid, must be of format: group/resource#servers, where servers are URLs, semicolon separated";
    let (what, servers) = text.split_once('#').context(FORMAT)?;
    let (group, resource) = what.trim().split_once('/').context(FORMAT)?;
    let servers: Vec<String> =
        servers.split(';').map(|server| server.trim().to_owned()).filter(|server| !server.is_empty()).collect();
    ensure!(!servers.is_empty() && !resource.is_empty() && !servers.iter().any(|server| server.contains('#')), FORMAT);
    ensure!(!AT_HOME.contains(&resource), "--etcd-servers-overrides for {resource} is not yet supported by rk");
    Ok((group.to_owned(), resource.to_owned(), servers))
}

/// `a=b,c` as a map; a name alone is `true`.
fn parse_runtime_config(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "true")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The address of this host that leads outside; nothing is sent to find it.
fn own_address() -> IpAddr {
    let local = IpAddr::from([127, 0, 0, 1]);
    let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return local };
    // A connected datagram socket only asks the routing table.
    if socket.connect("192.0.2.1:9").is_err() {
        return local;
    }
    socket.local_addr().map_or(local, |address| address.ip())
}

impl Config {
    /// The serving certificate: from files, else self-signed.
    ///
    /// # Errors
    /// Unusable files.
    pub fn serving(&self, tasks: &Tasks) -> anyhow::Result<Arc<Serving>> {
        if let Some((cert, key)) = &self.tls {
            return Ok(Serving::follow(tasks, cert, key)?);
        }
        let names = ["kubernetes.default.svc", "kubernetes.default", "kubernetes", "localhost", "127.0.0.1"];
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        names.push(self.advertise_address.to_string());
        if let Some(first) = self.service_cidrs.first().and_then(|cidr| cidr.hosts().next()) {
            names.push(first.to_string());
        }
        Ok(Serving::new(tls::self_signed(names)?))
    }

    /// What clients are told to reach the server by.
    pub fn external_address(&self) -> String {
        let port = self.bind_address.port();
        match &self.external_hostname {
            Some(name) => format!("{name}:{port}"),
            None => SocketAddr::new(self.advertise_address, port).to_string(),
        }
    }

    /// The authenticators.
    ///
    /// # Errors
    /// Unusable files.
    pub fn authenticator(&self, lister: Arc<dyn Lister>) -> anyhow::Result<Authenticator> {
        let message = anyhow::Error::msg;
        let request_header = match &self.request_header {
            None => None,
            Some((ca, [names, users, uids, groups, extra])) => Some(RequestHeader {
                bundle: Bundle::load(ca).map_err(message)?,
                allowed_names: names.clone(),
                username_headers: users.clone(),
                uid_headers: uids.clone(),
                group_headers: groups.clone(),
                extra_prefixes: extra.clone(),
            }),
        };
        let service_accounts = if self.service_account_keys.is_empty() || self.service_account_issuers.is_empty() {
            None
        } else {
            let keys = KeySet::load(self.service_account_keys.clone()).map_err(message)?;
            Some(ServiceAccounts::new(keys, self.service_account_issuers.clone(), self.service_account_lookup))
        };
        Ok(Authenticator {
            request_header,
            client_ca: self.client_ca.as_deref().map(Bundle::load).transpose().map_err(message)?,
            token_file: self.token_file.as_deref().map(TokenFile::load).transpose().map_err(message)?,
            service_accounts,
            bootstrap_tokens: self.bootstrap_tokens,
            oidc: self.oidc.iter().cloned().map(oidc::Oidc::new).collect(),
            anonymous: Anonymous {
                enabled: self.anonymous.enabled && !self.authorization_modes.contains(&Mode::AlwaysAllow),
                paths: self.anonymous.paths.clone(),
            },
            api_audiences: self.api_audiences.clone(),
            lister,
        })
    }

    /// What makes service account tokens.
    ///
    /// # Errors
    /// An unusable key.
    pub fn issuer(&self) -> anyhow::Result<Option<Issuer>> {
        let (Some(path), Some(issuer)) = (&self.service_account_signing_key, self.service_account_issuers.first()) else {
            return Ok(None);
        };
        let pem = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        Ok(Some(Issuer {
            issuer: issuer.clone(),
            key: SigningKey::from_pem(&pem).map_err(anyhow::Error::msg)?,
            api_audiences: self.api_audiences.clone(),
            max_seconds: i64::try_from(self.service_account_max.as_secs()).unwrap_or(0),
            extend: self.service_account_extend,
        }))
    }

    /// The front proxies' headers and names, for the `extension-apiserver-authentication` ConfigMap.
    pub fn request_header_lists(&self) -> Option<&[Vec<String>; 5]> {
        self.request_header.as_ref().map(|(_, lists)| lists)
    }
}
