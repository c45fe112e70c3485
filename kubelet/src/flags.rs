//! The command line: upstream's flags, read as pflag reads them.
//!
//! A flag is one line in [`FLAGS`]. Most name a field of `KubeletConfiguration` by its path: what the command line says is laid over
//! the configuration file as a document, so both meet in one typed parse. The others are the process's own ([`Flags::own`]).
//!
//! Upstream: cmd/kubelet/app/options

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// How a flag's text becomes a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Text, durations and quantities included.
    Text,
    /// A whole number.
    Number,
    /// `--x`, `--x=true`, `--x=false`.
    Bool,
    /// `a,b`, may be repeated.
    List,
    /// `a=b,c=d`, may be repeated.
    Map,
    /// `a=true,b=false`.
    BoolMap,
    /// `key=value:Effect,…`.
    Taints,
    /// `imagefs.available<15%,…`: eviction thresholds.
    Thresholds,
}

/// Where a flag's value goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    /// A field of the configuration, by path.
    Config(&'static str),
    /// Of the process.
    Own,
    /// Accepted and without effect, as upstream's leftovers of cAdvisor are.
    Ignored,
}
use Kind::{Bool, BoolMap, List, Map as Pairs, Number, Taints, Text, Thresholds};
use Target::{Config, Ignored, Own};

