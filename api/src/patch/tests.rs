use serde_json::{Value, json};

use super::*;

fn pod_schema() -> Schema {
    Schema::builtin("", "v1", "Pod").unwrap()
}

fn run(kind: PatchType, current: Value, patch: Value) -> Result<Value, PatchError> {
    let patch = Patch::parse(kind, patch.to_string().as_bytes(), FieldValidation::Warn)?;
    patch.apply(&pod_schema(), current, FieldValidation::Warn).map(|decoded| decoded.object)
}

fn pod(spec: Value) -> Value {
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "1"}, "finalizers": ["x", "y"]}, "spec": spec});
    pod_schema().decode_value(body, FieldValidation::Strict).unwrap().object
}

#[test]
fn lists_merge_by_key_and_new_elements_come_first_in_patch_order() {
    let current = pod(json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}));
    let got = run(
        PatchType::Strategic,
        current,
        json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}}),
    )
    .unwrap();
    let names: Vec<_> = got["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap(), c["image"].as_str().unwrap()))
        .collect();
    assert_eq!(names, [("a", "1"), ("b", "2"), ("c", "3")]);
}

#[test]
fn directives_are_obeyed() {
    let current = || pod(json!({"containers": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "v", "emptyDir": {}}]}));
    let apply = |patch| run(PatchType::Strategic, current(), patch).unwrap();
    let names = |got: &Value| {
        got["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&apply(json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}))), ["b"]);
    assert_eq!(names(&apply(json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}))), ["z"]);
    assert_eq!(names(&apply(json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}))), ["b", "a"]);
    assert_eq!(
        apply(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}}))["metadata"]["finalizers"],
        json!(["y"])
    );
    assert_eq!(apply(json!({"metadata": {"finalizers": ["z"]}}))["metadata"]["finalizers"], json!(["z", "x", "y"]));
    let got =
        apply(json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}));
    assert_eq!(got["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
    assert_eq!(apply(json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}))["metadata"]["labels"], json!({"b": "2"}));
    assert_eq!(apply(json!({"metadata": {"labels": null}}))["metadata"].get("labels"), None);
}

#[test]
fn strategic_errors_are_upstreams() {
    let current = pod(json!({"containers": [{"name": "a"}]}));
    let error = run(PatchType::Strategic, current.clone(), json!({"spec": {"containers": [{"image": "x"}]}})).unwrap_err();
    assert_eq!(error.to_string(), "map: map[image:x] does not contain declared merge key: name");
    let error = run(PatchType::Strategic, current, json!({"spec": {"containers": [null]}})).unwrap_err();
    assert!(error.to_string().starts_with("list element types are not identical: [[map["), "{error}");
    assert_eq!(error.status().code, 500);
}

#[test]
fn json_patches_do_what_the_rfc_says() {
    let current = || pod(json!({"containers": [{"name": "a", "args": ["x", "y"]}]}));
    let got = run(
        PatchType::Json,
        current(),
        json!([
            {"op": "test", "path": "/metadata/name", "value": "p"},
            {"op": "add", "path": "/metadata/labels/b~1c", "value": "2"},
            {"op": "remove", "path": "/metadata/labels/a"},
            {"op": "add", "path": "/spec/containers/0/args/1", "value": "m"},
            {"op": "add", "path": "/spec/containers/0/args/-", "value": "z"},
            {"op": "copy", "from": "/metadata/name", "path": "/spec/hostname"},
            {"op": "move", "from": "/spec/hostname", "path": "/spec/subdomain"}
        ]),
    )
    .unwrap();
    assert_eq!(got["metadata"]["labels"], json!({"b/c": "2"}));
    assert_eq!(got["spec"]["containers"][0]["args"], json!(["x", "m", "y", "z"]));
    assert_eq!((got["spec"]["subdomain"].as_str(), got["spec"].get("hostname")), (Some("p"), None));
    for bad in [
        json!([{"op": "test", "path": "/metadata/name", "value": "q"}]),
        json!([{"op": "remove", "path": "/nothing"}]),
        json!([{"op": "replace", "path": "/a/b", "value": 1}]),
        json!([{"op": "add", "path": "/spec/containers/7", "value": {}}]),
        json!([{"op": "what", "path": "/spec"}]),
        json!([{"op": "move", "from": "/spec", "path": "/spec/containers"}]),
        json!([{"path": "/spec"}]),
        json!([5]),
    ] {
        assert_eq!(run(PatchType::Json, current(), bad.clone()).unwrap_err().status().code, 422, "{bad}");
    }
}

#[test]
fn bad_results_are_told_with_the_patch() {
    let current = pod(json!({"containers": [{"name": "a"}]}));
    let error = run(PatchType::Merge, current.clone(), json!({"spec": {"containers": "x"}})).unwrap_err();
    assert_eq!(error.status().code, 422);
    assert!(error.status().message.starts_with(r#" "" is invalid: patch: Invalid value: "{"#), "{}", error.status().message);
    assert_eq!(Patch::parse(PatchType::Merge, b"[]", FieldValidation::Warn).unwrap_err().status().code, 400);
    assert_eq!(Patch::parse(PatchType::Json, b"{}", FieldValidation::Warn).unwrap_err().status().code, 400);
    let error = Patch::parse(PatchType::Merge, br#"{"a":1,"a":2}"#, FieldValidation::Strict).unwrap_err();
    assert_eq!(error.to_string(), r#"error decoding patch: strict decoding error: duplicate field "a""#);
}
