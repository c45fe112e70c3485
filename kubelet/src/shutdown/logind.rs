//! systemd-logind, through its own tools: `systemd-inhibit` holds the lock, `busctl` tells of shutdowns. Every machine with logind has both.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::Bus;

const MANAGER: [&str; 3] = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"];
/// Where a longer delay is set. Upstream: logindConfigDirectory, kubeletLogindConf
const CONFIG: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";

/// The connection.
pub struct Logind {
    monitor: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Logind {
    /// Follows logind's signals, once it allows delays of `seconds`.
    ///
    /// # Errors
    /// There is no logind.
    pub async fn connect(seconds: u64) -> Result<Self, String> {
        let text = run("busctl", &["get-property", MANAGER[0], MANAGER[1], MANAGER[2], "InhibitDelayMaxUSec"]).await?;
        let allowed = text.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1_000_000;
        if allowed < seconds {
            raise(seconds).await?;
        }
        let rule = format!("type='signal',interface='{}',member='PrepareForShutdown'", MANAGER[2]);
        let mut monitor = Command::new("busctl")
            .args(["monitor", "--json=short", "--match", &rule])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("busctl: {error}"))?;
        let output = monitor.stdout.take().ok_or("busctl has no output")?;
        Ok(Self { monitor, lines: BufReader::new(output).lines() })
    }
}

/// Lets logind wait longer, and makes it read that.
async fn raise(seconds: u64) -> Result<(), String> {
    let path = std::path::Path::new(CONFIG);
    let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds}\n");
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        std::fs::write(path, text)
    };
    write().map_err(|error: std::io::Error| format!("{CONFIG}: {error}"))?;
    run("systemctl", &["kill", "--signal=HUP", "systemd-logind.service"]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

async fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(10), output).await.map_err(|_| format!("{program} does not answer"))?;
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Bus for Logind {
    type Lock = Child;

    async fn inhibit(&mut self) -> Result<Child, String> {
        Command::new("systemd-inhibit")
            .args(["--what=shutdown", "--mode=delay", "--who=kubelet", "--why=Kubelet needs time to handle node shutdown"])
            .args(["sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("systemd-inhibit: {error}"))
    }

    async fn next(&mut self) -> Option<bool> {
        loop {
            let Ok(Some(line)) = self.lines.next_line().await else {
                let _ = self.monitor.start_kill();
                return None;
            };
            if let Some(begins) = parse(&line) {
                return Some(begins);
            }
        }
    }
}

/// The argument of `PrepareForShutdown` in a line of the monitor.
fn parse(line: &str) -> Option<bool> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    (message["member"] == "PrepareForShutdown").then(|| message.pointer("/payload/data/0")?.as_bool()).flatten()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_monitors_lines_are_read() {
        let line = r#"{"type":"signal","endian":"l","flags":1,"version":1,"cookie":5,"sender":":1.2","path":"/org/freedesktop/login1","interface":"org.freedesktop.login1.Manager","member":"PrepareForShutdown","payload":{"type":"b","data":[true]}}"#;
        assert_eq!(super::parse(line), Some(true));
        assert_eq!(super::parse(&line.replace("true", "false")), Some(false));
        assert_eq!(super::parse("{}"), None);
    }
}