/// Every flag: name, how it is read, where it goes.
const FLAGS: &[(&str, Kind, Target)] = &[
    ("address", Text, Config("address")),
    ("allowed-unsafe-sysctls", List, Config("allowedUnsafeSysctls")),
    ("anonymous-auth", Bool, Config("authentication.anonymous.enabled")),
    ("application-metrics-count-limit", Number, Ignored),
    ("authentication-token-webhook", Bool, Config("authentication.webhook.enabled")),
    ("authentication-token-webhook-cache-ttl", Text, Config("authentication.webhook.cacheTTL")),
    ("authorization-mode", Text, Config("authorization.mode")),
    ("authorization-webhook-cache-authorized-ttl", Text, Config("authorization.webhook.cacheAuthorizedTTL")),
    ("authorization-webhook-cache-unauthorized-ttl", Text, Config("authorization.webhook.cacheUnauthorizedTTL")),
    ("boot-id-file", Text, Ignored),
    ("bootstrap-kubeconfig", Text, Own),
    ("cert-dir", Text, Own),
    ("cgroup-driver", Text, Config("cgroupDriver")),
    ("cgroup-root", Text, Config("cgroupRoot")),
    ("cgroups-per-qos", Bool, Config("cgroupsPerQOS")),
    ("client-ca-file", Text, Config("authentication.x509.clientCAFile")),
    ("cloud-provider", Text, Own),
    ("cluster-dns", List, Config("clusterDNS")),
    ("cluster-domain", Text, Config("clusterDomain")),
    ("config", Text, Own),
    ("config-dir", Text, Own),
    ("container-hints", Text, Ignored),
    ("container-log-max-files", Number, Config("containerLogMaxFiles")),
    ("container-log-max-size", Text, Config("containerLogMaxSize")),
    ("container-runtime-endpoint", Text, Config("containerRuntimeEndpoint")),
    ("containerd", Text, Ignored),
    ("containerd-namespace", Text, Ignored),
    ("contention-profiling", Bool, Config("enableContentionProfiling")),
    ("cpu-cfs-quota", Bool, Config("cpuCFSQuota")),
    ("cpu-cfs-quota-period", Text, Config("cpuCFSQuotaPeriod")),
    ("cpu-manager-policy", Text, Config("cpuManagerPolicy")),
    ("cpu-manager-policy-options", Pairs, Config("cpuManagerPolicyOptions")),
    ("cpu-manager-reconcile-period", Text, Config("cpuManagerReconcilePeriod")),
    ("enable-controller-attach-detach", Bool, Config("enableControllerAttachDetach")),
    ("enable-debugging-handlers", Bool, Config("enableDebuggingHandlers")),
    ("enable-load-reader", Bool, Ignored),
    ("enable-server", Bool, Config("enableServer")),
    ("enforce-node-allocatable", List, Config("enforceNodeAllocatable")),
    ("event-burst", Number, Config("eventBurst")),
    ("event-qps", Number, Config("eventRecordQPS")),
    ("event-storage-age-limit", Text, Ignored),
    ("event-storage-event-limit", Text, Ignored),
    ("eviction-hard", Thresholds, Config("evictionHard")),
    ("eviction-max-pod-grace-period", Number, Config("evictionMaxPodGracePeriod")),
    ("eviction-minimum-reclaim", Pairs, Config("evictionMinimumReclaim")),
    ("eviction-pressure-transition-period", Text, Config("evictionPressureTransitionPeriod")),
    ("eviction-soft", Thresholds, Config("evictionSoft")),
    ("eviction-soft-grace-period", Pairs, Config("evictionSoftGracePeriod")),
    ("exit-on-lock-contention", Bool, Own),
    ("experimental-allocatable-ignore-eviction", Bool, Own),
    ("experimental-mounter-path", Text, Ignored),
    ("fail-cgroupv1", Bool, Config("failCgroupV1")),
    ("fail-swap-on", Bool, Config("failSwapOn")),
    ("feature-gates", BoolMap, Config("featureGates")),
    ("file-check-frequency", Text, Config("fileCheckFrequency")),
    ("global-housekeeping-interval", Text, Ignored),
    ("hairpin-mode", Text, Config("hairpinMode")),
    ("healthz-bind-address", Text, Config("healthzBindAddress")),
    ("healthz-port", Number, Config("healthzPort")),
    ("hostname-override", Text, Own),
    ("housekeeping-interval", Text, Ignored),
    ("http-check-frequency", Text, Config("httpCheckFrequency")),
    ("image-credential-provider-bin-dir", Text, Own),
    ("image-credential-provider-config", Text, Own),
    ("image-gc-high-threshold", Number, Config("imageGCHighThresholdPercent")),
    ("image-gc-low-threshold", Number, Config("imageGCLowThresholdPercent")),
    ("image-service-endpoint", Text, Config("imageServiceEndpoint")),
    ("kernel-memcg-notification", Bool, Config("kernelMemcgNotification")),
    ("kube-api-burst", Number, Config("kubeAPIBurst")),
    ("kube-api-content-type", Text, Config("contentType")),
    ("kube-api-qps", Number, Config("kubeAPIQPS")),
    ("kube-reserved", Pairs, Config("kubeReserved")),
    ("kube-reserved-cgroup", Text, Config("kubeReservedCgroup")),
    ("kubeconfig", Text, Own),
    ("kubelet-cgroups", Text, Config("kubeletCgroups")),
    ("local-storage-capacity-isolation", Bool, Config("localStorageCapacityIsolation")),
    ("lock-file", Text, Own),
    ("log-cadvisor-usage", Bool, Ignored),
    ("log-flush-frequency", Text, Ignored),
    ("log-json-info-buffer-size", Text, Ignored),
    ("log-json-split-stream", Bool, Ignored),
    ("log-text-info-buffer-size", Text, Ignored),
    ("log-text-split-stream", Bool, Ignored),
    ("logging-format", Text, Config("logging.format")),
    ("machine-id-file", Text, Ignored),
    ("make-iptables-util-chains", Bool, Config("makeIPTablesUtilChains")),
    ("manifest-url", Text, Config("staticPodURL")),
    ("manifest-url-header", Text, Own),
    ("max-housekeeping-interval", Text, Ignored),
    ("max-open-files", Number, Config("maxOpenFiles")),
    ("max-pods", Number, Config("maxPods")),
    ("maximum-dead-containers", Number, Own),
    ("maximum-dead-containers-per-container", Number, Own),
    ("memory-manager-policy", Text, Config("memoryManagerPolicy")),
    ("minimum-container-ttl-duration", Text, Own),
    ("minimum-image-ttl-duration", Text, Config("imageMinimumGCAge")),
    ("node-ip", Text, Own),
    ("node-labels", Pairs, Own),
    ("node-status-max-images", Number, Config("nodeStatusMaxImages")),
    ("node-status-update-frequency", Text, Config("nodeStatusUpdateFrequency")),
    ("oom-score-adj", Number, Config("oomScoreAdj")),
    ("pod-cidr", Text, Config("podCIDR")),
    ("pod-infra-container-image", Text, Own),
    ("pod-manifest-path", Text, Config("staticPodPath")),
    ("pod-max-pids", Number, Config("podPidsLimit")),
    ("pods-per-core", Number, Config("podsPerCore")),
    ("port", Number, Config("port")),
    ("protect-kernel-defaults", Bool, Config("protectKernelDefaults")),
    ("provider-id", Text, Config("providerID")),
    ("qos-reserved", Pairs, Config("qosReserved")),
    ("read-only-port", Number, Config("readOnlyPort")),
    ("register-node", Bool, Config("registerNode")),
    ("register-with-taints", Taints, Config("registerWithTaints")),
    ("registry-burst", Number, Config("registryBurst")),
    ("registry-qps", Number, Config("registryPullQPS")),
    ("reserved-cpus", Text, Config("reservedSystemCPUs")),
    ("reserved-memory", Text, Own),
    ("resolv-conf", Text, Config("resolvConf")),
    ("root-dir", Text, Own),
    ("rotate-certificates", Bool, Config("rotateCertificates")),
    ("rotate-server-certificates", Bool, Config("serverTLSBootstrap")),
    ("runonce", Bool, Own),
    ("runtime-cgroups", Text, Own),
    ("runtime-request-timeout", Text, Config("runtimeRequestTimeout")),
    ("seccomp-default", Bool, Config("seccompDefault")),
    ("serialize-image-pulls", Bool, Config("serializeImagePulls")),
    ("storage-driver-buffer-duration", Text, Ignored),
    ("storage-driver-db", Text, Ignored),
    ("storage-driver-host", Text, Ignored),
    ("storage-driver-password", Text, Ignored),
    ("storage-driver-secure", Bool, Ignored),
    ("storage-driver-table", Text, Ignored),
    ("storage-driver-user", Text, Ignored),
    ("streaming-connection-idle-timeout", Text, Config("streamingConnectionIdleTimeout")),
    ("sync-frequency", Text, Config("syncFrequency")),
    ("system-cgroups", Text, Config("systemCgroups")),
    ("system-reserved", Pairs, Config("systemReserved")),
    ("system-reserved-cgroup", Text, Config("systemReservedCgroup")),
    ("tls-cert-file", Text, Config("tlsCertFile")),
    ("tls-cipher-suites", List, Config("tlsCipherSuites")),
    ("tls-min-version", Text, Config("tlsMinVersion")),
    ("tls-private-key-file", Text, Config("tlsPrivateKeyFile")),
    ("topology-manager-policy", Text, Config("topologyManagerPolicy")),
    ("topology-manager-policy-options", Pairs, Config("topologyManagerPolicyOptions")),
    ("topology-manager-scope", Text, Config("topologyManagerScope")),
    ("v", Number, Config("logging.verbosity")),
    ("vmodule", Text, Ignored),
    ("volume-plugin-dir", Text, Config("volumePluginDir")),
    ("volume-stats-agg-period", Text, Config("volumeStatsAggPeriod")),
];

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    own: BTreeMap<&'static str, String>,
    /// To be laid over the configuration file.
    pub config: Map<String, Value>,
    /// `--help`.
    pub help: bool,
    /// `--version`.
    pub version: bool,
}

