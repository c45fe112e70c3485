//! The one version of everything: binaries, images, `kubectl version`.

use serde_json::{Value, json};

/// What `scripts/stamp` looks for in a finished binary; the version follows, padded with zeros.
const MARK: &str = "rk-version-stamp:";
const STAMP_SIZE: usize = 64;

/// The version of this binary where a release stamps another one over it, without compiling anything again.
#[used]
static STAMP: [u8; STAMP_SIZE] = {
    let text = concat!("rk-version-stamp:v", env!("CARGO_PKG_VERSION")).as_bytes();
    let mut stamp = [0; STAMP_SIZE];
    let mut at = 0;
    while at < text.len() {
        stamp[at] = text[at];
        at += 1;
    }
    stamp
};

/// `v1.36.N`: the workspace's version, or the one that `make release VERSION=…` has stamped into the binary.
pub fn current() -> &'static str {
    // The compiler must not know what is there: it may be another text at run time.
    let stamp: &'static [u8; STAMP_SIZE] = std::hint::black_box(&STAMP);
    let text = stamp.get(MARK.len()..).unwrap_or_default();
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    std::str::from_utf8(text.get(..end).unwrap_or_default()).unwrap_or("v0.0.0")
}

/// The Kubernetes level whose API is served.
pub const MAJOR: &str = "1";
/// See [`MAJOR`].
pub const MINOR: &str = "36";

/// etcd major.minor.patch that images are tagged with is found at image build time; this is the pause image's tag.
pub const PAUSE_TAG: &str = "3.10.1";

/// The body of `GET /version`.
pub fn info() -> Value {
    json!({
        "major": MAJOR, "minor": MINOR, "gitVersion": current(), "gitCommit": option_env!("RK_COMMIT").unwrap_or(""),
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
    format!("{component}/{} ({}) rk", current(), platform())
}
