//! `--write-config-to`: the configuration in force, with all defaults, in the form in which it is read.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::file::{API_VERSION, File, KIND};
use crate::config::{Profile, ScoringStrategy};
use crate::extender::Extender;
use crate::options::Options;
use crate::plugin::PLUGINS;
use crate::run::Config;

/// The whole configuration as YAML.
///
/// # Errors
/// Never for what [`Config::new`] makes.
pub fn write(config: &Config, file: Option<&File>) -> anyhow::Result<String> {
    Ok(serde_yaml::to_string(&document(config, file))?)
}

fn document(config: &Config, file: Option<&File>) -> Value {
    let connection = file.map(|file| &file.client_connection);
    let text = |pick: fn(&crate::config::file::ClientConnection) -> Option<String>, default: &str| {
        connection.and_then(pick).filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
    };
    let options: &Options = &config.options;
    let mut out = json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "clientConnection": {
            "acceptContentTypes": text(|own| own.accept_content_types.clone(), ""),
            "burst": connection.and_then(|own| own.burst).unwrap_or(100),
            "contentType": text(|own| own.content_type.clone(), "application/vnd.kubernetes.protobuf"),
            "kubeconfig": config.connection.kubeconfig.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            "qps": connection.and_then(|own| own.qps).filter(|qps| *qps != 50.0).map_or(json!(50), Value::from),
        },
        "enableContentionProfiling": options.contention_profiling.unwrap_or(true),
        "enableProfiling": options.profiling.unwrap_or(true),
        "leaderElection": election(config),
        "parallelism": 16,
        "percentageOfNodesToScore": 0,
        "podInitialBackoffSeconds": config.backoff.initial.as_secs(),
        "podMaxBackoffSeconds": config.backoff.max.as_secs(),
        "profiles": config.profiles.iter().map(profile).collect::<Vec<_>>(),
    });
    if !config.extenders.is_empty() {
        out["extenders"] = config.extenders.iter().map(extender).collect();
    }
    out
}

fn election(config: &Config) -> Value {
    let seconds = |time: Duration| component::duration::format(time);
    let (own, elect) = match &config.election {
        Some(own) => (own.clone(), true),
        None => (client::leader::Config::new("kube-scheduler"), false),
    };
    json!({
        "leaderElect": elect,
        "leaseDuration": seconds(own.lease_duration),
        "renewDeadline": seconds(own.renew_deadline),
        "resourceLock": "leases",
        "resourceName": own.name,
        "resourceNamespace": own.namespace,
        "retryPeriod": seconds(own.retry_period),
    })
}

fn profile(profile: &Profile) -> Value {
    let weight = |name: &str| profile.scores.iter().find(|(plugin, _)| plugin.name == name).map_or(0, |(_, weight)| *weight);
    let enabled: Vec<Value> = PLUGINS.iter().map(|plugin| json!({"name": plugin.name, "weight": weight(plugin.name)})).collect();
    let off = |names: Vec<&str>| match names.is_empty() {
        true => json!({}),
        false => json!({"disabled": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()}),
    };
    let filtering = PLUGINS.iter().filter(|plugin| plugin.filter.is_some()).map(|plugin| plugin.name);
    let scoring = PLUGINS.iter().filter(|plugin| plugin.score.is_some()).map(|plugin| plugin.name);
    let filters = off(filtering.filter(|name| profile.filters.iter().all(|own| own.name != *name)).collect());
    let scores = off(scoring.filter(|name| profile.scores.iter().all(|(own, _)| own.name != *name)).collect());
    let preemption = off(if profile.preempts { Vec::new() } else { vec!["DefaultPreemption"] });
    let mut out = json!({
        "schedulerName": profile.name,
        "pluginConfig": arguments(profile),
        "plugins": {
            "bind": {}, "filter": filters, "multiPoint": {"enabled": enabled}, "permit": {}, "placementGenerate": {},
            "placementScore": {}, "postBind": {}, "postFilter": preemption, "preBind": {}, "preEnqueue": {}, "preFilter": filters,
            "preScore": {}, "queueSort": {}, "reserve": {}, "score": scores,
        },
    });
    if profile.percentage != 0 {
        out["percentageOfNodesToScore"] = profile.percentage.into();
    }
    out
}

