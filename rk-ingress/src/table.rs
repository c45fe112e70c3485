//! From the cluster's objects to the routing table. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};
use rustls::sign::CertifiedKey;

use crate::annotations::Settings;
use crate::certificates;
use crate::matching::Pattern;

/// The annotation that named the class before `spec.ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Everything that the table is made of.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub ingresses: Vec<Arc<Ingress>>,
    pub classes: Vec<Arc<IngressClass>>,
    pub services: Vec<Arc<Service>>,
    pub slices: Vec<Arc<EndpointSlice>>,
    pub secrets: Vec<Arc<Secret>>,
}

/// Which Ingresses are served, and what for the rest.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// See [`crate::options::Options::ingress_class`].
    pub class: String,
    /// See [`crate::options::Options::controller_class`].
    pub controller: String,
    /// See [`crate::options::Options::watch_ingress_without_class`].
    pub without_class: bool,
    /// `namespace/name` of a Secret.
    pub certificate: Option<String>,
    /// `namespace/name:port`.
    pub backend: Option<String>,
}

/// Where requests go.
#[derive(Debug, Default)]
pub struct Table {
    /// Rules by host; the empty host is any other, `*.example.com` one label more than `example.com`.
    hosts: HashMap<String, Vec<Rule>>,
    /// For what no rule matches.
    default: Option<Rule>,
    /// Certificates by host, as in `hosts`.
    certificates: HashMap<String, Arc<CertifiedKey>>,
    /// For hosts without one, where the user gave one.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// What cannot be done as the user wants: the Ingress (`namespace/name`) and why.
    pub problems: Vec<(String, String)>,
}

/// One path of one host.
#[derive(Debug)]
pub struct Rule {
    pattern: Pattern,
    /// What the Ingress asks for.
    pub settings: Arc<Settings>,
    /// Where the requests go.
    pub backend: Arc<Backend>,
    /// `namespace/name` of the Ingress.
    pub ingress: Arc<str>,
}

/// A Service's port.
#[derive(Debug, Default)]
pub struct Backend {
    /// `namespace/name:port`, for logs.
    pub name: String,
    /// Ready endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// `host:port` of a Service of type ExternalName.
    pub external: Option<String>,
    /// Whose turn it is.
    pub next: AtomicUsize,
}

/// What is to be done with a request.
pub enum Route<'a> {
    /// To a backend, with this path.
    To(&'a Rule, Option<String>),
    /// Nothing matches.
    None,
}

impl Table {
    /// Where a request for `host` (without port) and `path` goes.
    pub fn route(&self, host: &str, path: &str) -> Route<'_> {
        let host = host.to_ascii_lowercase();
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let found =
            [Some(host.as_str()), wildcard.as_deref(), Some("")].into_iter().flatten().find_map(|host| self.hosts.get(host));
        let of_host = found.and_then(|rules| rules.iter().find(|rule| rule.pattern.matches(path)));
        let of_any = || self.hosts.get("")?.iter().find(|rule| matches!(rule.pattern, Pattern::Any));
        let rule = of_host.or_else(of_any).or(self.default.as_ref());
        match rule {
            None => Route::None,
            Some(rule) => Route::To(rule, rule.settings.rewrite.as_ref().map(|target| rule.pattern.rewrite(path, target))),
        }
    }

    /// The certificate for a host.
    pub fn certificate(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let host = host.to_ascii_lowercase();
        self.certificates
            .get(&host)
            .or_else(|| host.split_once('.').and_then(|(_, rest)| self.certificates.get(&format!("*.{rest}"))))
            .or(self.certificate.as_ref())
    }

    /// Whether HTTPS to this host has a certificate of its own.
    pub fn has_certificate(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.certificates.contains_key(&host)
            || host.split_once('.').is_some_and(|(_, rest)| self.certificates.contains_key(&format!("*.{rest}")))
    }

    /// How many hosts have rules.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }
}

fn name_of<K: kube::Resource>(object: &K) -> String {
    client::key_of(object)
}

