//! A whole kubelet, standalone, against a fake runtime.

use std::path::Path;
use std::time::Duration;

use component::tasks::Tasks;

use crate::config::Config;
use crate::fake_cri::Fake;
use crate::flags::Flags;
use crate::kubelet::Shared;
use crate::pod;

async fn start(dir: &Path, tasks: &Tasks) -> Shared {
    start_with(dir, tasks, "").await
}

/// With more lines of configuration.
pub(crate) async fn start_with(dir: &Path, tasks: &Tasks, more: &str) -> Shared {
    let at = |name: &str| dir.join(name).display().to_string();
    std::fs::create_dir_all(at("manifests")).unwrap();
    std::fs::write(
        dir.join("config.yaml"),
        format!(
            "kind: KubeletConfiguration\nfailCgroupV1: false\nfailSwapOn: false\ncgroupsPerQOS: false\nenforceNodeAllocatable: [none]\nenableServer: false\n\
             healthzPort: 0\npodLogsDir: {}\ncontainerRuntimeEndpoint: unix://{}\nstaticPodPath: {}\nevictionHard: {{memory.available: '0'}}\n{more}",
            at("logs"),
            at("cri.sock"),
            at("manifests")
        ),
    )
    .unwrap();
    let args =
        [format!("--config={}", at("config.yaml")), format!("--root-dir={}", at("root")), "--hostname-override=n".to_owned()];
    let mut config = Config::load(&Flags::parse(args).unwrap()).unwrap();
    // Zero in a file means "the default".
    config.kubelet.healthz_port = 0;
    config.container_logs_dir = dir.join("container-logs");
    crate::run::start(config, tasks).await.unwrap()
}

pub(crate) async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in time: {what}");
}

pub(crate) fn manifest(dir: &Path, spec: &str) {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {spec}\n");
    std::fs::create_dir_all(dir.join("manifests")).unwrap();
    std::fs::write(dir.join("manifests/web.yaml"), text).unwrap();
}

pub(crate) fn phase(kubelet: &Shared) -> String {
    let pod = kubelet.pods.list().into_iter().next();
    pod.and_then(|pod| kubelet.status.get(pod::uid(&pod))).and_then(|status| status.phase.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_survives_a_kubelet_restart_and_goes_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.serve(&dir.path().join("cri.sock"));
    manifest(dir.path(), "{initContainers: [{name: i, image: 'x:1'}], containers: [{name: a, image: 'x:1'}]}");
    let tasks = Tasks::new();
    let kubelet = start(dir.path(), &tasks).await;
    wait_for("init container runs", || fake.calls().contains(&"start i".to_owned())).await;
    assert!(!fake.calls().contains(&"create a".to_owned()), "main containers wait");
    fake.0.lock().exit("i", 0);
    wait_for("running", || phase(&kubelet) == "Running").await;
    assert_eq!(fake.calls(), ["run", "pull x:1", "create i", "start i", "create a", "start a"]);

    tasks.stop_and_wait(Duration::from_secs(5)).await;
    drop(kubelet);
    let tasks = Tasks::new();
    let kubelet = start(dir.path(), &tasks).await;
    wait_for("running again", || phase(&kubelet) == "Running").await;
    assert_eq!(fake.calls().len(), 6, "a restart asks for nothing: {:?}", fake.calls());

    fake.0.lock().exit("a", 1);
    wait_for("restarted", || fake.calls().iter().filter(|call| *call == "start a").count() == 2).await;
    std::fs::remove_file(dir.path().join("manifests/web.yaml")).unwrap();
    wait_for("gone", || fake.0.lock().sandboxes.is_empty() && fake.0.lock().containers.is_empty()).await;
    wait_for("directory gone", || std::fs::read_dir(dir.path().join("root/pods")).unwrap().next().is_none()).await;
    tasks.stop_and_wait(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_pod_is_stopped_and_a_broken_one_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.serve(&dir.path().join("cri.sock"));
    manifest(dir.path(), "{restartPolicy: Never, containers: [{name: a, image: 'x:1'}]}");
    let tasks = Tasks::new();
    let kubelet = start(dir.path(), &tasks).await;
    wait_for("running", || phase(&kubelet) == "Running").await;
    fake.0.lock().exit("a", 0);
    wait_for("succeeded", || phase(&kubelet) == "Succeeded").await;
    wait_for("sandbox stopped", || fake.calls().contains(&"stop-sandbox".to_owned())).await;

    manifest(dir.path(), "{containers: [{name: b, image: 'missing:1'}]}");
    let reason = || {
        let pod = kubelet.pods.list().into_iter().next()?;
        let status = kubelet.status.get(pod::uid(&pod))?;
        status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.as_ref()?.reason.clone()
    };
    wait_for("back-off", || reason().as_deref() == Some("ImagePullBackOff")).await;
    assert_eq!(phase(&kubelet), "Pending");
    tasks.stop_and_wait(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_sandbox_is_made_anew_and_orphans_go() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.serve(&dir.path().join("cri.sock"));
    manifest(dir.path(), "{containers: [{name: a, image: 'x:1'}]}");
    let tasks = Tasks::new();
    let kubelet = start(dir.path(), &tasks).await;
    wait_for("running", || phase(&kubelet) == "Running").await;
    {
        let mut state = fake.0.lock();
        state.exit("a", 137);
        for sandbox in state.sandboxes.values_mut() {
            sandbox.state = crate::cri::v1::PodSandboxState::SandboxNotready as i32;
        }
    }
    wait_for("second sandbox", || fake.calls().iter().filter(|call| *call == "run").count() == 2).await;
    wait_for("second run", || fake.calls().iter().filter(|call| *call == "start a").count() == 2).await;
    tasks.stop_and_wait(Duration::from_secs(5)).await;
    drop(kubelet);

    // Gone while no kubelet looked.
    std::fs::remove_file(dir.path().join("manifests/web.yaml")).unwrap();
    let tasks = Tasks::new();
    let _kubelet = start(dir.path(), &tasks).await;
    wait_for("orphans removed", || fake.0.lock().sandboxes.is_empty() && fake.0.lock().containers.is_empty()).await;
    tasks.stop_and_wait(Duration::from_secs(5)).await;
}
