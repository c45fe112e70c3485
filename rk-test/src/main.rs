//! `rk-test`: serves HTTP, and echoes TCP and UDP.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use rk_test::{http, state::State};

/// A server for tests. It listens on all addresses, IPv4 and IPv6.
#[derive(Parser)]
struct Arguments {
    /// HTTP port: `/`, `/hostname`, `/client`, `/env`, `/echo?msg=`, `/status/CODE`, `/delay/MS`, `/healthz`, `/readyz`,
    /// `/startupz`, `/fail/{liveness,readiness}`, `/heal/…`, `/exit/CODE`.
    #[arg(long, default_value_t = 8080)]
    http: u16,
    /// TCP echo port, 0 for none.
    #[arg(long, default_value_t = 0)]
    tcp: u16,
    /// UDP port, 0 for none: a datagram is answered with the host name, a space and itself.
    #[arg(long, default_value_t = 0)]
    udp: u16,
    /// Seconds until /startupz passes.
    #[arg(long, default_value_t = 0)]
    startup_seconds: u64,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    end_on_signals();
    let state = Arc::new(State::new(arguments.startup_seconds));
    if arguments.tcp != 0 {
        let listener = listen(arguments.tcp)?;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut buffer = [0; 16 * 1024];
                    while let Ok(n @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }
    if arguments.udp != 0 {
        let socket = UdpSocket::bind(("::", arguments.udp)).or_else(|_| UdpSocket::bind(("0.0.0.0", arguments.udp)))?;
        std::thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok((n, client)) = socket.recv_from(&mut buffer) {
                let mut answer = http::hostname().into_bytes();
                answer.push(b' ');
                answer.extend_from_slice(&buffer[..n.min(60_000)]);
                let _ = socket.send_to(&answer, client);
            }
        });
    }
    let listener = listen(arguments.http)?;
    println!("serving HTTP on {}", listener.local_addr()?);
    for stream in listener.incoming().flatten() {
        let state = state.clone();
        std::thread::spawn(move || {
            let _ = http::serve(stream, &state);
        });
    }
    Ok(())
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

/// As a pod's first process nothing ends us but what we ask for.
fn end_on_signals() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked here, before any thread starts, so that only the waiting thread sees them.
    if signals.thread_block().is_ok() {
        std::thread::spawn(move || {
            let _ = signals.wait();
            std::process::exit(0)
        });
    }
}
