//! A real etcd on a private port, API servers in this process, and a plain HTTP client.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use component::tasks::Tasks;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use kube_apiserver::config::Config;
use kube_apiserver::kubelet_client::KubeletClient;
use kube_apiserver::options;
use kube_apiserver::server::{self, Running};
use serde_json::Value;

/// etcd with its data in a directory; killed when dropped.
pub struct Etcd {
    child: Option<Child>,
    pub dir: tempfile::TempDir,
    pub port: u16,
    peer: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    pub fn start() -> Self {
        let mut etcd = Self { child: None, dir: tempfile::tempdir().unwrap(), port: free_port(), peer: free_port() };
        etcd.run("data");
        etcd
    }

    /// Runs over the directory `data` below its own.
    pub fn run(&mut self, data: &str) {
        let (client, peer) = (format!("http://127.0.0.1:{}", self.port), format!("http://127.0.0.1:{}", self.peer));
        let log = std::fs::File::create(self.dir.path().join("etcd.log")).unwrap();
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path().join(data))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.ctl(&["endpoint", "health"]).status.success() {
            assert!(Instant::now() < deadline, "etcd did not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn ctl(&self, args: &[&str]) -> std::process::Output {
        Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("http://127.0.0.1:{}", self.port)])
            .args(args)
            .output()
            .unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One API server in this process.
pub struct Api {
    pub running: Running,
    pub tasks: Tasks,
    pub port: u16,
    client: KubeletClient,
}

impl Api {
    pub async fn start(etcd: &Etcd, extra: &[&str]) -> Self {
        component::install_crypto();
        let key = etcd.dir.path().join("sa.key");
        if !key.exists() {
            assert!(
                Command::new("openssl")
                    .args(["genrsa", "-out"])
                    .arg(&key)
                    .arg("2048")
                    .stderr(Stdio::null())
                    .status()
                    .unwrap()
                    .success()
            );
            std::fs::write(etcd.dir.path().join("tokens.csv"), "secret,admin,admin,\"system:masters\"\njane,jane,jane\n")
                .unwrap();
        }
        let file = |name: &str| etcd.dir.path().join(name).display().to_string();
        let mut args = vec![
            "kube-apiserver".to_owned(),
            format!("--etcd-servers=http://127.0.0.1:{}", etcd.port),
            "--bind-address=127.0.0.1".into(),
            "--secure-port=0".into(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("sa.key")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-cluster-ip-range=10.0.0.0/24".into(),
        ];
        args.extend(extra.iter().map(|arg| (*arg).to_owned()));
        let config = Config::try_from(options::parse(args.iter().map(Into::into)).unwrap()).unwrap();
        let client = KubeletClient::new(&config).unwrap();
        let tasks = Tasks::new();
        let running = server::start(config, &tasks).await.unwrap();
        let api = Self { port: running.address.port(), running, tasks, client };
        api.until("ready", || async { api.get("/readyz").await.0 == 200 }).await;
        api
    }

    /// Waits for something that will be true.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, check: impl Fn() -> F) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !check().await {
            assert!(Instant::now() < deadline, "waited too long for: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> http::Response<Incoming> {
        let mut request =
            Request::builder().method(method).uri(path).header("host", "localhost").header("authorization", "Bearer secret");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {}).boxed();
        self.client.send_to_workload("127.0.0.1", self.port, true, request.body(body).unwrap()).await.unwrap()
    }

    pub async fn ask(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, Value) {
        let response = self.send(method, path, &[("content-type", content_type)], body).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())))
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, "application/json", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask("POST", path, "application/json", &body.to_string()).await
    }

    pub async fn config_map(&self, name: &str, data: &str) -> (u16, Value) {
        let body = serde_json::json!({"metadata": {"name": name, "labels": {"l": name}}, "data": {"k": data}});
        self.post("/api/v1/namespaces/default/configmaps", &body).await
    }

    /// Begins a watch; events are read one by one.
    pub async fn watch(&self, path: &str) -> Events {
        let response = self.send("GET", path, &[], "").await;
        assert_eq!(response.status(), 200, "{path}");
        Events { body: response.into_body(), buffer: Vec::new() }
    }

    pub fn stop(&self) {
        self.tasks.stop();
    }
}

/// The events of a watch.
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` at the stream's end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.body.frame()).await.expect("an event or the end");
            match frame {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().unwrap()),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Type, name and version of the next event.
    pub async fn brief(&mut self) -> (String, String, u64) {
        let event = self.next().await.expect("the stream goes on");
        let metadata = &event["object"]["metadata"];
        (
            event["type"].as_str().unwrap().to_owned(),
            metadata["name"].as_str().unwrap_or("").to_owned(),
            metadata["resourceVersion"].as_str().unwrap_or("0").parse().unwrap(),
        )
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

pub fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}