impl Flags {
    /// A flag of the process itself, where given.
    pub fn own(&self, name: &str) -> Option<&str> {
        self.own.get(name).map(String::as_str)
    }

    /// Reads the arguments that follow the program's name.
    ///
    /// # Errors
    /// An unknown flag, a missing or malformed value; the message names the flag.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let body = match arg.strip_prefix("--") {
                Some(body) => body,
                None => match arg.strip_prefix('-') {
                    Some(short) if short == "h" || short.starts_with('v') => short,
                    Some(short) => return Err(format!("unknown shorthand flag: {short:?} in {arg}")),
                    None => return Err(format!("unknown command {arg:?}: kubelet does not take subcommands or arguments")),
                },
            };
            let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
            let name = name.replace('_', "-");
            match name.as_str() {
                "help" | "h" => flags.help = true,
                "version" => flags.version = true,
                _ => {
                    let (name, kind, target) =
                        FLAGS.iter().find(|(known, ..)| *known == name).ok_or_else(|| format!("unknown flag: --{name}"))?;
                    let value = match value {
                        Some(value) => value,
                        None if *kind == Bool => "true".to_owned(),
                        None => args.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
                    };
                    flags
                        .set(name, *kind, *target, value)
                        .map_err(|why| format!("invalid argument for \"--{name}\" flag: {why}"))?;
                }
            }
        }
        Ok(flags)
    }

    fn set(&mut self, name: &'static str, kind: Kind, target: Target, text: String) -> Result<(), String> {
        let value = read(kind, &text)?;
        match target {
            Ignored => {}
            Own => {
                self.own.insert(name, text);
            }
            Config(path) => lay(&mut self.config, path, value),
        }
        Ok(())
    }
}

