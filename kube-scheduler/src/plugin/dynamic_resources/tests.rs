use serde_json::json;

use super::*;

/// A store of two nodes: `a` has two small GPUs and `b` a large one; a third device is in the network.
fn stores() -> Stores {
    let stores = Stores::default();
    let gpu = |name: &str, memory: &str, numa: i64| json!({"name": name, "attributes": {"numa": {"int": numa}, "model": {"string": "g1"}}, "capacity": {"memory": {"value": memory}}});
    for (name, node, devices) in [
        ("a", "a", json!([gpu("g0", "8Gi", 0), gpu("g1", "8Gi", 1), gpu("g2", "8Gi", 1)])),
        ("b", "b", json!([gpu("g0", "80Gi", 0)])),
    ] {
        put_slice(
            &stores,
            name,
            json!({"driver": "gpu.x", "nodeName": node, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices}),
        );
    }
    put_class(
        &stores,
        "gpu",
        json!({"selectors": [{"cel": {"expression": "device.driver == 'gpu.x'"}}], "config": [{"opaque": {"driver": "gpu.x", "parameters": {"a": 1}}}]}),
    );
    stores
}

fn put_slice(stores: &Stores, name: &str, spec: Json) {
    let slice = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    stores.slices.put(name, Arc::new(slice));
}

fn put_class(stores: &Stores, name: &str, spec: Json) {
    stores.device_classes.put(name, Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()));
}

fn put_claim(stores: &Stores, name: &str, devices: Json, status: Json) {
    let claim =
        json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"devices": devices}, "status": status});
    stores.device_claims.put(&format!("d/{name}"), Arc::new(serde_json::from_value(claim).unwrap()));
}

fn node(name: &str) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"rack": "r1"}}})).unwrap()
}

fn pod(claims: &[&str]) -> Pod {
    let claims: Vec<_> = claims.iter().map(|name| json!({"name": name, "resourceClaimName": name})).collect();
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"}, "spec": {"containers": [], "resourceClaims": claims}}),
    )
    .unwrap()
}

/// The devices of all claims on a node, or why not.
fn devices(stores: &Stores, claims: &[&str], on: &str) -> Result<Vec<String>, String> {
    let plan = plan(stores, &pod(claims), &node(on)).map_err(|failure| failure.reasons.join(", "))?;
    let results = plan
        .claims
        .iter()
        .filter_map(|(_, json)| json.as_ref())
        .flat_map(|json| json["devices"]["results"].as_array().unwrap().clone());
    Ok(results.map(|result| format!("{}={}", result["request"].as_str().unwrap(), result["device"].as_str().unwrap())).collect())
}

fn exactly(name: &str, more: Json) -> Json {
    let mut exactly = json!({"deviceClassName": "gpu"});
    exactly.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": name, "exactly": exactly})
}

