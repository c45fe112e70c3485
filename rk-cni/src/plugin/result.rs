//! Results in the form of each version of the specification.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

/// A device that ADD made or used.
#[derive(Debug, Clone)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    pub mtu: u32,
    /// Path of the namespace it is in; empty on the host.
    pub sandbox: String,
}

/// An address on one of the interfaces.
#[derive(Debug, Clone)]
pub struct Ip {
    pub interface: usize,
    pub address: IpNet,
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone)]
pub struct Route {
    pub dst: IpNet,
    pub gw: Option<IpAddr>,
}

#[derive(Debug, Clone, Default)]
pub struct CniResult {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<Route>,
    pub dns: Value,
}

impl CniResult {
    /// The result as `version` of the specification writes it.
    pub fn to_json(&self, version: &str) -> Value {
        let families = version.starts_with("0.");
        let interfaces: Vec<Value> = self
            .interfaces
            .iter()
            .map(|interface| {
                let mut out =
                    Map::from_iter([("name".to_owned(), json!(interface.name)), ("mac".to_owned(), json!(interface.mac))]);
                if version == "1.1.0" && interface.mtu != 0 {
                    out.insert("mtu".to_owned(), json!(interface.mtu));
                }
                if !interface.sandbox.is_empty() {
                    out.insert("sandbox".to_owned(), json!(interface.sandbox));
                }
                Value::Object(out)
            })
            .collect();
        let ips: Vec<Value> = self
            .ips
            .iter()
            .map(|ip| {
                let mut out = json!({"interface": ip.interface, "address": ip.address.to_string()});
                if let Some(gateway) = ip.gateway {
                    out["gateway"] = json!(gateway.to_string());
                }
                if families {
                    out["version"] = json!(if ip.address.addr().is_ipv4() { "4" } else { "6" });
                }
                out
            })
            .collect();
        let routes: Vec<Value> = self
            .routes
            .iter()
            .map(|route| {
                let mut out = json!({"dst": route.dst.to_string()});
                if let Some(gw) = route.gw {
                    out["gw"] = json!(gw.to_string());
                }
                out
            })
            .collect();
        let mut out = json!({"cniVersion": version, "interfaces": interfaces, "ips": ips});
        if !routes.is_empty() {
            out["routes"] = Value::Array(routes);
        }
        out["dns"] = if self.dns.is_object() { self.dns.clone() } else { json!({}) };
        out
    }
}

/// The addresses of a previous result that belong to a pod's interface, of any version.
pub fn previous_addresses(result: &Value) -> Vec<IpNet> {
    let ips = result.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    ips.iter().filter_map(|ip| ip.get("address")?.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_own_form() {
        let result = CniResult {
            interfaces: vec![Interface { name: "eth0".into(), mac: "aa".into(), mtu: 1450, sandbox: "/ns".into() }],
            ips: vec![Ip { interface: 0, address: "10.1.0.2/24".parse().unwrap(), gateway: Some("10.1.0.1".parse().unwrap()) }],
            routes: vec![Route { dst: "0.0.0.0/0".parse().unwrap(), gw: None }],
            dns: Value::Null,
        };
        assert_eq!(result.to_json("0.4.0")["ips"][0]["version"], "4");
        let modern = result.to_json("1.0.0");
        assert!(modern["ips"][0].get("version").is_none());
        assert!(modern["interfaces"][0].get("mtu").is_none());
        assert_eq!(result.to_json("1.1.0")["interfaces"][0]["mtu"], 1450);
        assert_eq!(previous_addresses(&modern), vec!["10.1.0.2/24".parse::<IpNet>().unwrap()]);
    }
}