/// The text of `--help`.
pub fn usage() -> String {
    let mut out = String::from(
        "The kubelet is the node agent: it runs the pods that are bound to its node.\n\nUsage:\n  kubelet [flags]\n\nFlags:\n",
    );
    for (name, kind, _) in FLAGS {
        let kind = match kind {
            Bool => "",
            Number => " int",
            List => " strings",
            Pairs | Thresholds => " key=value,…",
            BoolMap => " name=bool,…",
            Taints => " key=value:effect,…",
            Text => " string",
        };
        out.push_str(&format!("      --{name}{kind}\n"));
    }
    out.push_str("  -h, --help\n      --version\n");
    out
}

fn read(kind: Kind, text: &str) -> Result<Value, String> {
    Ok(match kind {
        Text => json!(text),
        Number => json!(text.parse::<i64>().map_err(|_| format!("{text:?} is not a number"))?),
        Bool => json!(boolean(text)?),
        List => text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect(),
        Pairs => component::flags::parse_map(text)?
            .into_iter()
            .map(|(key, value)| (key, Value::String(value)))
            .collect::<Map<_, _>>()
            .into(),
        BoolMap => {
            let mut out = Map::new();
            for (key, value) in component::flags::parse_map(text)? {
                out.insert(key, json!(boolean(&value)?));
            }
            out.into()
        }
        Taints => {
            let mut out = Vec::new();
            for part in text.split(',').filter(|part| !part.is_empty()) {
                let (rest, effect) = part.rsplit_once(':').ok_or_else(|| format!("invalid taint spec: {part}"))?;
                let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
                out.push(json!({"key": key, "value": value, "effect": effect}));
            }
            out.into()
        }
        Thresholds => {
            let mut out = Map::new();
            for part in text.split(',').filter(|part| !part.is_empty()) {
                let (signal, value) =
                    part.split_once('<').ok_or_else(|| format!("invalid eviction threshold {part:?}, expect signal<value"))?;
                out.insert(signal.to_owned(), json!(value));
            }
            out.into()
        }
    })
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// Puts `value` at the dotted path; lists and maps given twice add up.
fn lay(document: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        Some((first, rest)) => {
            let slot = document.entry(first).or_insert_with(|| json!({}));
            if let Value::Object(inner) = slot {
                lay(inner, rest, value);
            }
        }
        None => match (document.get_mut(path), value) {
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (_, value) => {
                document.insert(path.to_owned(), value);
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, String> {
        Flags::parse(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn flags_become_a_configuration_overlay() {
        let flags = parse(&[
            "--anonymous-auth=false",
            "--cluster-dns",
            "10.96.0.10,10.96.0.11",
            "--node-ip=1.2.3.4",
            "--rotate_certificates",
            "-v=4",
            "--register-with-taints=node-role.kubernetes.io/control-plane:NoSchedule",
            "--eviction-hard=memory.available<100Mi,nodefs.available<10%",
            "--feature-gates=A=true",
            "--feature-gates=B=false",
        ])
        .unwrap();
        assert_eq!(flags.own("node-ip"), Some("1.2.3.4"));
        assert_eq!(
            Value::Object(flags.config),
            json!({
                "authentication": {"anonymous": {"enabled": false}},
                "clusterDNS": ["10.96.0.10", "10.96.0.11"],
                "rotateCertificates": true,
                "logging": {"verbosity": 4},
                "registerWithTaints": [{"key": "node-role.kubernetes.io/control-plane", "value": "", "effect": "NoSchedule"}],
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "10%"},
                "featureGates": {"A": true, "B": false},
            })
        );
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse(&["--nope"]).unwrap_err(), "unknown flag: --nope");
        assert_eq!(parse(&["--port"]).unwrap_err(), "flag needs an argument: --port");
        assert!(parse(&["--port=x"]).unwrap_err().contains("--port"));
        assert!(parse(&["run"]).is_err());
        assert!(parse(&["--anonymous-auth=maybe"]).is_err());
    }
}