#[test]
fn requests_find_devices_that_suit() {
    const NONE: &str = "cannot allocate all claims";
    let large = json!([{"cel": {"expression": "device.capacity['gpu.x'].memory.compareTo(quantity('40Gi')) >= 0"}}]);
    let broken = json!([{"cel": {"expression": "device.attributes['gpu.x'].absent == 1"}}]);
    let found = |list: &[&str]| Ok(list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let refused = |text: &str| Err(text.to_owned());
    let same_numa = json!([{"matchAttribute": "gpu.x/numa"}]);
    let other_numa = json!([{"requests": ["r"], "distinctAttribute": "gpu.x/numa"}]);
    let first = json!({"name": "r", "firstAvailable": [{"name": "big", "deviceClassName": "gpu", "selectors": large}, {"name": "small", "deviceClassName": "gpu", "count": 2}]});
    for (what, request, constraints, on_a, on_b) in [
        ("one", exactly("r", json!({})), json!([]), found(&["r=g0"]), found(&["r=g0"])),
        ("two", exactly("r", json!({"count": 2})), json!([]), found(&["r=g0", "r=g1"]), refused(NONE)),
        ("two alike", exactly("r", json!({"count": 2})), same_numa.clone(), found(&["r=g1", "r=g2"]), refused(NONE)),
        ("three alike", exactly("r", json!({"count": 3})), same_numa, refused(NONE), refused(NONE)),
        ("two unlike", exactly("r", json!({"count": 2})), other_numa.clone(), found(&["r=g0", "r=g1"]), refused(NONE)),
        ("three unlike", exactly("r", json!({"count": 3})), other_numa, refused(NONE), refused(NONE)),
        ("all", exactly("r", json!({"allocationMode": "All"})), json!([]), found(&["r=g0", "r=g1", "r=g2"]), found(&["r=g0"])),
        ("large", exactly("r", json!({"selectors": large})), json!([]), refused(NONE), found(&["r=g0"])),
        ("first available", first, json!([]), found(&["r/small=g0", "r/small=g1"]), found(&["r/big=g0"])),
        (
            "broken",
            exactly("r", json!({"selectors": broken})),
            json!([]),
            refused("selector #1: runtime error: no such key: absent"),
            refused("selector #1: runtime error: no such key: absent"),
        ),
    ] {
        let stores = stores();
        put_claim(&stores, "c", json!({"requests": [request], "constraints": constraints}), json!({}));
        assert_eq!(devices(&stores, &["c"], "a"), on_a, "{what}");
        assert_eq!(devices(&stores, &["c"], "b"), on_b, "{what}");
    }
}

#[test]
fn what_is_taken_stays_taken_but_administrators_may_look() {
    let stores = stores();
    let has = |device: &str| {
        json!({"allocation": {
            "devices": {"results": [{"request": "r", "driver": "gpu.x", "pool": "a", "device": device}]},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]},
        }})
    };
    put_claim(&stores, "old", json!({"requests": [exactly("r", json!({}))]}), has("g0"));
    put_claim(&stores, "new", json!({"requests": [exactly("r", json!({}))]}), json!({}));
    put_claim(
        &stores,
        "admin",
        json!({"requests": [exactly("r", json!({"allocationMode": "All", "adminAccess": true}))]}),
        json!({}),
    );
    put_claim(&stores, "all", json!({"requests": [exactly("r", json!({"allocationMode": "All"}))]}), json!({}));
    assert_eq!(devices(&stores, &["new"], "a"), Ok(vec!["r=g1".to_owned()]));
    assert_eq!(devices(&stores, &["admin"], "a").unwrap().len(), 3);
    assert_eq!(devices(&stores, &["all"], "a"), Err("cannot allocate all claims".to_owned()));
    assert_eq!(devices(&stores, &["old"], "b"), Err("resourceclaim not available on the node".to_owned()));
    assert_eq!(devices(&stores, &["old"], "a"), Ok(vec![]));
    let subject = pod(&["new"]);
    let decided = plan(&stores, &subject, &node("a")).unwrap();
    assume(&stores, &subject, &decided);
    put_claim(&stores, "next", json!({"requests": [exactly("r", json!({}))]}), json!({}));
    assert_eq!(devices(&stores, &["next"], "a"), Ok(vec!["r=g2".to_owned()]));
    forget(&stores, &subject, &decided);
    assert_eq!(devices(&stores, &["next"], "a"), Ok(vec!["r=g1".to_owned()]));
}

#[test]
fn an_allocation_says_all_that_drivers_and_the_next_scheduler_need() {
    let stores = stores();
    let config = json!([{"requests": ["r"], "opaque": {"driver": "gpu.x", "parameters": {"b": 2}}}, {"requests": ["other"], "opaque": {"driver": "gpu.x"}}]);
    put_claim(&stores, "c", json!({"requests": [exactly("r", json!({}))], "config": config}), json!({}));
    let decided = plan(&stores, &pod(&["c"]), &node("b")).unwrap();
    let want = json!({
        "devices": {
            "results": [{"request": "r", "driver": "gpu.x", "pool": "b", "device": "g0"}],
            "config": [
                {"source": "FromClass", "requests": ["r"], "opaque": {"driver": "gpu.x", "parameters": {"a": 1}}},
                {"source": "FromClaim", "requests": ["r"], "opaque": {"driver": "gpu.x", "parameters": {"b": 2}}},
            ],
        },
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]},
    });
    assert_eq!(decided.claims[0].1, Some(want));
}

