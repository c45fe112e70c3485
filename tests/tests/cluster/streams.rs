//! logs, exec, cp, port-forward.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::wait::holds;

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(60);

/// A pod to talk to.
fn pod(cluster: &Cluster, name: &str) -> Result<()> {
    let kubectl = &cluster.kubectl;
    if kubectl.run(&format!("-n web get pod {name}")).is_err() {
        kubectl.args(&[
            "-n",
            "web",
            "run",
            name,
            "--image",
            &cluster.image,
            "--restart=Never",
            "--command",
            "--",
            "rk-test",
            "--tcp",
            "9000",
        ])?;
    }
    kubectl.run(&format!("-n web wait --for=condition=Ready pod/{name} --timeout=90s"))?;
    Ok(())
}

pub(crate) fn logs_follow(cluster: &Cluster) -> Result<()> {
    pod(cluster, "talk")?;
    let kubectl = &cluster.kubectl;
    ensure!(kubectl.run("-n web logs talk")?.contains("serving HTTP"));
    let mut follow = kubectl.command("-n web logs -f talk --tail=0").stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("stdout")?).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            if line.contains("/echo?msg=followed") {
                let _ = sender.send(());
            }
        }
    });
    let result = holds("the line in the followed log", LIMIT, || {
        kubectl.args(&["-n", "web", "exec", "talk", "--", "wget", "-qO-", "http://127.0.0.1:8080/echo?msg=followed"])?;
        Ok(receiver.recv_timeout(Duration::from_secs(1)).is_ok())
    });
    let _ = follow.kill();
    let _ = follow.wait();
    result?;
    let stamped = kubectl.run("-n web logs talk --timestamps --tail=1")?;
    ensure!(stamped.starts_with("20") && stamped.contains('T'), "{stamped}");
    ensure!(kubectl.fails("-n web logs talk -c nobody")?.contains("container nobody is not valid for pod talk"));
    Ok(())
}

pub(crate) fn exec_works(cluster: &Cluster) -> Result<()> {
    pod(cluster, "talk")?;
    let kubectl = &cluster.kubectl;
    ensure!(kubectl.run("-n web exec talk -- hostname")?.trim() == "talk");
    let status = kubectl.words(&["-n", "web", "exec", "talk", "--", "sh", "-c", "exit 7"]).status()?;
    ensure!(status.code() == Some(7), "{status}");
    let echoed = kubectl.feed("-n web exec -i talk -- cat", "through and back\n")?;
    ensure!(echoed == "through and back\n", "{echoed}");
    // A terminal: `script` gives kubectl one.
    let line = format!(
        "{} --kubeconfig {} --cache-dir {} -n web exec -it talk -- sh -c 'tty; stty size'",
        kubectl.program.display(),
        kubectl.kubeconfig.display(),
        kubectl.cache.display()
    );
    let output = std::process::Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("/dev/pts/"), "{text}");
    Ok(())
}

pub(crate) fn cp_works(cluster: &Cluster) -> Result<()> {
    pod(cluster, "talk")?;
    let kubectl = &cluster.kubectl;
    let dir = tempfile::tempdir()?;
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    // Every byte value, and more than one frame.
    let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&there, &bytes)?;
    kubectl.args(&["cp", &there.to_string_lossy(), "web/talk:/tmp/copied"])?;
    kubectl.args(&["cp", "web/talk:/tmp/copied", &back.to_string_lossy()])?;
    ensure!(std::fs::read(&back)? == bytes, "the copy differs");
    Ok(())
}

pub(crate) fn port_forward_works(cluster: &Cluster) -> Result<()> {
    pod(cluster, "talk")?;
    let mut forward = cluster.kubectl.command("-n web port-forward pod/talk :8080 :9000").stdout(Stdio::piped()).spawn()?;
    let result = use_forward(&mut forward);
    let _ = forward.kill();
    let _ = forward.wait();
    result
}

fn use_forward(forward: &mut std::process::Child) -> Result<()> {
    let mut lines = BufReader::new(forward.stdout.take().context("stdout")?).lines();
    let mut port_of = |remote: &str| -> Result<u16> {
        loop {
            let line = lines.next().context("kubectl said nothing more")??;
            if line.contains("127.0.0.1") && line.ends_with(remote) {
                let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next()).context("port")?;
                return Ok(port.parse()?);
            }
        }
    };
    let (http, echo) = (port_of("8080")?, port_of("9000")?);
    std::thread::spawn(move || lines.for_each(drop));
    for _ in 0..5 {
        let mut stream = TcpStream::connect(("127.0.0.1", http))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains("talk"), "{answer}");
    }
    let workers: Vec<_> = (0..8_u8)
        .map(|n| {
            std::thread::spawn(move || -> Result<()> {
                let mut stream = TcpStream::connect(("127.0.0.1", echo))?;
                stream.set_read_timeout(Some(LIMIT))?;
                let sent = vec![n; 100_000];
                let mut writer = stream.try_clone()?;
                let data = sent.clone();
                let writing = std::thread::spawn(move || writer.write_all(&data));
                let mut got = vec![0; sent.len()];
                stream.read_exact(&mut got)?;
                ensure!(got == sent, "connection {n} got other bytes");
                writing.join().map_err(|_| anyhow::anyhow!("writer"))??;
                Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a connection panicked"))??;
    }
    Ok(())
}
