//! The switch's process: holds the network namespace and forwards one loopback port to an API server.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};

use crate::layout::{Layout, live_pid};
use crate::network;

/// The API server's port on control-plane hosts.
const API_PORT: u16 = 6443;
/// Connections forwarded at once; more are refused.
const MAX_CONNECTIONS: usize = 512;

/// Starts the switch in the background; its pid and the loopback port it got.
///
/// # Errors
/// It did not come up; the text holds its last words.
pub fn spawn(layout: &Layout, port: u16) -> Result<(i32, u16)> {
    let log_path = layout.dir().join("switch.log");
    let log = std::fs::File::create(&log_path)?;
    let port_file = layout.dir().join("switch.port");
    let _ = std::fs::remove_file(&port_file);
    let mut child = Command::new(std::env::current_exe()?)
        .args(["lab", "--lab", &layout.lab, "keeper", "--port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the switch")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(port) = std::fs::read_to_string(&port_file).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok((i32::try_from(child.id())?, port));
        }
        if let Some(status) = child.try_wait()? {
            bail!("the switch ended with {status}: {}", std::fs::read_to_string(&log_path).unwrap_or_default().trim());
        }
        if Instant::now() > deadline {
            bail!("the switch did not come up in 10 s; see {}", log_path.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The pid of the running switch.
///
/// # Errors
/// It does not run.
pub fn pid(layout: &Layout) -> Result<i32> {
    live_pid(&layout.keeper_pid_file(), "keeper")
        .with_context(|| format!("the switch of lab {:?} does not run; try: rkadm lab down", layout.lab))
}

/// Is the switch, until killed.
///
/// # Errors
/// The port is taken, or namespaces cannot be made.
pub fn run(layout: &Layout, port: u16) -> Result<()> {
    let _ = nix::unistd::setsid();
    // The listener belongs to this machine's namespace, the connections it makes to the switch's.
    let listener = TcpListener::bind(("127.0.0.1", port))
        .with_context(|| format!("listen on 127.0.0.1:{port}; choose another with --port"))?;
    let port = listener.local_addr()?.port();
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace; are you root?")?;
    network::make_switch()?;
    std::fs::write(layout.keeper_pid_file(), std::process::id().to_string())?;
    std::fs::write(layout.dir().join("switch.port"), port.to_string())?;
    let open = Arc::new(AtomicUsize::new(0));
    let last = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        if open.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (layout, open, last) = (layout.clone(), open.clone(), last.clone());
        std::thread::spawn(move || {
            if let Some(server) = connect(&layout, &last) {
                forward(client, server);
            }
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
    Ok(())
}

/// The first control-plane host that answers, from the one that answered last.
fn connect(layout: &Layout, last: &AtomicUsize) -> Option<TcpStream> {
    let state = layout.load().ok()?;
    let addresses = state.nodes.iter().filter(|node| node.control_plane).map(|node| format!("{}:{API_PORT}", node.address()));
    let addresses: Vec<SocketAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
    let first = last.load(Ordering::Relaxed);
    (0..addresses.len()).map(|n| (n + first) % addresses.len()).find_map(|n| {
        let stream = TcpStream::connect_timeout(&addresses[n], Duration::from_millis(700)).ok()?;
        last.store(n, Ordering::Relaxed);
        Some(stream)
    })
}

fn forward(client: TcpStream, server: TcpStream) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_reader), Ok(server_reader)) = (client.try_clone(), server.try_clone()) else { return };
    let up = std::thread::spawn(move || pump(client_reader, server));
    pump(server_reader, client);
    let _ = up.join();
}

/// Copies one direction, then closes it: the other goes on (half-close).
fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.flush();
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