#[test]
fn pools_taints_counters_and_places_count() {
    let stores = stores();
    put_class(&stores, "any", json!({}));
    let pool = |count: i64, generation: i64| json!({"name": "net", "generation": generation, "resourceSliceCount": count});
    let selector = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "rack", "operator": "In", "values": ["r1"]}]}]});
    let spec = |devices: Json, count, generation| json!({"driver": "nic.x", "pool": pool(count, generation), "nodeSelector": selector, "devices": devices, "sharedCounters": [{"name": "s", "counters": {"mem": {"value": "10"}}}]});
    let claim = |more: Json| {
        let mut request = exactly("r", more);
        request["exactly"]["deviceClassName"] = "any".into();
        request["exactly"]["selectors"] = json!([{"cel": {"expression": "device.driver == 'nic.x'"}}]);
        json!({"requests": [request]})
    };
    let part = |name: &str, mem: &str| json!({"name": name, "consumesCounters": [{"counterSet": "s", "counters": {"mem": {"value": mem}}}]});
    put_claim(&stores, "one", claim(json!({})), json!({}));
    put_claim(&stores, "two", claim(json!({"count": 2})), json!({}));
    put_claim(&stores, "tolerant", claim(json!({"tolerations": [{"key": "t", "operator": "Exists"}]})), json!({}));
    let refused = || Err("cannot allocate all claims".to_owned());
    put_slice(&stores, "n1", spec(json!([part("p0", "6"), part("p1", "6"), part("p2", "4")]), 2, 1));
    assert_eq!(devices(&stores, &["one"], "a"), refused(), "half of the pool is unknown");
    put_slice(&stores, "n1", spec(json!([part("p0", "6"), part("p1", "6"), part("p2", "4")]), 1, 2));
    assert_eq!(devices(&stores, &["two"], "a"), Ok(vec!["r=p0".to_owned(), "r=p2".to_owned()]), "6 and 6 are more than 10");
    let decided = plan(&stores, &pod(&["one"]), &node("a")).unwrap();
    assert_eq!(
        decided.claims[0].1.as_ref().unwrap()["nodeSelector"]["nodeSelectorTerms"][0]["matchExpressions"][0]["key"],
        "rack"
    );
    put_slice(&stores, "n1", spec(json!([{"name": "p0", "taints": [{"key": "t", "effect": "NoSchedule"}]}]), 1, 3));
    assert_eq!(devices(&stores, &["one"], "a"), refused());
    assert_eq!(devices(&stores, &["tolerant"], "a"), Ok(vec!["r=p0".to_owned()]));
}

#[test]
fn claims_that_are_not_ready_hold_the_pod() {
    let stores = stores();
    assert_eq!(devices(&stores, &["c"], "a"), Err("resourceclaim.resource.k8s.io \"c\" not found".to_owned()));
    put_claim(&stores, "c", json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "nope"}}]}), json!({}));
    assert_eq!(devices(&stores, &["c"], "a"), Err("request r: device class nope does not exist".to_owned()));
    let template = json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"}, "spec": {"containers": [], "resourceClaims": [{"name": "x", "resourceClaimTemplateName": "t"}]}});
    let waiting: Pod = serde_json::from_value(template.clone()).unwrap();
    assert!(plan(&stores, &waiting, &node("a")).unwrap_err().reasons[0].contains("not created yet"));
    let mut nothing = template;
    nothing["status"] = json!({"resourceClaimStatuses": [{"name": "x"}]});
    assert!(plan(&stores, &serde_json::from_value(nothing).unwrap(), &node("a")).is_ok());
}
