//! Scales workloads by what their pods, an object, or the outside world measure.
//!
//! Upstream: pkg/controller/podautoscaler

pub mod behavior;
pub mod metrics;
pub mod replicas;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::Context as _;
use api::quantity::Quantity;
use jiff::SignedDuration;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus,
    PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

use crate::api_error;
use crate::config::workers;
use crate::context::{Change, Context, Requeue, Store};
use crate::discovery;
use crate::key::Key;
use crate::pods;
use behavior::Memory;
use replicas::{Proposal, Rules, Target};

struct Controller {
    ctx: Context,
    autoscalers: Store<HorizontalPodAutoscaler>,
    pods: Store<Pod>,
    memory: Mutex<HashMap<Key, Memory>>,
    kinds: Mutex<HashMap<String, ApiResource>>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller = Arc::new(Controller {
        autoscalers: ctx.store(),
        pods: ctx.store(),
        memory: Mutex::default(),
        kinds: Mutex::default(),
        ctx,
    });
    let queue = controller.ctx.queue();
    let (this, feed) = (Arc::clone(&controller), queue.clone());
    controller.autoscalers.on_change(move |change| {
        let key = Key::of(change.object().as_ref());
        match change {
            Change::Deleted(_) => drop(this.memory.lock().remove(&key)),
            // Our own status writes must not bring the next look forward.
            Change::Updated(old, new) if old.spec == new.spec => {}
            _ => feed.add(key),
        }
    });
    controller.autoscalers.synced().await;
    controller.pods.synced().await;
    let (this, period) = (Arc::clone(&controller), controller.ctx.config.options.horizontal_pod_autoscaler_sync_period);
    let count = workers(controller.ctx.config.options.concurrent_horizontal_pod_autoscaler_syncs);
    controller.ctx.run(&queue, count, move |key| {
        let this = Arc::clone(&this);
        async move {
            let Some(hpa) = this.autoscalers.get(&key) else { return Ok(Requeue::No) };
            // A look that fails is not repeated at once: metrics do not come sooner by asking.
            if let Err(error) = this.reconcile(&key, &hpa).await {
                tracing::debug!(hpa = %key, err = format!("{error:#}"), "Failed to reconcile");
            }
            Ok(Requeue::After(period))
        }
    });
    Ok(())
}

/// What one metric says.
struct Measured {
    replicas: i32,
    /// `cpu resource utilization (percentage of request)`.
    name: String,
    status: MetricStatus,
}

/// The status being built.
struct Draft {
    status: HorizontalPodAutoscalerStatus,
    now: jiff::Timestamp,
}

impl Draft {
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let conditions = self.status.conditions.get_or_insert_default();
        let since =
            conditions.iter().find(|c| c.type_ == type_ && c.status == status).and_then(|c| c.last_transition_time.clone());
        let new = HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(self.now))),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
}

impl Controller {
    async fn reconcile(&self, key: &Key, hpa: &HorizontalPodAutoscaler) -> anyhow::Result<()> {
        let now = self.ctx.now();
        let mut draft = Draft { status: hpa.status.clone().unwrap_or_default(), now };
        draft.status.observed_generation = hpa.metadata.generation;
        let result = self.decide(key, hpa, &mut draft).await;
        if hpa.status.as_ref() != Some(&draft.status) {
            let changed = HorizontalPodAutoscaler { status: Some(draft.status), ..hpa.clone() };
            let api = self.ctx.namespaced::<HorizontalPodAutoscaler>(&key.namespace);
            api_error::ignore_not_found(api.replace_status(&key.name, &PostParams::default(), &changed).await)?;
        }
        result
    }

