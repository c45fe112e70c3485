//! The wire form of `KubeSchedulerConfiguration`, `kubescheduler.config.k8s.io/v1`.
//!
//! Unknown fields are refused, as upstream does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Args, DEFAULT_SCHEDULER, Profile, ScoringStrategy, Shape};
use crate::extender::{Connection, Extender, Reach};
use crate::object::selector::{NodeSelector, NodeTerm, Selector};
use crate::plugin::{self, PLUGINS, Plugin};

/// What `apiVersion` must say.
pub const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
/// What `kind` must say.
pub const KIND: &str = "KubeSchedulerConfiguration";

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Option<Vec<WireProfile>>,
    /// Leader election.
    #[serde(default)]
    pub leader_election: LeaderElection,
    /// How to reach the API server.
    #[serde(default)]
    pub client_connection: ClientConnection,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<u32>,
    /// Seconds.
    #[serde(default)]
    pub pod_initial_backoff_seconds: Option<u64>,
    /// Seconds.
    #[serde(default)]
    pub pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    extenders: Option<Vec<Value>>,
    /// Not used: one thread decides, and is fast enough.
    #[serde(default)]
    parallelism: Option<i32>,
    /// Not used.
    #[serde(default, rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    /// Not used.
    #[serde(default, rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    /// Not used: what is known before leading makes taking over fast.
    #[serde(default, rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
}

/// `leaderElection`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElection {
    /// Whether to elect at all.
    pub leader_elect: Option<bool>,
    /// Go duration.
    pub lease_duration: Option<String>,
    /// Go duration.
    pub renew_deadline: Option<String>,
    /// Go duration.
    pub retry_period: Option<String>,
    /// `leases`.
    pub resource_lock: Option<String>,
    /// Name of the Lease.
    pub resource_name: Option<String>,
    /// Its namespace.
    pub resource_namespace: Option<String>,
}

