//! Logs: one line an event on stderr, with upstream's `-v` levels; and, where asked for, spans to an OpenTelemetry collector.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Starts logging at klog verbosity `v`: 0–3 info, 4–5 debug, 6 and more trace. `RUST_LOG` overrides. Call once.
pub fn init(v: u8) {
    init_format(v, "text");
}

/// The same with `--logging-format` (`text` or `json`).
pub fn init_format(v: u8, format: &str) {
    let _ = tracing_subscriber::registry().with(lines(format)).with(filter(v)).try_init();
}

/// Where spans go. Upstream: TracingConfiguration of `--tracing-config-file` and KubeletConfiguration.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// The collector's OTLP/gRPC address; upstream's default is `http://localhost:4317`.
    pub endpoint: String,
    /// Of a million root spans, how many are kept.
    pub sampling_rate_per_million: u32,
    /// The component's name, as `service.name`.
    pub service: String,
}

/// Sends spans while it lives; dropping it sends what is left.
pub struct Exporting(SdkTracerProvider);

impl Drop for Exporting {
    fn drop(&mut self) {
        let _ = self.0.shutdown();
    }
}

/// Logs, and exports spans as `traces` says. Call inside the runtime; keep the result until the process ends.
///
/// # Errors
/// The address is not a URL. An unreachable collector is no error: its spans are lost.
pub fn init_traces(v: u8, format: &str, traces: &Traces) -> Result<Exporting, String> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&traces.endpoint)
        .build()
        .map_err(|error| format!("tracing endpoint {:?}: {error}", traces.endpoint))?;
    let ratio = f64::from(traces.sampling_rate_per_million) / 1e6;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(Resource::builder().with_service_name(traces.service.clone()).build())
        .build();
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer(traces.service.clone()));
    let _ = tracing_subscriber::registry().with(spans).with(lines(format)).with(filter(v)).try_init();
    Ok(Exporting(provider))
}

fn filter(v: u8) -> EnvFilter {
    let level = match v {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    // The transports of others speak only when asked through RUST_LOG.
    let quiet = [
        "h2",
        "hyper",
        "hyper_util",
        "rustls",
        "tower",
        "tonic",
        "kube_client",
        "kube_runtime",
        "hickory_server",
        "opentelemetry",
        "opentelemetry_sdk",
    ];
    let fallback = quiet.iter().fold(level.to_owned(), |text, name| format!("{text},{name}=warn"));
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback))
}

fn lines<S>(format: &str) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if format == "json" { layer.json().boxed() } else { layer.with_ansi(false).boxed() }
}