fn arguments(profile: &Profile) -> Value {
    let args = &profile.args;
    let resources =
        |list: &[(String, i64)]| list.iter().map(|(name, weight)| json!({"name": name, "weight": weight})).collect::<Vec<_>>();
    let balanced: Vec<Value> = args.balanced_resources.iter().map(|name| json!({"name": name, "weight": 1})).collect();
    let mut strategy = json!({"resources": resources(&args.fit.resources)});
    match &args.fit.strategy {
        ScoringStrategy::LeastAllocated => strategy["type"] = "LeastAllocated".into(),
        ScoringStrategy::MostAllocated => strategy["type"] = "MostAllocated".into(),
        ScoringStrategy::RequestedToCapacityRatio(shape) => {
            strategy["type"] = "RequestedToCapacityRatio".into();
            let points = shape.iter().map(|point| json!({"utilization": point.utilization, "score": point.score}));
            strategy["requestedToCapacityRatio"] = json!({"shape": points.collect::<Vec<_>>()});
        }
    }
    let mut fit = json!({"scoringStrategy": strategy});
    if !args.fit.ignored.is_empty() {
        fit["ignoredResources"] = json!(args.fit.ignored);
    }
    if !args.fit.ignored_groups.is_empty() {
        fit["ignoredResourceGroups"] = json!(args.fit.ignored_groups);
    }
    let spreading = match &args.spread.written {
        Some(list) => json!({"defaultingType": "List", "defaultConstraints": list}),
        None => json!({"defaultingType": "System"}),
    };
    let (percentage, absolute) = args.preemption;
    let mut affinity = json!({});
    if let Some(written) = &args.node_affinity.written {
        affinity["addedAffinity"] = json!(written);
    }
    let all = [
        ("DefaultPreemption", json!({"minCandidateNodesAbsolute": absolute, "minCandidateNodesPercentage": percentage})),
        ("DynamicResources", json!({"filterTimeout": "10s"})),
        (
            "InterPodAffinity",
            json!({
                "hardPodAffinityWeight": args.inter_pod.hard_weight,
                "ignorePreferredTermsOfExistingPods": args.inter_pod.ignore_preferred_of_existing,
            }),
        ),
        ("NodeAffinity", affinity),
        ("NodeResourcesBalancedAllocation", json!({"resources": balanced})),
        ("NodeResourcesFit", fit),
        ("PodTopologySpread", spreading),
        ("VolumeBinding", json!({"bindTimeoutSeconds": args.bind_timeout.as_secs()})),
    ];
    all.into_iter()
        .map(|(name, mut args)| {
            args["apiVersion"] = API_VERSION.into();
            args["kind"] = format!("{name}Args").into();
            json!({"name": name, "args": args})
        })
        .collect()
}

fn extender(extender: &Extender) -> Value {
    extender.written.clone()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let text = format!(
            "apiVersion: {API_VERSION}\nkind: {KIND}\npodMaxBackoffSeconds: 20\nleaderElection: {{leaseDuration: 1m0s}}\nextenders:\n- {{urlPrefix: 'http://x/y', filterVerb: f, weight: 1, \
             managedResources: [{{name: x.io/gpu, ignoredByScheduler: true}}]}}\nprofiles:\n- schedulerName: packing\n  percentageOfNodesToScore: 30\n  plugins:\n    \
             score: {{disabled: [{{name: ImageLocality}}], enabled: [{{name: NodeAffinity, weight: 9}}]}}\n    postFilter: {{disabled: [{{name: '*'}}]}}\n    multiPoint: {{disabled: [{{name: NodePorts}}]}}\n  \
             pluginConfig:\n  - name: NodeResourcesFit\n    args: {{scoringStrategy: {{type: MostAllocated, resources: [{{name: cpu, weight: 3}}]}}}}\n  - name: PodTopologySpread\n    \
             args: {{defaultingType: List, defaultConstraints: [{{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}}]}}\n- schedulerName: other\n"
        );
        std::fs::write(&path, text).unwrap();
        let read = |path: &std::path::Path| {
            let options = Options::parse_from(["kube-scheduler".into(), format!("--config={}", path.display())]);
            let file = File::load(path).unwrap();
            let config = Config::new(options).unwrap();
            document(&config, Some(&file))
        };
        let first = read(&path);
        std::fs::write(&path, serde_yaml::to_string(&first).unwrap()).unwrap();
        assert_eq!(read(&path), first);
        assert_eq!(first["podMaxBackoffSeconds"], 20);
        assert_eq!(first["leaderElection"]["leaseDuration"], "1m0s");
        let packing = &first["profiles"][0];
        assert_eq!(packing["plugins"]["score"]["disabled"], json!([{"name": "ImageLocality"}]));
        assert_eq!(packing["plugins"]["filter"]["disabled"], json!([{"name": "NodePorts"}]));
        assert_eq!(first["profiles"][1]["plugins"]["multiPoint"]["enabled"][4], json!({"name": "TaintToleration", "weight": 3}));
        assert_eq!(first["extenders"][0]["urlPrefix"], "http://x/y");
    }
}
