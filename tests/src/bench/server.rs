//! A kube-apiserver alone over an empty etcd, on loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The token of a member of system:masters.
const TOKEN: &str = "bench-token";

/// etcd and kube-apiserver; both end when this is dropped.
pub struct Server {
    etcd: Child,
    apiserver: Child,
    command: Command,
    _dir: tempfile::TempDir,
    /// Its address.
    pub url: String,
    /// From the start of the process to the first good answer of /readyz.
    pub ready_after: Duration,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Server {
    /// Starts both from the binaries in `bins` (etcd from the PATH).
    ///
    /// # Errors
    /// One of them did not come up.
    pub async fn start(bins: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let (client, peer, port) = (free_port()?, free_port()?, free_port()?);
        let log = |name: &str| -> Result<Stdio> { Ok(std::fs::File::create(at(name))?.into()) };
        let etcd_url = format!("http://127.0.0.1:{client}");
        let etcd = Command::new("etcd")
            .args([
                "--data-dir",
                &at("etcd").to_string_lossy(),
                "--listen-client-urls",
                &etcd_url,
                "--advertise-client-urls",
                &etcd_url,
            ])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}"), "--log-level", "error"])
            .stdout(log("etcd.log")?)
            .stderr(log("etcd.err")?)
            .spawn()
            .context("start etcd")?;
        std::fs::write(at("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n"))?;
        let key = at("sa.key");
        let made = Command::new("openssl")
            .args(["genrsa", "-traditional", "-out"])
            .arg(&key)
            .args(["2048"])
            .stderr(Stdio::null())
            .status()?;
        if !made.success() {
            bail!("openssl genrsa failed");
        }
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        // Wait for etcd first: the figure is the server's own.
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", client)).is_err() {
            if Instant::now() > deadline {
                bail!("etcd did not come up");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut command = Command::new(bins.join("kube-apiserver"));
        command
            .args([
                format!("--etcd-servers={etcd_url}"),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                format!("--secure-port={port}"),
                format!("--cert-dir={}", path(at("certs"))),
                format!("--token-auth-file={}", path(at("tokens.csv"))),
                "--authorization-mode=RBAC".into(),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
                format!("--service-account-key-file={}", path(key.clone())),
                format!("--service-account-signing-key-file={}", path(key)),
                "--service-cluster-ip-range=10.96.0.0/12".into(),
                "--disable-admission-plugins=ServiceAccount".into(),
            ])
            .stdout(log("apiserver.log")?)
            .stderr(log("apiserver.err")?);
        let apiserver = command.spawn().context("start kube-apiserver")?;
        let url = format!("https://127.0.0.1:{port}");
        let mut server = Self { etcd, apiserver, command, _dir: dir, url, ready_after: Duration::ZERO };
        server.ready(Instant::now()).await?;
        Ok(server)
    }

    /// Stops kube-apiserver and starts it anew over the same etcd.
    ///
    /// # Errors
    /// It did not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.apiserver.kill()?;
        self.apiserver.wait()?;
        let log = std::fs::File::create(self._dir.path().join("apiserver.err"))?;
        self.command.stdout(Stdio::null()).stderr(log);
        let started = Instant::now();
        self.apiserver = self.command.spawn().context("start kube-apiserver")?;
        self.ready(started).await
    }

    async fn ready(&mut self, started: Instant) -> Result<()> {
        let client = self.client()?;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            if client.request_text(request).await.is_ok() {
                self.ready_after = started.elapsed();
                return Ok(());
            }
            if let Some(status) = self.apiserver.try_wait()? {
                let log = std::fs::read_to_string(self._dir.path().join("apiserver.err")).unwrap_or_default();
                bail!("kube-apiserver ended with {status}: {log}");
            }
            if started.elapsed() > Duration::from_secs(30) {
                bail!("kube-apiserver is not ready after 30 s");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A client on a connection of its own.
    ///
    /// # Errors
    /// Never for this address.
    pub fn client(&self) -> Result<kube::Client> {
        let mut config = kube::Config::new(self.url.parse()?);
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(TOKEN.to_owned().into());
        Ok(client::connect::build(config, "rk-bench")?)
    }

    /// A kubeconfig for it, as a file that goes with it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        let path = self._dir.path().join("kubeconfig");
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": self.url, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "bench", "user": {"token": TOKEN}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        });
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// The server's pid.
    pub fn pid(&self) -> u32 {
        self.apiserver.id()
    }

    /// etcd's pid.
    pub fn etcd_pid(&self) -> u32 {
        self.etcd.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in [&mut self.apiserver, &mut self.etcd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