/// `clientConnection`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConnection {
    /// Path of a kubeconfig.
    pub kubeconfig: Option<String>,
    /// Not used: rk does not throttle itself.
    pub qps: Option<f32>,
    /// Not used.
    pub burst: Option<i32>,
    /// Not used.
    pub content_type: Option<String>,
    /// Not used.
    pub accept_content_types: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WireProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<u32>,
    plugins: Option<Plugins>,
    plugin_config: Option<Vec<PluginConfig>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Plugins {
    pre_enqueue: Set,
    queue_sort: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    pre_score: Set,
    score: Set,
    reserve: Set,
    permit: Set,
    pre_bind: Set,
    bind: Set,
    post_bind: Set,
    multi_point: Set,
    placement_generate: Set,
    placement_score: Set,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Set {
    enabled: Option<Vec<Entry>>,
    disabled: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// An unreadable file, a wrong kind, an unknown field.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("failed to load {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let file: Self = serde_yaml::from_str(text)?;
        ensure!(file.kind == KIND, "kind is {:?}, want {KIND}", file.kind);
        ensure!(
            file.parallelism.is_none_or(|count| count > 0),
            "parallelism: Invalid value: should be an integer value greater than zero"
        );
        let (initial, max) = (file.pod_initial_backoff_seconds.unwrap_or(1), file.pod_max_backoff_seconds.unwrap_or(10));
        ensure!(initial > 0, "podInitialBackoffSeconds: Invalid value: {initial}: must be greater than 0");
        ensure!(
            max >= initial,
            "podMaxBackoffSeconds: Invalid value: {max}: must be greater than or equal to PodInitialBackoffSeconds"
        );
        let lock = file.leader_election.resource_lock.as_deref().unwrap_or("leases");
        ensure!(lock == "leases", "leaderElection.resourceLock: Invalid value: {lock:?}: resourceLock value must be \"leases\"");
        ensure!(file.api_version == API_VERSION, "apiVersion is {:?}, want {API_VERSION}", file.api_version);
        Ok(file)
    }

    /// The extenders.
    ///
    /// # Errors
    /// An incomplete one, unusable certificates, two that bind.
    pub fn extenders(&self) -> anyhow::Result<Vec<Extender>> {
        let wires = self.extenders.iter().flatten().enumerate();
        let out: Vec<Extender> = wires
            .map(|(number, wire)| extender(wire).with_context(|| format!("extenders[{number}]")))
            .collect::<Result<_, _>>()?;
        let binders = out.iter().filter(|extender| !extender.bind.is_empty()).count();
        ensure!(
            binders <= 1,
            "extenders: Invalid value: found {binders} extenders implementing bind; only one extender can implement bind"
        );
        Ok(out)
    }

    /// The profiles.
    ///
    /// # Errors
    /// Unknown plugins or arguments, two profiles of one name.
    pub fn profiles(&self) -> anyhow::Result<Vec<Profile>> {
        let percentage = self.percentage_of_nodes_to_score.unwrap_or(0);
        let none = vec![WireProfile::default()];
        let mut out: Vec<Profile> = Vec::new();
        for (number, wire) in self.profiles.as_ref().filter(|list| !list.is_empty()).unwrap_or(&none).iter().enumerate() {
            let profile = profile(wire, percentage).with_context(|| format!("profiles[{number}]"))?;
            ensure!(
                out.iter().all(|other| other.name != profile.name),
                "profiles[{number}].schedulerName: Duplicate value: {:?}",
                profile.name
            );
            out.push(profile);
        }
        let wires = self.extenders.iter().flatten().map(WireExtender::deserialize);
        let wires = wires.collect::<Result<Vec<_>, _>>().context("extenders")?;
        let managed = wires.into_iter().flat_map(|extender| extender.managed_resources.into_iter().flatten());
        for resource in managed.filter(|resource| resource.ignored_by_scheduler) {
            for profile in out.iter_mut().filter(|profile| !profile.args.fit.ignored.contains(&resource.name)) {
                profile.args.fit.ignored.push(resource.name.clone());
            }
        }
        Ok(out)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireExtender {
    url_prefix: String,
    #[serde(default)]
    filter_verb: String,
    #[serde(default)]
    preempt_verb: String,
    #[serde(default)]
    prioritize_verb: String,
    #[serde(default)]
    weight: i64,
    #[serde(default)]
    bind_verb: String,
    #[serde(default, rename = "enableHTTPS")]
    enable_https: bool,
    #[serde(default, rename = "tlsConfig")]
    tls_config: Option<WireTls>,
    #[serde(default, rename = "httpTimeout")]
    http_timeout: Option<String>,
    #[serde(default)]
    node_cache_capable: bool,
    #[serde(default)]
    managed_resources: Option<Vec<ManagedResource>>,
    #[serde(default)]
    ignorable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WireTls {
    insecure: bool,
    server_name: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_data: Option<String>,
    key_data: Option<String>,
    ca_data: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ManagedResource {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

fn extender(written: &Value) -> anyhow::Result<Extender> {
    let wire = WireExtender::deserialize(written)?;
    ensure!(!wire.url_prefix.is_empty(), "urlPrefix: Required value: empty URL prefix");
    ensure!(
        wire.prioritize_verb.is_empty() || wire.weight > 0,
        "weight: Invalid value: {}: must have a positive weight applied to it",
        wire.weight
    );
    let timeout = wire.http_timeout.as_deref().map(component::duration::parse).transpose().map_err(anyhow::Error::msg)?;
    let tls = wire.tls_config.unwrap_or_default();
    let read = |path: &Option<PathBuf>, data: &Option<String>| -> anyhow::Result<Option<Vec<u8>>> {
        match (data, path) {
            (Some(data), _) => Ok(Some(BASE64.decode(data.trim()).context("tlsConfig: data is not base64")?)),
            (None, Some(path)) => Ok(Some(std::fs::read(path).with_context(|| format!("tlsConfig: {}", path.display()))?)),
            (None, None) => Ok(None),
        }
    };
    let authority = read(&tls.ca_file, &tls.ca_data)?;
    let connection = Connection {
        url: wire.url_prefix.clone(),
        // As upstream: HTTPS without an authority checks nothing.
        insecure: tls.insecure || (wire.enable_https && authority.is_none()),
        server_name: tls.server_name,
        certificate: read(&tls.cert_file, &tls.cert_data)?,
        key: read(&tls.key_file, &tls.key_data)?,
        authority,
    };
    Ok(Extender {
        connection,
        url: wire.url_prefix,
        filter: wire.filter_verb,
        prioritize: wire.prioritize_verb,
        bind: wire.bind_verb,
        preempt: wire.preempt_verb,
        weight: wire.weight,
        names_only: wire.node_cache_capable,
        resources: wire.managed_resources.into_iter().flatten().map(|resource| resource.name).collect(),
        ignorable: wire.ignorable,
        // Upstream: DefaultExtenderTimeout
        timeout: timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(Duration::from_secs(5)),
        written: written.clone(),
        client: Reach::default(),
    })
}

fn profile(wire: &WireProfile, percentage: u32) -> anyhow::Result<Profile> {
    let mut profile = Profile::named(wire.scheduler_name.as_deref().unwrap_or(DEFAULT_SCHEDULER));
    profile.percentage = wire.percentage_of_nodes_to_score.unwrap_or(percentage);
    ensure!(
        profile.percentage <= 100,
        "percentageOfNodesToScore: Invalid value: {}: not in valid range [0-100]",
        profile.percentage
    );
    if let Some(plugins) = &wire.plugins {
        enable(&mut profile, plugins)?;
    }
    for config in wire.plugin_config.iter().flatten() {
        let context = || format!("pluginConfig[{}]", config.name);
        args(&mut profile.args, &config.name, &config.args).with_context(context)?;
    }
    Ok(profile)
}

/// Applies enabled and disabled lists to the default profile.
fn enable(profile: &mut Profile, plugins: &Plugins) -> anyhow::Result<()> {
    let known = |name: &str| plugin::by_name(name).with_context(|| format!("plugin {name:?} does not exist"));
    let off = |set: &Set, name: &str| set.disabled.iter().flatten().any(|entry| entry.name == name || entry.name == "*");
    let entry = |set: &Set, name: &str| set.enabled.iter().flatten().find(|entry| entry.name == name).map(|entry| entry.weight);
    let sets = [
        &plugins.pre_enqueue,
        &plugins.queue_sort,
        &plugins.pre_filter,
        &plugins.filter,
        &plugins.post_filter,
        &plugins.pre_score,
        &plugins.score,
        &plugins.reserve,
        &plugins.permit,
        &plugins.pre_bind,
        &plugins.bind,
        &plugins.post_bind,
        &plugins.multi_point,
        &plugins.placement_generate,
        &plugins.placement_score,
    ];
    for set in sets {
        for entry in set.enabled.iter().flatten() {
            known(&entry.name)?;
        }
    }
    let multi = &plugins.multi_point;
    // Enabled by itself or in the defaults, unless switched off at the point or altogether.
    let active = |point: &Set, plugin: &Plugin| {
        entry(point, plugin.name).is_some()
            || (!off(point, plugin.name) && (entry(multi, plugin.name).is_some() || !off(multi, plugin.name)))
    };
    profile.filters = PLUGINS
        .into_iter()
        .filter(|plugin| {
            plugin.filter.is_some() && (active(&plugins.filter, plugin) || entry(&plugins.pre_filter, plugin.name).is_some())
        })
        .filter(|plugin| !(off(&plugins.pre_filter, plugin.name) && off(&plugins.filter, plugin.name)))
        .collect();
    profile.scores = PLUGINS
        .into_iter()
        .filter(|plugin| plugin.score.is_some() && active(&plugins.score, plugin))
        .map(|plugin| {
            let given = entry(&plugins.score, plugin.name).or(entry(multi, plugin.name)).flatten();
            (plugin, given.filter(|weight| *weight > 0).unwrap_or(plugin.weight))
        })
        .collect();
    profile.preempts = active(&plugins.post_filter, &plugin::default_preemption::PLUGIN);
    Ok(())
}

fn args(args: &mut Args, name: &str, value: &Value) -> anyhow::Result<()> {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    match name {
        "NodeResourcesFit" => fit(args, serde_json::from_value(value)?),
        "NodeResourcesBalancedAllocation" => {
            let wire: BalancedArgs = serde_json::from_value(value)?;
            if let Some(resources) = wire.resources {
                args.balanced_resources = resources.into_iter().map(|resource| resource.name).collect();
            }
            Ok(())
        }
        "InterPodAffinity" => {
            let wire: InterPodWire = serde_json::from_value(value)?;
            args.inter_pod.hard_weight = wire.hard_pod_affinity_weight.unwrap_or(1);
            ensure!((0..=100).contains(&args.inter_pod.hard_weight), "hardPodAffinityWeight: not in valid range [0-100]");
            args.inter_pod.ignore_preferred_of_existing = wire.ignore_preferred_terms_of_existing_pods;
            Ok(())
        }
        "NodeAffinity" => {
            let wire: NodeAffinityWire = serde_json::from_value(value)?;
            let Some(added) = wire.added_affinity else { return Ok(()) };
            args.node_affinity.written = Some(added.clone());
            args.node_affinity.required =
                added.required_during_scheduling_ignored_during_execution.as_ref().map(NodeSelector::compile);
            let preferred = added.preferred_during_scheduling_ignored_during_execution.into_iter().flatten();
            args.node_affinity.preferred =
                preferred.map(|term| (i64::from(term.weight), NodeTerm::compile(&term.preference))).collect();
            Ok(())
        }
        "PodTopologySpread" => spread(args, serde_json::from_value(value)?),
        "DefaultPreemption" => {
            let wire: PreemptionWire = serde_json::from_value(value)?;
            args.preemption =
                (wire.min_candidate_nodes_percentage.unwrap_or(10), wire.min_candidate_nodes_absolute.unwrap_or(100));
            Ok(())
        }
        "VolumeBinding" => {
            let wire: VolumeWire = serde_json::from_value(value)?;
            args.bind_timeout = Duration::from_secs(wire.bind_timeout_seconds.unwrap_or(600));
            ensure!(wire.shape.is_none(), "shape is not yet supported");
            Ok(())
        }
        "DynamicResources" => Ok(()),
        other => bail!("plugin {other:?} has no arguments"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitWire {
    #[serde(default)]
    ignored_resources: Option<Vec<String>>,
    #[serde(default)]
    ignored_resource_groups: Option<Vec<String>>,
    #[serde(default)]
    scoring_strategy: Option<Strategy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Strategy {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    resources: Option<Vec<Resource>>,
    #[serde(default)]
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    name: String,
    #[serde(default)]
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    #[serde(default)]
    score: i64,
}

fn fit(args: &mut Args, wire: FitWire) -> anyhow::Result<()> {
    args.fit.ignored = wire.ignored_resources.unwrap_or_default();
    args.fit.ignored_groups = wire.ignored_resource_groups.unwrap_or_default();
    let Some(strategy) = wire.scoring_strategy else { return Ok(()) };
    if let Some(resources) = strategy.resources.filter(|resources| !resources.is_empty()) {
        args.fit.resources = resources
            .into_iter()
            .map(|resource| (resource.name, resource.weight.filter(|weight| *weight > 0).unwrap_or(1)))
            .collect();
    }
    args.fit.strategy = match strategy.kind.as_deref() {
        None | Some("LeastAllocated") => ScoringStrategy::LeastAllocated,
        Some("MostAllocated") => ScoringStrategy::MostAllocated,
        Some("RequestedToCapacityRatio") => {
            let shape = strategy.requested_to_capacity_ratio.context("requestedToCapacityRatio is required")?.shape;
            ensure!(!shape.is_empty(), "shape: at least one point must be specified");
            ensure!(
                shape.windows(2).all(|pair| pair[0].utilization < pair[1].utilization),
                "shape: utilization values must be sorted in increasing order"
            );
            ensure!(
                shape.iter().all(|point| (0..=100).contains(&point.utilization) && (0..=10).contains(&point.score)),
                "shape: not in valid range"
            );
            let points = shape.into_iter().map(|point| Shape { utilization: point.utilization, score: point.score });
            ScoringStrategy::RequestedToCapacityRatio(points.collect())
        }
        Some(other) => bail!("scoringStrategy.type: Unsupported value: {other:?}"),
    };
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BalancedArgs {
    #[serde(default)]
    resources: Option<Vec<Resource>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InterPodWire {
    #[serde(default)]
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeAffinityWire {
    #[serde(default)]
    added_affinity: Option<core::NodeAffinity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadWire {
    #[serde(default)]
    default_constraints: Option<Vec<core::TopologySpreadConstraint>>,
    #[serde(default)]
    defaulting_type: Option<String>,
}

fn spread(args: &mut Args, wire: SpreadWire) -> anyhow::Result<()> {
    let given = wire.default_constraints.unwrap_or_default();
    match wire.defaulting_type.as_deref() {
        None | Some("System") => {
            ensure!(given.is_empty(), "defaultConstraints: when .defaultingType is System, it must be empty");
        }
        Some("List") => {
            args.spread.system_defaults = false;
            args.spread.written = Some(given.clone());
            args.spread.defaults = given
                .into_iter()
                .map(|constraint| crate::object::pod::Spread {
                    max_skew: constraint.max_skew,
                    hard: constraint.when_unsatisfiable == "DoNotSchedule",
                    topology_key: constraint.topology_key,
                    selector: Selector::Nothing,
                    min_domains: constraint.min_domains.unwrap_or(1),
                    honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
                    honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
                })
                .collect();
        }
        Some(other) => bail!("defaultingType: Unsupported value: {other:?}: supported values: \"List\", \"System\""),
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionWire {
    #[serde(default)]
    min_candidate_nodes_percentage: Option<u32>,
    #[serde(default)]
    min_candidate_nodes_absolute: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VolumeWire {
    #[serde(default)]
    bind_timeout_seconds: Option<u64>,
    #[serde(default)]
    shape: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    fn profiles(text: &str) -> anyhow::Result<Vec<Profile>> {
        File::parse(&format!("{HEAD}{text}"))?.profiles()
    }

    #[test]
    fn without_profiles_there_is_the_default_one() {
        let profiles = profiles("leaderElection: {leaderElect: false}\n").unwrap();
        assert_eq!((profiles.len(), profiles[0].name.as_str()), (1, DEFAULT_SCHEDULER));
    }

    #[test]
    fn plugins_are_switched_and_weighted() {
        let text = "profiles:\n- schedulerName: packing\n  plugins:\n    score:\n      disabled: [{name: '*'}]\n      enabled: [{name: NodeResourcesFit, weight: 7}]\n    postFilter: {disabled: [{name: DefaultPreemption}]}\n    multiPoint: {disabled: [{name: NodePorts}]}\n  pluginConfig:\n  - name: NodeResourcesFit\n    args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}}\n- schedulerName: other\n";
        let profiles = profiles(text).unwrap();
        let scores: Vec<_> = profiles[0].scores.iter().map(|(plugin, weight)| (plugin.name, *weight)).collect();
        assert_eq!(scores, [("NodeResourcesFit", 7)]);
        assert!(!profiles[0].preempts && profiles[1].preempts);
        assert!(!profiles[0].filters.iter().any(|plugin| plugin.name == "NodePorts"));
        assert_eq!(profiles[0].args.fit.strategy, ScoringStrategy::MostAllocated);
        assert_eq!(profiles[0].args.fit.resources, [("cpu".to_owned(), 3)]);
        assert_eq!(profiles[1].scores.len(), Profile::named("x").scores.len());
    }

    #[test]
    fn mistakes_are_refused() {
        for text in [
            "profiles:\n- schedulerName: a\n- schedulerName: a\n",
            "profiles:\n- schedulerNam: a\n",
            "profiles:\n- plugins: {score: {enabled: [{name: Nope}]}}\n",
            "profiles:\n- pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]\n",
            "percentageOfNodesToScore: 101\n",
        ] {
            assert!(profiles(text).is_err(), "{text}");
        }
        let file = |text: &str| File::parse(&format!("{HEAD}{text}")).unwrap();
        assert!(
            file("extenders: [{urlPrefix: 'http://x', bindVerb: b}, {urlPrefix: 'http://y', bindVerb: b}]\n")
                .extenders()
                .is_err()
        );
        assert!(file("extenders: [{urlPrefix: '', filterVerb: f}]\n").extenders().is_err());
        let tls = "extenders: [{urlPrefix: 'https://x', filterVerb: f, enableHTTPS: true, tlsConfig: {caFile: /nowhere}}]\n";
        assert!(file(tls).extenders().is_err());
        let unchecked = file("extenders: [{urlPrefix: 'https://x', filterVerb: f, enableHTTPS: true}]\n").extenders().unwrap();
        assert!(unchecked[0].connection.insecure);
        assert!(file("extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]\n").extenders().is_err());
        let gpu = file(
            "extenders: [{urlPrefix: 'http://x', filterVerb: f, managedResources: [{name: x.io/gpu, ignoredByScheduler: true}]}]\n",
        );
        assert_eq!(gpu.extenders().unwrap()[0].resources, ["x.io/gpu"]);
        assert_eq!(gpu.profiles().unwrap()[0].args.fit.ignored, ["x.io/gpu"]);
        assert!(File::parse("apiVersion: v1\nkind: Pod\n").is_err());
        for text in [
            "parallelism: 0",
            "podInitialBackoffSeconds: 0",
            "podMaxBackoffSeconds: 0",
            "leaderElection: {resourceLock: endpoints}",
        ] {
            assert!(File::parse(&format!("{HEAD}{text}\n")).is_err(), "{text}");
        }
    }
}
