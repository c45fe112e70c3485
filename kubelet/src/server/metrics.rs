//! `/metrics` and what is below it. Upstream: pkg/kubelet/metrics, pkg/kubelet/metrics/collectors

use std::fmt::Write as _;

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use jiff::Timestamp;

use super::{Body, Call, respond};
use crate::kubelet::Shared;
use crate::pod;
use crate::runtime::actions::Health;
use crate::runtime::observed::State;

fn answer(text: String) -> Response<Body> {
    respond(Some(component::serve::text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)))
}

/// The kubelet's own.
pub fn own(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        let mut text = component::metrics::render();
        let kubelet = &call.kubelet;
        let handles = kubelet.workers.list();
        let running: usize = handles.iter().filter(|handle| handle.view().runtime.ready_sandbox().is_some()).count();
        let mut states = std::collections::BTreeMap::from([("created", 0), ("exited", 0), ("running", 0), ("unknown", 0)]);
        for handle in &handles {
            for record in &handle.view().runtime.containers {
                let state = match record.state {
                    State::Created => "created",
                    State::Running => "running",
                    State::Exited => "exited",
                    State::Unknown => "unknown",
                };
                *states.entry(state).or_default() += 1;
            }
        }
        let _ = writeln!(
            text,
            "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\nkubelet_running_pods {running}"
        );
        let _ = writeln!(
            text,
            "# HELP kubelet_running_containers Number of containers currently running\n# TYPE kubelet_running_containers gauge"
        );
        for (state, count) in states {
            let _ = writeln!(text, "kubelet_running_containers{{container_state=\"{state}\"}} {count}");
        }
        let _ = writeln!(
            text,
            "# HELP kubelet_node_name The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{}\"}} 1",
            kubelet.config.node_name
        );
        answer(text)
    })
}

/// CPU and memory of node, pods and containers: what metrics-server reads.
pub fn resource(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move { answer(resources(&call.kubelet)) })
}

fn resources(kubelet: &Shared) -> String {
    let now = Timestamp::now().as_millisecond();
    let mut rows: Vec<(&str, &str, &str, Vec<String>)> = vec![
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds", vec![]),
        ("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes", vec![]),
        ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds", vec![]),
        ("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds", vec![]),
        ("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes", vec![]),
        ("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds", vec![]),
        ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", vec![]),
        (
            "resource_scrape_error",
            "gauge",
            "1 if there was an error while getting container metrics, 0 otherwise",
            vec!["resource_scrape_error 0".into()],
        ),
    ];
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    if let Some(usage) = kubelet.cgroups.node_usage() {
        rows[3].3.push(format!("node_cpu_usage_seconds_total {} {now}", seconds(usage.cpu_nanos)));
        rows[4].3.push(format!("node_memory_working_set_bytes {} {now}", usage.working_set));
    }
    for handle in kubelet.workers.list() {
        let (pod, view) = (handle.request().pod, handle.view());
        let (name, namespace) = (pod::name(&pod), pod::namespace(&pod));
        if view.runtime.ready_sandbox().is_none() {
            continue;
        }
        if let Some(usage) = kubelet.cgroups.pod_usage(&pod) {
            let labels = format!("{{namespace=\"{namespace}\",pod=\"{name}\"}}");
            rows[5].3.push(format!("pod_cpu_usage_seconds_total{labels} {} {now}", seconds(usage.cpu_nanos)));
            rows[6].3.push(format!("pod_memory_working_set_bytes{labels} {} {now}", usage.working_set));
        }
        for record in view.runtime.containers.iter().filter(|record| record.state == State::Running) {
            let Some(usage) = kubelet.cgroups.container_usage(&pod, &record.id) else { continue };
            let labels = format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{name}\"}}", record.name());
            rows[0].3.push(format!("container_cpu_usage_seconds_total{labels} {} {now}", seconds(usage.cpu_nanos)));
            rows[1].3.push(format!("container_memory_working_set_bytes{labels} {} {now}", usage.working_set));
            rows[2].3.push(format!("container_start_time_seconds{labels} {}", record.started_at as f64 / 1e9));
        }
    }
    let mut out = String::new();
    for (name, kind, help, lines) in rows.into_iter().filter(|(.., lines)| !lines.is_empty()) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// Results of probes.
pub fn probes(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        let mut out = String::from(
            "# HELP prober_probe_total Cumulative number of a liveness, readiness or startup probe for a container by result.\n# TYPE prober_probe_total counter\n",
        );
        for handle in call.kubelet.workers.list() {
            let (pod, view) = (handle.request().pod, handle.view());
            let verdicts = call.kubelet.probes.verdicts(pod::uid(&pod));
            for (kind, map) in [("Liveness", verdicts.liveness), ("Readiness", verdicts.readiness), ("Startup", verdicts.startup)]
            {
                for (id, health) in map {
                    let Some(record) = view.runtime.containers.iter().find(|record| record.id == id) else { continue };
                    let result = if health == Health::Success { "successful" } else { "failed" };
                    let _ = writeln!(
                        out,
                        "prober_probe_total{{container=\"{}\",namespace=\"{}\",pod=\"{}\",pod_uid=\"{}\",probe_type=\"{kind}\",result=\"{result}\"}} 1",
                        record.name(),
                        pod::namespace(&pod),
                        pod::name(&pod),
                        pod::uid(&pod)
                    );
                }
            }
        }
        answer(out)
    })
}

/// The part of cAdvisor's metrics that dashboards are built on.
pub fn cadvisor(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        let kubelet = &call.kubelet;
        let now = Timestamp::now().as_millisecond();
        let (mut cpu, mut memory, mut rss, mut limit) = (String::new(), String::new(), String::new(), String::new());
        for handle in kubelet.workers.list() {
            let (pod, view) = (handle.request().pod, handle.view());
            for record in view.runtime.containers.iter().filter(|record| record.state == State::Running) {
                let Some(usage) = kubelet.cgroups.container_usage(&pod, &record.id) else { continue };
                let labels = format!(
                    "container=\"{}\",id=\"{}/{}\",image=\"{}\",name=\"{}\",namespace=\"{}\",pod=\"{}\"",
                    record.name(),
                    kubelet.cgroups.parent_for_runtime(&pod),
                    record.id,
                    record.image,
                    record.id,
                    pod::namespace(&pod),
                    pod::name(&pod)
                );
                let _ = writeln!(
                    cpu,
                    "container_cpu_usage_seconds_total{{cpu=\"total\",{labels}}} {} {now}",
                    usage.cpu_nanos as f64 / 1e9
                );
                let _ = writeln!(memory, "container_memory_working_set_bytes{{{labels}}} {} {now}", usage.working_set);
                let _ = writeln!(rss, "container_memory_rss{{{labels}}} {} {now}", usage.rss);
                let _ = writeln!(limit, "container_spec_memory_limit_bytes{{{labels}}} {}", usage.limit);
            }
        }
        let mut out = String::new();
        for (name, kind, help, lines) in [
            ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", cpu),
            ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", memory),
            ("container_memory_rss", "gauge", "Size of RSS in bytes.", rss),
            ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", limit),
        ] {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
        let machine = kubelet.values.memory;
        let _ = writeln!(
            out,
            "# HELP machine_memory_bytes Amount of memory installed on the machine.\n# TYPE machine_memory_bytes gauge\nmachine_memory_bytes {machine}"
        );
        answer(out)
    })
}
