//! Logs: one line an event on stderr, with upstream's `-v` levels.

use tracing_subscriber::EnvFilter;

/// Starts logging at klog verbosity `v`: 0–3 info, 4–5 debug, 6 and more trace. `RUST_LOG` overrides. Call once.
pub fn init(v: u8) {
    init_format(v, "text");
}

/// The same with `--logging-format` (`text` or `json`).
pub fn init_format(v: u8, format: &str) {
    let level = match v {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    // The transports of others speak only when asked through RUST_LOG.
    let fallback =
        format!("{level},h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tower=warn,tonic=warn,kube=warn,hickory_server=warn");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if format == "json" { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
