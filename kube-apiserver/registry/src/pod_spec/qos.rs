//! The quality-of-service class of a pod.
//!
//! Upstream: pkg/apis/core/helper/qos

use serde_json::Value;

use crate::quantity;
use crate::tree::Tree;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the CPU and memory of all containers.
pub fn class(spec: &Value) -> &'static str {
    let resources = |container: &Value| container.at("resources").clone();
    let all: Vec<Value> = if spec.at("resources").is_object()
        && (spec.at("resources").len_of("requests") > 0 || spec.at("resources").len_of("limits") > 0)
    {
        vec![resources(spec)]
    } else {
        spec.items("containers").iter().chain(spec.items("initContainers")).map(resources).collect()
    };
    let mut any = false;
    let mut guaranteed = true;
    for resources in &all {
        let mut limited = 0;
        for name in ["cpu", "memory"] {
            let request = amount(resources.at("requests").at(name));
            let limit = amount(resources.at("limits").at(name));
            any |= request.is_some() || limit.is_some();
            limited += i32::from(limit.is_some());
            if let Some(request) = request
                && Some(request) != limit
            {
                guaranteed = false;
            }
        }
        guaranteed &= limited == 2;
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amount(value: &Value) -> Option<quantity::Nano> {
    quantity::parse(value).filter(|amount| *amount > 0)
}