    async fn decide(&self, key: &Key, hpa: &HorizontalPodAutoscaler, draft: &mut Draft) -> anyhow::Result<()> {
        let (about, now) = (hpa.object_ref(&()), draft.now);
        let spec = hpa.spec.clone();
        let reference = &spec.scale_target_ref;
        let scaled = async {
            let resource = self.resource(reference.api_version.as_deref().unwrap_or(""), &reference.kind).await?;
            let api: Api<DynamicObject> = Api::namespaced_with(self.ctx.client.clone(), &key.namespace, &resource);
            let scale = api.get_scale(&reference.name).await.map_err(|error| anyhow::anyhow!(api_error::message(&error)))?;
            anyhow::Ok((api, scale))
        };
        let (api, mut scale) = match scaled.await {
            Ok(found) => found,
            Err(error) => {
                self.ctx.warning(&about, "FailedGetScale", format!("{error:#}"));
                let message = format!("the HPA controller was unable to get the target's current scale: {error:#}");
                draft.set("AbleToScale", "False", "FailedGetScale", message);
                return Err(error);
            }
        };
        draft.set(
            "AbleToScale",
            "True",
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale".to_owned(),
        );
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        draft.status.current_replicas = Some(current);
        let (wanted, reason) = if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            draft.set("ScalingActive", "False", "ScalingDisabled", message.to_owned());
            (0, String::new())
        } else if current > max {
            (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let by = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
            if by.is_empty() {
                self.ctx.warning(&about, "SelectorRequired", "selector is required");
                draft.set("ScalingActive", "False", "InvalidSelector", "the HPA target's scale is missing a selector".to_owned());
                anyhow::bail!("selector is required");
            }
            let (proposal, metric) = self.measure(key, &about, &spec, current, &by, draft).await?;
            let window = SignedDuration::try_from(self.ctx.config.options.horizontal_pod_autoscaler_downscale_stabilization)
                .unwrap_or_default();
            let limited = {
                let mut all = self.memory.lock();
                let memory = all.entry(key.clone()).or_default();
                memory.forget_old(now);
                // After a restart the size that is there counts as the first recommendation.
                if memory.recommendations.is_empty() {
                    memory.recommendations.push((now, current));
                }
                let limited = behavior::limit(&spec, current, proposal, memory, window, now);
                memory.recommendations.push((now, proposal));
                limited
            };
            if let Some((reason, message)) = limited.stabilized {
                draft.set("AbleToScale", "True", reason, message.to_owned());
            }
            match limited.limited {
                Some((reason, message)) => draft.set("ScalingLimited", "True", reason, message.to_owned()),
                None => draft.set(
                    "ScalingLimited",
                    "False",
                    "DesiredWithinRange",
                    "the desired count is within the acceptable range".to_owned(),
                ),
            }
            let reason =
                if limited.replicas > current { format!("{metric} above target") } else { "All metrics below target".to_owned() };
            (limited.replicas, reason)
        };
        draft.status.desired_replicas = wanted;
        if wanted == current {
            return Ok(());
        }
        scale.spec.get_or_insert_default().replicas = Some(wanted);
        if let Err(error) = api.replace_scale(&reference.name, &PostParams::default(), &scale).await {
            let why = api_error::message(&error);
            self.ctx.warning(&about, "FailedRescale", format!("New size: {wanted}; reason: {reason}; error: {why}"));
            draft.set(
                "AbleToScale",
                "False",
                "FailedUpdateScale",
                format!("the HPA controller was unable to update the target scale: {why}"),
            );
            draft.status.desired_replicas = current;
            return Err(error).context("failed to rescale");
        }
        draft.set(
            "AbleToScale",
            "True",
            "SucceededRescale",
            format!("the HPA controller was able to update the target scale to {wanted}"),
        );
        self.ctx.normal(&about, "SuccessfulRescale", format!("New size: {wanted}; reason: {reason}"));
        self.memory.lock().entry(key.clone()).or_default().changes.push((now, wanted - current));
        draft.status.last_scale_time = Some(Time(now));
        Ok(())
    }

