//! What a request asks for, read from method, path and query alone.
//!
//! Upstream: apiserver/pkg/endpoints/request/requestinfo.go

use http::Method;

/// The meaning of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether it is below `/api/<version>` or `/apis/<group>/<version>` and names a resource.
    pub is_resource: bool,
    /// The path as given.
    pub path: String,
    /// `get list watch create update patch delete deletecollection proxy`, or the method in lower case.
    pub verb: String,
    /// `api` or `apis`.
    pub prefix: String,
    /// Empty for core.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// Empty for cluster-scoped requests.
    pub namespace: String,
    /// Plural name.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// The object's name, or empty.
    pub name: String,
    /// What follows resource, name and subresource (proxy paths).
    pub rest: String,
}

/// Query parameters in order, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c=d`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter, empty where absent.
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    /// Whether the parameter is there.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    /// All values of a parameter.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect()
    }

    /// A boolean as upstream converts query parameters: anything but absent, `0` and `false` is true, `""` too.
    pub fn flag(&self, key: &str) -> bool {
        self.has(key) && !matches!(self.get(key).to_ascii_lowercase().as_str(), "0" | "false")
    }
}

/// Decodes `%xx`; malformed escapes stay as they are, bytes that are no text become U+FFFD.
pub fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
        match (bytes[index], hex(index + 1), hex(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                index += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Subresources of namespaces, which share the position of a resource within a namespace.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

impl RequestInfo {
    /// Reads a request line.
    pub fn of(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self { path: path.to_owned(), verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut parts: Vec<String> = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                (info.prefix, info.version) = ("api".into(), (*version).to_owned());
                rest.iter().map(|part| decode(part)).collect()
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                (info.prefix, info.group, info.version) = ("apis".into(), (*group).to_owned(), (*version).to_owned());
                rest.iter().map(|part| decode(part)).collect()
            }
            _ => return info,
        };
        info.is_resource = true;
        let verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        info.verb = verb.to_owned();
        if parts.len() > 1 && (parts[0] == "watch" || parts[0] == "proxy") {
            info.verb = parts.remove(0);
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].clone();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].as_str()) {
                parts.drain(..2);
            }
        }
        let mut parts = parts.into_iter();
        info.resource = parts.next().unwrap_or_default();
        info.name = parts.next().unwrap_or_default();
        info.subresource = parts.next().unwrap_or_default();
        info.rest = parts.collect::<Vec<_>>().join("/");
        if info.name.is_empty() {
            match info.verb.as_str() {
                "get" => info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned(),
                "delete" => info.verb = "deletecollection".to_owned(),
                _ => {}
            }
        } else if info.verb == "get" && info.subresource.is_empty() && query.has("watch") && query.flag("watch") {
            // `GET …/pods/a?watch=true` stays a get, as upstream.
        }
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
            && info.name.is_empty()
            && let Some(name) = single_name(query.get("fieldSelector"))
        {
            info.name = name;
        }
        info
    }

    /// Whether it may last: not under the request timeout, not counted as in flight.
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb.as_str(), "watch" | "proxy")
            || (self.is_resource && matches!(self.subresource.as_str(), "attach" | "exec" | "log" | "portforward" | "proxy"))
            || (!self.is_resource && self.path.starts_with("/debug/pprof/"))
    }

    /// The metrics label.
    pub fn scope(&self) -> &'static str {
        match (self.is_resource, self.name.is_empty(), self.namespace.is_empty()) {
            (false, _, _) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        }
    }
}

/// The name of a field selector that asks for one object by name.
fn single_name(selector: &str) -> Option<String> {
    let name = selector.split(',').find_map(|part| part.trim().strip_prefix("metadata.name="))?;
    let name = name.strip_prefix('=').unwrap_or(name);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_what_upstream_takes_them_for() {
        let cases = [
            ("GET", "/api/v1/namespaces", "list", "", "namespaces", "", ""),
            ("GET", "/api/v1/namespaces/a", "get", "a", "namespaces", "a", ""),
            ("PUT", "/api/v1/namespaces/a/status", "update", "a", "namespaces", "a", "status"),
            ("PUT", "/api/v1/namespaces/a/finalize", "update", "a", "namespaces", "a", "finalize"),
            ("GET", "/api/v1/namespaces/a/pods/", "list", "a", "pods", "", ""),
            ("GET", "/api/v1/namespaces/a/pods?watch=1", "watch", "a", "pods", "", ""),
            ("GET", "/api/v1/watch/namespaces/a/pods/b", "watch", "a", "pods", "b", ""),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments", "deletecollection", "a", "deployments", "", ""),
            ("POST", "/api/v1/namespaces/a/pods/b/binding", "create", "a", "pods", "b", "binding"),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list", "", "pods", "x", ""),
            ("GET", "/api/v1/nodes/n/proxy/metrics/cadvisor", "get", "", "nodes", "n", "proxy"),
        ];
        for (method, target, verb, namespace, resource, name, subresource) in cases {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let info = RequestInfo::of(&method.parse().unwrap(), path, &Query::parse(query));
            let have = (&*info.verb, &*info.namespace, &*info.resource, &*info.name, &*info.subresource);
            assert_eq!(have, (verb, namespace, resource, name, subresource), "{target}");
        }
        for path in ["/", "/api", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v2"] {
            assert!(!RequestInfo::of(&Method::GET, path, &Query::default()).is_resource, "{path}");
        }
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(decode("a%2Fb%25zz%"), "a/b%zz%");
        assert_eq!(
            Query::parse("a=b+c&d&e=%3D").0,
            [("a", "b c"), ("d", ""), ("e", "=")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }
}
