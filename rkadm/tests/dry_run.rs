//! `--dry-run` as a user runs it: shows everything, touches nothing.

use std::path::Path;
use std::process::{Command, Output};

fn rkadm(root: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rkadm")).arg("--rootfs").arg(root).args(words).output().expect("rkadm runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn init(root: &Path, more: &[&str]) -> Output {
    let mut words = vec![
        "init",
        "--dry-run",
        "--skip-phases=preflight",
        "--apiserver-advertise-address=192.0.2.7",
        "--node-name=node1",
        "--pod-network-cidr=10.244.0.0/16",
        "--token=abcdef.0123456789abcdef",
    ];
    words.extend(more);
    rkadm(root, &words)
}

#[test]
fn init_shows_files_and_objects_and_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let output = init(root.path(), &[]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    for part in [
        "Would write file \"/etc/kubernetes/pki/ca.key\" (mode 600",
        "Would write file \"/etc/kubernetes/super-admin.conf\" (mode 600",
        "Would write file \"/etc/kubernetes/manifests/kube-apiserver.yaml\" with content:",
        "--advertise-address=192.0.2.7",
        "Would write file \"/var/lib/kubelet/config.yaml\" with content:",
        "Would create or update Secret \"bootstrap-token-abcdef\"",
        "Would create or update ConfigMap \"kubeadm-config\"",
        "Would create or update DaemonSet \"rk-cni\"",
        "Would create or update DaemonSet \"kube-proxy\"",
        "Would create or update Service \"kube-dns\"",
        "Finished dry-running successfully",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!said.contains("PRIVATE KEY") && !said.contains("MDEyMzQ1Njc4OWFiY2RlZg"), "a secret is shown");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "something was written");
}

#[test]
fn skipped_phases_and_disabled_addons_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    let output = init(root.path(), &["--skip-phases=preflight,addon/coredns,kubelet-start"]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        !said.contains("kube-dns") && !said.contains("/var/lib/kubelet/config.yaml") && said.contains("\"kube-proxy\""),
        "{said}"
    );
    let output = init(root.path(), &["--skip-phases=nonsense"]);
    assert!(!output.status.success() && text(&output.stderr).contains("no phase \"nonsense\""));
}

#[test]
fn single_phases_write_what_they_say() {
    let root = tempfile::tempdir().unwrap();
    let common = ["--apiserver-advertise-address=192.0.2.7", "--node-name=node1", "--config"];
    let config = root.path().join("config.yaml");
    std::fs::write(&config, "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nencryptionAlgorithm: ECDSA-P256\n")
        .unwrap();
    let phase = |words: &[&str]| {
        let mut all = vec!["init", "phase"];
        all.extend(words);
        all.extend(common);
        let path = config.display().to_string();
        all.push(&path);
        rkadm(root.path(), &all)
    };
    let output = phase(&["certs", "apiserver"]);
    assert!(!output.status.success() && text(&output.stderr).contains("phase certs ca"), "{}", text(&output.stderr));
    for words in [
        &["certs", "ca"][..],
        &["certs", "apiserver"],
        &["certs", "all"],
        &["kubeconfig", "all"],
        &["control-plane", "scheduler"],
    ] {
        let output = phase(words);
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    }
    let key = std::fs::read_to_string(root.path().join("etc/kubernetes/pki/apiserver.key")).unwrap();
    assert!(key.starts_with("-----BEGIN EC PRIVATE KEY-----"));
    assert!(root.path().join("etc/kubernetes/manifests/kube-scheduler.yaml").exists());
    assert!(!root.path().join("etc/kubernetes/manifests/etcd.yaml").exists());
    let output = rkadm(root.path(), &["certs", "check-expiration"]);
    assert!(text(&output.stdout).contains("apiserver-kubelet-client"), "{}", text(&output.stderr));
    let output = rkadm(root.path(), &["certs", "renew", "apiserver", "--config", &config.display().to_string()]);
    assert!(output.status.success() && text(&output.stdout).contains("certificate for serving the Kubernetes API renewed"));
}

#[test]
fn wrong_command_lines_fail_with_a_reason() {
    let root = tempfile::tempdir().unwrap();
    for (words, wanted) in [
        (&["init", "--dry-run", "--apiserver-advertise-address=127.0.0.1"][..], "other nodes cannot reach"),
        (&["init", "--dry-run", "--apiserver-advertise-address=192.0.2.7", "--pod-network-cidr=10.96.0.0/16"], "overlaps"),
        (&["init", "--dry-run", "--apiserver-advertise-address=192.0.2.7", "--kubernetes-version=v1.20.0"], "not v1.20.0"),
        (&["init", "--dry-run", "--config=/no/such/file"], "/no/such/file"),
        (&["init", "phase", "nonsense", "--apiserver-advertise-address=192.0.2.7"], "no phase \"nonsense\""),
        (&["join"], "--print-join-command"),
        (&["join", "192.0.2.7:6443", "--token", "short"], "[a-z0-9]{6}"),
        (&["join", "192.0.2.7:6443", "--token", "abcdef.0123456789abcdef"], "--discovery-token-ca-cert-hash"),
        (&["token", "create", "x"], "abcdef.0123456789abcdef"),
        (&["token", "list", "--kubeconfig=/no/such"], "/no/such does not exist"),
        (&["certs", "renew", "nonsense"], "nonsense"),
    ] {
        let output = rkadm(root.path(), words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(text(&output.stderr).contains(wanted), "{words:?}: {}", text(&output.stderr));
    }
}