    async fn resource(&self, api_version: &str, kind: &str) -> anyhow::Result<ApiResource> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let name = format!("{group}/{kind}");
        if let Some(known) = self.kinds.lock().get(&name) {
            return Ok(known.clone());
        }
        let found = discovery::resources(&self.ctx.client).await?.found;
        let found = found.into_iter().find(|found| found.resource.group == group && found.resource.kind == kind);
        let resource = found.with_context(|| format!("no matches for kind {kind:?} in group {group:?}"))?.resource;
        self.kinds.lock().insert(name, resource.clone());
        Ok(resource)
    }

    /// Asks every metric; the highest proposal wins, but nothing shrinks while one is silent.
    async fn measure(
        &self,
        key: &Key,
        about: &ObjectReference,
        spec: &k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerSpec,
        current: i32,
        by: &str,
        draft: &mut Draft,
    ) -> anyhow::Result<(i32, String)> {
        let metrics = spec.metrics.clone().unwrap_or_default();
        let options = &self.ctx.config.options;
        let default = options.horizontal_pod_autoscaler_tolerance;
        let tolerance = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
            let own = rules.and_then(|rules| rules.tolerance.as_ref()).and_then(|tolerance| Quantity::parse(&tolerance.0).ok());
            own.map_or(default, |own| own.as_f64())
        };
        let behavior = spec.behavior.as_ref();
        let rules = Rules {
            up_tolerance: tolerance(behavior.and_then(|b| b.scale_up.as_ref())),
            down_tolerance: tolerance(behavior.and_then(|b| b.scale_down.as_ref())),
            cpu_initialization: options.horizontal_pod_autoscaler_cpu_initialization_period,
            initial_readiness: options.horizontal_pod_autoscaler_initial_readiness_delay,
        };
        // The selector is text; the server knows how to read it.
        let listed = self.ctx.namespaced::<Pod>(&key.namespace).list(&ListParams::default().labels(by)).await?;
        let all: Vec<Arc<Pod>> = listed.items.into_iter().map(Arc::new).collect();
        let mut best: Option<(i32, String)> = None;
        let mut failed: Option<(String, String, String)> = None;
        let mut silent = 0;
        let mut statuses: Vec<MetricStatus> = Vec::new();
        for metric in &metrics {
            match self.one(key, metric, current, by, &all, &rules, draft.now).await {
                Ok(measured) => {
                    statuses.push(measured.status);
                    if best.as_ref().is_none_or(|(replicas, _)| measured.replicas > *replicas) {
                        best = Some((measured.replicas, measured.name));
                    }
                }
                Err(error) => {
                    let reason = format!("FailedGet{}Metric", metric.type_);
                    self.ctx.warning(about, &reason, &error);
                    silent += 1;
                    failed = failed.or_else(|| Some((reason, format!("failed to get {}: {error}", value_of(metric)), error)));
                }
            }
        }
        draft.status.current_metrics = (!statuses.is_empty()).then_some(statuses);
        if let Some((reason, first, error)) = failed
            && best.as_ref().is_none_or(|(replicas, _)| *replicas < current)
        {
            draft.set("ScalingActive", "False", &reason, format!("the HPA was unable to compute the replica count: {error}"));
            let message = format!("invalid metrics ({silent} invalid out of {}), first error is: {first}", metrics.len());
            self.ctx.warning(about, "FailedComputeMetricsReplicas", &message);
            anyhow::bail!("{message}");
        }
        let (replicas, name) = best.context("no metrics given")?;
        draft.set(
            "ScalingActive",
            "True",
            "ValidMetricFound",
            format!("the HPA was able to successfully calculate a replica count from {name}"),
        );
        Ok((replicas, name))
    }

    #[allow(clippy::too_many_arguments)] // one call site
    async fn one(
        &self,
        key: &Key,
        metric: &MetricSpec,
        current: i32,
        by: &str,
        all: &[Arc<Pod>],
        rules: &Rules,
        now: jiff::Timestamp,
    ) -> Result<Measured, String> {
        let client = &self.ctx.client;
        let ready = all.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)).count();
        let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
        let value = |average: Option<i64>, percent: Option<i32>, value: Option<i64>| MetricValueStatus {
            average_utilization: percent,
            average_value: average.map(quantity),
            value: value.map(quantity),
        };
        if let Some(source) = &metric.resource {
            let samples = metrics::resource(client, &key.namespace, by, &source.name, None).await;
            let proposal = by_resource(current, all, samples, &source.target, &source.name, None, rules, now)?;
            status.resource = Some(ResourceMetricStatus {
                name: source.name.clone(),
                current: value(Some(proposal.average), proposal.percent, None),
            });
            let suffix = if proposal.percent.is_some() { " utilization (percentage of request)" } else { "" };
            return Ok(Measured { replicas: proposal.replicas, name: format!("{} resource{suffix}", source.name), status });
        }
        if let Some(source) = &metric.container_resource {
            let samples = metrics::resource(client, &key.namespace, by, &source.name, Some(&source.container)).await;
            let proposal = by_resource(current, all, samples, &source.target, &source.name, Some(&source.container), rules, now)?;
            let current = value(Some(proposal.average), proposal.percent, None);
            status.container_resource =
                Some(ContainerResourceMetricStatus { name: source.name.clone(), container: source.container.clone(), current });
            return Ok(Measured { replicas: proposal.replicas, name: format!("{} container resource", source.name), status });
        }
        if let Some(source) = &metric.pods {
            let name = &source.metric.name;
            let samples = metrics::pods(client, &key.namespace, by, name, source.metric.selector.as_ref()).await;
            let samples = samples.map_err(|error| format!("unable to get metric {name}: {error}"))?;
            let target = Target::Average { milli: target_of(source.target.average_value.as_ref())? };
            let proposal = replicas::per_pod(current, all, samples, &target, false, rules, now)?;
            status.pods =
                Some(PodsMetricStatus { metric: source.metric.clone(), current: value(Some(proposal.average), None, None) });
            return Ok(Measured { replicas: proposal.replicas, name: format!("pods metric {}", source.metric.name), status });
        }
        if let Some(source) = &metric.object {
            let object = &source.described_object;
            let resource = self
                .resource(object.api_version.as_deref().unwrap_or(""), &object.kind)
                .await
                .map_err(|error| format!("{error:#}"))?;
            let name =
                if resource.group.is_empty() { resource.plural } else { format!("{}.{}", resource.plural, resource.group) };
            let measured = metrics::object(
                client,
                &key.namespace,
                &name,
                &object.name,
                &source.metric.name,
                source.metric.selector.as_ref(),
            )
            .await
            .map_err(|error| {
                let (metric, kind, name) = (&source.metric.name, &object.kind, &object.name);
                format!("unable to get metric {metric}: {kind} on {} {name}/{error}", key.namespace)
            })?;
            let (replicas, shown) = by_whole(current, ready, measured, &source.target, rules)?;
            status.object =
                Some(ObjectMetricStatus { metric: source.metric.clone(), described_object: object.clone(), current: shown });
            return Ok(Measured { replicas, name: format!("{} metric {}", object.kind, source.metric.name), status });
        }
        if let Some(source) = &metric.external {
            let measured = metrics::external(client, &key.namespace, &source.metric.name, source.metric.selector.as_ref()).await;
            let measured = measured.map_err(|error| {
                let selector = source.metric.selector.as_ref().map(crate::selector::format).unwrap_or_default();
                format!("unable to get external metric {}/{}/{selector}: {error}", key.namespace, source.metric.name)
            })?;
            let (replicas, shown) = by_whole(current, ready, measured, &source.target, rules)?;
            status.external = Some(ExternalMetricStatus { metric: source.metric.clone(), current: shown });
            return Ok(Measured {
                replicas,
                name: format!("external metric {}({:?})", source.metric.name, source.metric.selector),
                status,
            });
        }
        Err(format!("unknown metric source type {:?}", metric.type_))
    }
}