/// Whether an Ingress is ours.
pub fn is_ours(ingress: &Ingress, classes: &[Arc<IngressClass>], selection: &Selection) -> bool {
    if let Some(class) = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref()) {
        return classes.iter().any(|have| {
            have.metadata.name.as_deref() == Some(class)
                && have.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(selection.controller.as_str())
        });
    }
    match ingress.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION)) {
        Some(class) => *class == selection.class,
        None => selection.without_class,
    }
}

/// Makes the table. Of two Ingresses that want the same host and path the older wins.
pub fn build(objects: &Objects, selection: &Selection) -> Table {
    let mut table = Table::default();
    let services: HashMap<String, &Arc<Service>> =
        objects.services.iter().map(|service| (name_of(&**service), service)).collect();
    let mut slices: HashMap<String, Vec<&EndpointSlice>> = HashMap::new();
    for slice in &objects.slices {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
        if let Some(service) = service {
            slices.entry(client::key(slice.metadata.namespace.as_deref().unwrap_or_default(), service)).or_default().push(slice);
        }
    }
    let secrets: HashMap<String, &Arc<Secret>> = objects.secrets.iter().map(|secret| (name_of(&**secret), secret)).collect();
    let mut backends: BTreeMap<(String, String), Arc<Backend>> = BTreeMap::new();
    let mut backend = |namespace: &str, service: &str, port: &PortRef, problems: &mut Vec<String>| {
        let key = (client::key(namespace, service), port.to_string());
        if let Some(made) = backends.get(&key) {
            return made.clone();
        }
        let made = Arc::new(resolve(&key.0, port, services.get(&key.0).map(|service| &***service), slices.get(&key.0), problems));
        backends.insert(key, made.clone());
        made
    };

    let mut ours: Vec<&Arc<Ingress>> =
        objects.ingresses.iter().filter(|ingress| is_ours(ingress, &objects.classes, selection)).collect();
    ours.sort_by_key(|ingress| (ingress.metadata.creation_timestamp.as_ref().map(|time| time.0), name_of(&***ingress)));
    for ingress in ours {
        let ingress: &Ingress = ingress;
        let name: Arc<str> = name_of(ingress).into();
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let empty = BTreeMap::new();
        let (settings, mut problems) = Settings::of(ingress.metadata.annotations.as_ref().unwrap_or(&empty));
        let settings = Arc::new(settings);
        let Some(spec) = &ingress.spec else { continue };
        let mut add = |host: &str, pattern: Pattern, to: &IngressBackend, table: &mut Table, problems: &mut Vec<String>| {
            let Some(service) = &to.service else {
                problems.push("a backend that is a resource is not supported: use a service".to_owned());
                return;
            };
            let port = service.port.as_ref().map(PortRef::of).unwrap_or_default();
            let backend = backend(namespace, &service.name, &port, problems);
            let rule = Rule { pattern, settings: settings.clone(), backend, ingress: name.clone() };
            table.hosts.entry(host.to_ascii_lowercase()).or_default().push(rule);
        };
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().unwrap_or_default();
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                match Pattern::new(&path.path_type, path.path.as_deref().unwrap_or_default(), settings.regex) {
                    Ok(pattern) => add(host, pattern, &path.backend, &mut table, &mut problems),
                    Err(why) => problems.push(why),
                }
            }
        }
        if let Some(default) = &spec.default_backend {
            let hosts = spec.rules.iter().flatten().filter_map(|rule| rule.host.as_deref()).filter(|host| !host.is_empty());
            for host in hosts.chain([""]) {
                add(host, Pattern::Any, default, &mut table, &mut problems);
            }
        }
        for tls in spec.tls.iter().flatten() {
            let Some(secret) = tls.secret_name.as_deref().filter(|secret| !secret.is_empty()) else { continue };
            let key = client::key(namespace, secret);
            let pair = match secrets.get(&key) {
                None => Err("it does not exist, or is not of type kubernetes.io/tls".to_owned()),
                Some(secret) => certificates::of_secret(secret),
            };
            match pair {
                Ok(pair) => {
                    let hosts = tls.hosts.clone().filter(|hosts| !hosts.is_empty());
                    let hosts =
                        hosts.unwrap_or_else(|| spec.rules.iter().flatten().filter_map(|rule| rule.host.clone()).collect());
                    for host in hosts {
                        table.certificates.entry(host.to_ascii_lowercase()).or_insert_with(|| pair.clone());
                    }
                }
                Err(why) => problems.push(format!("secret {key}: {why}")),
            }
        }
        table.problems.extend(problems.into_iter().map(|why| (name.to_string(), why)));
    }
    for rules in table.hosts.values_mut() {
        // Stable: the older Ingress stays in front.
        rules.sort_by_key(|rule| rule.pattern.rank());
    }
    if let Some(key) = &selection.certificate {
        match secrets.get(key).map(|secret| certificates::of_secret(secret)) {
            Some(Ok(pair)) => table.certificate = Some(pair),
            Some(Err(why)) => table.problems.push((String::new(), format!("--default-ssl-certificate: secret {key}: {why}"))),
            None => table.problems.push((String::new(), format!("--default-ssl-certificate: there is no secret {key}"))),
        }
    }
    if let Some((service, port)) = selection.backend.as_deref().map(|text| text.split_once(':').unwrap_or((text, "80"))) {
        let (namespace, service) = client::split_key(service);
        let port = port.parse().map_or_else(|_| PortRef::Name(port.to_owned()), PortRef::Number);
        let mut problems = Vec::new();
        let backend = backend(namespace, service, &port, &mut problems);
        let settings = Arc::new(Settings { ssl_redirect: false, ..Settings::default() });
        table.default = Some(Rule { pattern: Pattern::Any, settings, backend, ingress: "".into() });
        table.problems.extend(problems.into_iter().map(|why| (String::new(), why)));
    }
    table
}

