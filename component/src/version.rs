//! The one version of everything: binaries, images, `kubectl version`.

use serde_json::{Value, json};

/// `v1.36.N`. `make release VERSION=…` stamps it through the `RK_VERSION` environment variable at build time.
pub const VERSION: &str = match option_env!("RK_VERSION") {
    Some(version) => version,
    None => concat!("v", env!("CARGO_PKG_VERSION")),
};

/// The Kubernetes level whose API is served.
pub const MAJOR: &str = "1";
/// See [`MAJOR`].
pub const MINOR: &str = "36";

/// etcd major.minor.patch that images are tagged with is found at image build time; this is the pause image's tag.
pub const PAUSE_TAG: &str = "3.10.1";

/// The body of `GET /version`.
pub fn info() -> Value {
    json!({
        "major": MAJOR, "minor": MINOR, "gitVersion": VERSION, "gitCommit": option_env!("RK_COMMIT").unwrap_or(""),
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "go1.26", "compiler": "rustc",
        "platform": platform(), "emulationMajor": MAJOR, "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR, "minCompatibilityMinor": "35",
    })
}

/// `linux/amd64`, as Go names platforms.
pub fn platform() -> String {
    format!("linux/{}", arch())
}

/// `amd64`, `arm64`: Go's names of architectures.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The user agent of a component: `kubelet/v1.36.0 (linux/amd64) rk`.
pub fn user_agent(component: &str) -> String {
    format!("{component}/{VERSION} ({}) rk", platform())
}
