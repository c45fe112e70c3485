//! The annotations of ingress-nginx that people's manifests have and that change where a request goes.

use std::collections::BTreeMap;

/// What they are named with.
const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What an Ingress asks for beyond its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `rewrite-target`: the path that the backend sees; `$1` … stand for the groups of the rule's path.
    pub rewrite: Option<String>,
    /// `use-regex`: paths of type ImplementationSpecific are regular expressions. Implied by `rewrite-target`.
    pub regex: bool,
    /// `ssl-redirect`: HTTP is answered with a redirect where the host has a certificate. On unless switched off.
    pub ssl_redirect: bool,
    /// `force-ssl-redirect`: even where it has none.
    pub force_ssl_redirect: bool,
    /// `backend-protocol: GRPC`: HTTP/2 without TLS.
    pub http2: bool,
    /// `app-root`: where `/` is redirected to.
    pub app_root: Option<String>,
    /// `permanent-redirect` (301) or `temporal-redirect` (302): everything is redirected there.
    pub redirect: Option<(u16, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rewrite: None,
            regex: false,
            ssl_redirect: true,
            force_ssl_redirect: false,
            http2: false,
            app_root: None,
            redirect: None,
        }
    }
}

impl Settings {
    /// Reads an Ingress's annotations; also what in them is not understood, to be told to the user.
    pub fn of(annotations: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let (mut settings, mut problems) = (Self::default(), Vec::new());
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let mut flag = |default: bool| match value.as_str() {
                "true" => true,
                "false" => false,
                other => {
                    problems.push(format!("annotation {key} is {other:?}: use \"true\" or \"false\""));
                    default
                }
            };
            match name {
                "rewrite-target" => settings.rewrite = Some(value.clone()),
                "use-regex" => settings.regex = flag(false),
                "ssl-redirect" => settings.ssl_redirect = flag(true),
                "force-ssl-redirect" => settings.force_ssl_redirect = flag(false),
                "app-root" => settings.app_root = Some(value.clone()),
                "permanent-redirect" => settings.redirect = Some((301, value.clone())),
                "temporal-redirect" => settings.redirect = Some((302, value.clone())),
                "backend-protocol" => match value.to_ascii_uppercase().as_str() {
                    "HTTP" => {}
                    "GRPC" => settings.http2 = true,
                    other => problems.push(format!("annotation {key}: {other} is not supported: use HTTP or GRPC")),
                },
                // Limits and timeouts that this proxy does not need: it streams bodies and waits for backends.
                "proxy-body-size"
                | "proxy-buffering"
                | "proxy-buffer-size"
                | "proxy-read-timeout"
                | "proxy-send-timeout"
                | "proxy-connect-timeout"
                | "proxy-request-buffering"
                | "websocket-services" => {}
                _ => problems.push(format!("annotation {key} is not supported and has no effect")),
            }
        }
        settings.regex |= settings.rewrite.is_some();
        (settings, problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ones_count_and_others_are_told() {
        let of = |pairs: &[(&str, &str)]| {
            Settings::of(&pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[]), (Settings::default(), vec![]));
        let (settings, problems) = of(&[("rewrite-target", "/$2"), ("ssl-redirect", "false"), ("proxy-body-size", "8m")]);
        assert_eq!((settings.rewrite.as_deref(), settings.regex, settings.ssl_redirect), (Some("/$2"), true, false));
        assert!(problems.is_empty());
        assert!(of(&[("backend-protocol", "GRPC")]).0.http2);
        for (key, value) in [("ssl-redirect", "maybe"), ("backend-protocol", "FCGI"), ("auth-url", "x")] {
            assert_eq!(of(&[(key, value)]).1.len(), 1, "{key}");
        }
        assert_eq!(Settings::of(&[("other/x".to_owned(), "y".to_owned())].into()), (Settings::default(), vec![]));
    }
}
