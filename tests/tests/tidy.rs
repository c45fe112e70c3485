//! Rules of the repository that a compiler does not check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Our crates and which of ours each needs (without development).
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let needs = package["dependencies"].as_array().expect("dependencies").iter();
            let needs = needs.filter(|dependency| dependency["kind"].is_null());
            let names = needs.filter_map(|dependency| dependency["name"].as_str()).map(str::to_owned).collect();
            (package["name"].as_str().expect("name").to_owned(), names)
        })
        .collect()
}

/// Every Rust file of ours, with its path below the root.
fn sources() -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard", "*.rs"])
        .current_dir(root())
        .output()
        .expect("git runs");
    let names = String::from_utf8(output.stdout).expect("paths are text");
    let read = |name: &str| std::fs::read_to_string(root().join(name)).ok().map(|text| (name.to_owned(), text));
    names.lines().filter_map(read).collect()
}

const BINARIES: [&str; 10] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
    "rk-cni",
    "rk-dns",
    "rk-ingress",
    "rk-test",
    "rkadm",
];

#[test]
fn no_crate_depends_on_a_binary() {
    for (name, needs) in dependencies() {
        let found: Vec<_> = BINARIES.iter().filter(|binary| needs.contains(**binary)).collect();
        assert!(found.is_empty() || name == "tests", "{name} depends on {found:?}");
    }
}

#[test]
fn only_the_api_server_and_rkadm_speak_to_etcd() {
    for (name, needs) in dependencies() {
        let allowed = ["kube-apiserver", "rkadm"].contains(&name.as_str());
        assert!(allowed || !needs.contains("etcd-client"), "{name} depends on etcd-client");
    }
}

#[test]
fn dependencies_point_one_way() {
    let ours: BTreeSet<String> = dependencies().into_keys().collect();
    let rules: &[(&str, &[&str])] = &[
        ("api", &[]),
        ("component", &[]),
        ("pki", &[]),
        ("net", &[]),
        ("client", &["api", "component"]),
        ("registry", &["api"]),
        ("admission", &["api"]),
        ("auth", &["api", "component"]),
        ("kube-scheduler", &["api", "client", "component"]),
        ("kube-controller-manager", &["api", "client", "component"]),
        ("kubelet", &["api", "client", "component"]),
        ("kube-proxy", &["api", "client", "component", "net"]),
        ("rk-cni", &["api", "client", "component", "net"]),
        ("rk-dns", &["api", "client", "component", "net"]),
        ("rk-ingress", &["client", "component"]),
    ];
    let dependencies = dependencies();
    for (name, allowed) in rules {
        let needs = dependencies.get(*name).unwrap_or_else(|| panic!("no crate {name}"));
        let extra: Vec<_> = needs.iter().filter(|need| ours.contains(*need) && !allowed.contains(&need.as_str())).collect();
        assert!(extra.is_empty(), "{name} depends on {extra:?}");
    }
}

#[test]
fn unsafe_code_stays_in_sys_modules() {
    for (name, text) in sources() {
        let sys = name.ends_with("/sys.rs") || name.contains("/sys/");
        assert!(sys || !text.contains(concat!("allow(", "unsafe_code)")), "{name} allows unsafe code");
    }
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_open() {
    for (name, text) in sources() {
        for word in [concat!("#[", "ignore"), concat!("todo", "!("), concat!("unimplemented", "!(")] {
            assert!(!text.contains(word), "{name} holds {word}");
        }
    }
}

#[test]
fn files_stay_readable() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 1_200, "{name} has {lines} lines: look for a seam");
        let file = name.rsplit('/').next().unwrap_or_default();
        // Cargo takes every file directly in tests/ for a test: what tests share lies in tests/<name>/mod.rs.
        let shared = file == "mod.rs" && name.contains("/tests/");
        assert!(
            shared || !["mod.rs", "utils.rs", "util.rs", "helpers.rs", "common.rs"].contains(&file),
            "{name}: name the concept"
        );
    }
}