/// A Service's port as an Ingress names it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
enum PortRef {
    #[default]
    None,
    Number(i32),
    Name(String),
}

impl PortRef {
    fn of(port: &k8s_openapi::api::networking::v1::ServiceBackendPort) -> Self {
        match (&port.name, port.number) {
            (Some(name), _) if !name.is_empty() => Self::Name(name.clone()),
            (_, Some(number)) => Self::Number(number),
            _ => Self::None,
        }
    }
}

impl std::fmt::Display for PortRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("?"),
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

fn resolve(
    key: &str,
    port: &PortRef,
    service: Option<&Service>,
    slices: Option<&Vec<&EndpointSlice>>,
    problems: &mut Vec<String>,
) -> Backend {
    let mut backend = Backend { name: format!("{key}:{port}"), ..Backend::default() };
    let Some(spec) = service.and_then(|service| service.spec.as_ref()) else {
        problems.push(format!("service {key} does not exist"));
        return backend;
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        if let (Some(name), PortRef::Number(number)) = (&spec.external_name, port) {
            backend.external = Some(format!("{name}:{number}"));
        }
        return backend;
    }
    let found = spec.ports.iter().flatten().find(|have| match port {
        PortRef::None => false,
        PortRef::Number(number) => have.port == *number,
        PortRef::Name(name) => have.name.as_deref() == Some(name),
    });
    let Some(found) = found else {
        problems.push(format!("service {key} has no port {port}"));
        return backend;
    };
    let wanted = found.name.as_deref().unwrap_or_default();
    for slice in slices.into_iter().flatten() {
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(|have| have.name.as_deref().unwrap_or_default() == wanted)
            .and_then(|have| have.port);
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let address = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
            if let (true, Some(address)) = (ready, address) {
                backend.endpoints.push(SocketAddr::new(address, number));
            }
        }
    }
    backend.endpoints.sort_unstable();
    backend.endpoints.dedup();
    backend
}

#[cfg(test)]
mod tests;