fn quantity(milli: i64) -> ApiQuantity {
    ApiQuantity(Quantity::from_milli(milli, api::quantity::Format::DecimalSi).to_string())
}

fn target_of(value: Option<&ApiQuantity>) -> Result<i64, String> {
    let value = value.ok_or("the target has no value")?;
    Quantity::parse(&value.0).map(|quantity| quantity.milli_value()).map_err(|error| error.to_string())
}

fn by_whole(
    current: i32,
    ready: usize,
    measured: i64,
    target: &MetricTarget,
    rules: &Rules,
) -> Result<(i32, MetricValueStatus), String> {
    Ok(match (&target.value, &target.average_value) {
        (Some(value), _) => {
            let replicas = replicas::whole(current, ready, measured, target_of(Some(value))?, rules);
            (replicas, MetricValueStatus { value: Some(quantity(measured)), ..MetricValueStatus::default() })
        }
        (None, average) => {
            let replicas = replicas::shared(current, measured, target_of(average.as_ref())?, rules);
            let each = measured / i64::from(current.max(1));
            (replicas, MetricValueStatus { average_value: Some(quantity(each)), ..MetricValueStatus::default() })
        }
    })
}

#[allow(clippy::too_many_arguments)] // two call sites
fn by_resource(
    current: i32,
    all: &[Arc<Pod>],
    samples: Result<replicas::Samples, String>,
    target: &MetricTarget,
    name: &str,
    container: Option<&str>,
    rules: &Rules,
    now: jiff::Timestamp,
) -> Result<Proposal, String> {
    let what = if target.average_utilization.is_some() { "utilization" } else { "usage" };
    let failed = |error: String| format!("failed to get {name} {what}: {error}");
    let samples = samples.map_err(|error| failed(format!("unable to get metrics for resource {name}: {error}")))?;
    if all.is_empty() {
        return Err(failed("no pods returned by selector while calculating replica count".to_owned()));
    }
    let proposal = match target.average_utilization {
        Some(percent) => {
            let requests = requests(all, name, container).map_err(failed)?;
            replicas::per_pod(
                current,
                all,
                samples,
                &Target::Utilization { percent, requests: &requests },
                name == "cpu",
                rules,
                now,
            )
        }
        None => {
            let target = Target::Average { milli: target_of(target.average_value.as_ref())? };
            replicas::per_pod(current, all, samples, &target, name == "cpu", rules, now)
        }
    };
    proposal.map_err(failed)
}

/// A metric in the words of the error that says it is silent.
fn value_of(metric: &MetricSpec) -> String {
    match (&metric.resource, &metric.container_resource, &metric.external) {
        (Some(source), ..) => format!("{} resource metric value", source.name),
        (_, Some(source), _) => format!("{} container metric value", source.name),
        (.., Some(source)) => format!("{} external metric value", source.metric.name),
        _ => format!("{} metric value", metric.type_.to_lowercase()),
    }
}

/// What each pod requests, thousandths.
fn requests(all: &[Arc<Pod>], name: &str, only: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in all {
        let spec = pod.spec.as_ref();
        let sidecars = spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let mut total = 0;
        for container in
            spec.iter().flat_map(|spec| &spec.containers).chain(sidecars).filter(|c| only.is_none_or(|only| c.name == only))
        {
            let request = container.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(name));
            let request = request.and_then(|request| Quantity::parse(&request.0).ok());
            let missing = || format!("missing request for {name} in container {} of Pod {}", container.name, pod.name_any());
            total += request.ok_or_else(missing)?.milli_value();
        }
        requests.insert(pod.name_any(), total);
    }
    Ok(requests)
}
