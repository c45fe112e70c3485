//! Just enough HTTP/1.1: one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::state::State;

/// A request's head may be this long; a longer one is cut off.
const MAX_HEAD: u64 = 64 * 1024;

/// An answer.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// Text or JSON.
    pub body: String,
    /// Wait this long first.
    pub delay: Duration,
}

fn answer(code: u16, body: impl Into<String>) -> Answer {
    Answer { code, body: body.into(), delay: Duration::ZERO }
}

/// Answers one request: pure but for the state's switches.
pub fn respond(state: &State, method: &str, target: &str, client: SocketAddr, headers: &[(String, String)]) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
    let number = state.count();
    if let Some(healthy) = state.probe(path) {
        return if healthy { answer(200, "ok\n") } else { answer(503, "failing on demand\n") };
    }
    let mut parts = path.trim_matches('/').split('/');
    match (method, parts.next().unwrap_or(""), parts.next()) {
        ("POST" | "PUT" | "GET", verb @ ("fail" | "heal"), Some(probe)) => {
            if state.set(probe, verb == "heal") {
                answer(200, "done\n")
            } else {
                answer(404, "liveness or readiness\n")
            }
        }
        ("POST" | "PUT" | "GET", "exit", code) => {
            let code = code.and_then(|code| code.parse().ok()).unwrap_or(1);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                std::process::exit(code)
            });
            answer(200, "going\n")
        }
        (_, "hostname", None) => answer(200, hostname() + "\n"),
        (_, "client", None) => answer(200, format!("{}\n", client.ip())),
        (_, "env", None) => {
            let mut lines: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
            lines.sort();
            answer(200, lines.concat())
        }
        (_, "echo", None) => answer(200, parameter("msg").unwrap_or_default() + "\n"),
        (_, "status", Some(code)) => {
            answer(code.parse().ok().filter(|code| (200..600).contains(code)).unwrap_or(400), "as asked\n")
        }
        (_, "delay", Some(millis)) => {
            let millis: u64 = millis.parse().unwrap_or(0);
            Answer { delay: Duration::from_millis(millis.min(600_000)), ..answer(200, "late\n") }
        }
        _ => {
            let headers: serde_json::Map<_, _> =
                headers.iter().map(|(name, value)| (name.to_lowercase(), json!(value))).collect();
            let body = json!({
                "hostname": hostname(), "client": client.to_string(), "method": method, "path": target, "request": number,
                "headers": headers, "pod": std::env::var("POD_NAME").ok(), "node": std::env::var("NODE_NAME").ok(),
            });
            answer(200, format!("{body}\n"))
        }
    }
}

/// The pod's name, as the kernel knows it.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Serves one connection and closes it. Errors end it: the client sees why.
pub fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    let client = stream.peer_addr()?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(MAX_HEAD));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or("GET").to_owned(), words.next().unwrap_or("/").to_owned());
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let answer = respond(state, &method, &target, client, &headers);
    std::thread::sleep(answer.delay);
    println!("{client} {method} {target} {}", answer.code);
    let kind = if answer.body.starts_with('{') { "application/json" } else { "text/plain" };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        answer.code,
        if answer.code < 400 { "OK" } else { "Error" },
        answer.body.len(),
        answer.body
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_fail_and_heal_on_demand() {
        let state = State::new(0);
        let client = SocketAddr::from(([10, 0, 0, 1], 4242));
        let ask = |path: &str| respond(&state, "GET", path, client, &[]).code;
        assert_eq!((ask("/healthz"), ask("/readyz"), ask("/startupz")), (200, 200, 200));
        assert_eq!(ask("/fail/readiness"), 200);
        assert_eq!((ask("/healthz"), ask("/readyz")), (200, 503));
        assert_eq!(ask("/heal/readiness"), 200);
        assert_eq!(ask("/readyz"), 200);
        assert_eq!(ask("/fail/nothing"), 404);
        assert_eq!(ask("/status/418"), 418);
        assert_eq!(respond(&state, "GET", "/client", client, &[]).body, "10.0.0.1\n");
        assert_eq!(respond(&state, "GET", "/echo?msg=hi", client, &[]).body, "hi\n");
    }
}
