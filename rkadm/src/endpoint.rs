//! `HOST` or `HOST:PORT`, where HOST is a name, an IPv4 address or a bracketed IPv6 address.

use std::net::IpAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Without brackets.
    pub host: String,
    pub port: Option<u16>,
}

/// `None` when the text is neither. A leading `https://` is forgiven.
pub fn parse(text: &str) -> Option<Endpoint> {
    let text = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    let valid = host.parse::<IpAddr>().is_ok() || crate::config::validate::is_subdomain(&host.to_ascii_lowercase());
    valid.then(|| Endpoint { host: host.to_string(), port })
}

/// `host:port` with brackets where needed.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse() {
        let some = |host: &str, port| Some(Endpoint { host: host.into(), port });
        for (text, wanted) in [
            ("10.0.0.1:6443", some("10.0.0.1", Some(6443))),
            ("api.example.org", some("api.example.org", None)),
            ("https://api:443/", some("api", Some(443))),
            ("[fd00::1]:6443", some("fd00::1", Some(6443))),
            ("fd00::1", some("fd00::1", None)),
            ("a:b", None),
            ("a:0", None),
            ("a b:1", None),
            ("", None),
            ("[x]:1", None),
        ] {
            assert_eq!(parse(text), wanted, "{text}");
        }
        assert_eq!(join("fd00::1", 6443), "[fd00::1]:6443");
    }
}
