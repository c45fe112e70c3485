use serde_json::{Value, json};

use super::*;

fn schema() -> Schema {
    Schema::builtin("apps", "v1", "Deployment").unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z" }
}

fn deployment(spec: Value) -> Value {
    let body =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}}, "spec": spec});
    schema().decode_value(body, FieldValidation::Strict).unwrap().object
}

fn created() -> Value {
    let mut object = deployment(json!({
        "replicas": 2, "selector": {"matchLabels": {"a": "1"}},
        "template": {"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}
    }));
    track_update(&schema(), None, &mut object, writer("creator"));
    object["metadata"]["uid"] = "u".into();
    object
}

fn fields_of<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().find(|entry| entry["manager"] == manager).map_or(&Value::Null, |entry| &entry["fieldsV1"])
}

#[test]
fn a_creator_owns_what_it_set() {
    let object = created();
    assert_eq!(
        *fields_of(&object, "creator"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    }}},
                },
            },
        })
    );
}

#[test]
fn an_updater_takes_what_it_changes() {
    let live = created();
    let mut new = live.clone();
    new["spec"]["replicas"] = 5.into();
    track_update(&schema(), Some(&live), &mut new, writer("scaler"));
    assert_eq!(*fields_of(&new, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields_of(&new, "creator")["f:spec"].get("f:replicas"), None);
    // Nothing changed: nothing is noted.
    let mut same = new.clone();
    track_update(&schema(), Some(&new), &mut same, writer("idle"));
    assert_eq!(same, new);
    // A client that does not know managedFields does not erase them.
    let mut without = new.clone();
    without["metadata"].as_object_mut().unwrap().remove("managedFields");
    track_update(&schema(), Some(&new), &mut without, writer("idle"));
    assert_eq!(without, new);
    // One that resets them does.
    let mut reset = new.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track_update(&schema(), Some(&new), &mut reset, writer("idle"));
    assert_eq!(reset["metadata"].get("managedFields"), None);
}

#[test]
fn applying_conflicts_forces_and_gives_up() {
    let live = created();
    let config = |replicas: Option<i64>| {
        let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "annotations": {"x": "y"}}, "spec": {}});
        if let Some(replicas) = replicas {
            config["spec"]["replicas"] = replicas.into();
        }
        config
    };
    let error = apply(&schema(), Some(&live), &config(Some(3)), writer("me"), false).unwrap_err();
    assert_eq!(error.to_string(), r#"Apply failed with 1 conflict: conflict with "creator" using apps/v1: .spec.replicas"#);
    // The same value is shared.
    let shared = apply(&schema(), Some(&live), &config(Some(2)), writer("me"), false).unwrap();
    assert_eq!(*fields_of(&shared, "me"), json!({"f:metadata": {"f:annotations": {"f:x": {}}}, "f:spec": {"f:replicas": {}}}));
    assert_ne!(fields_of(&shared, "creator")["f:spec"]["f:replicas"], Value::Null);
    let forced = apply(&schema(), Some(&live), &config(Some(3)), writer("me"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(fields_of(&forced, "creator")["f:spec"].get("f:replicas"), None);
    // What is no longer applied goes, where nobody else owns it.
    let mut less = config(None);
    less["metadata"].as_object_mut().unwrap().remove("annotations");
    less["metadata"]["labels"] = json!({"b": "2"});
    let gone = apply(&schema(), Some(&forced), &less, writer("me"), false).unwrap();
    assert_eq!(gone["spec"].get("replicas"), None);
    assert_eq!(gone["metadata"].get("annotations"), None);
    assert_eq!(gone["metadata"]["labels"], json!({"a": "1", "b": "2"}));
}

#[test]
fn applied_lists_merge_by_key_and_lose_what_is_dropped() {
    let config = |containers: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": containers}}}});
    let one = apply(
        &schema(),
        Some(&created()),
        &config(json!([{"name": "x", "image": "x"}, {"name": "y", "image": "y"}])),
        writer("me"),
        false,
    )
    .unwrap();
    let names = |object: &Value| {
        object["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&one), ["c", "x", "y"]);
    let two = apply(&schema(), Some(&one), &config(json!([{"name": "y", "image": "y"}])), writer("me"), false).unwrap();
    assert_eq!(names(&two), ["c", "y"]);
    let error = apply(&schema(), Some(&two), &config(json!([{"name": "y"}, {"name": "y"}])), writer("me"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"y\"]"
    );
}

#[test]
fn applying_creates_and_takes_over_from_client_side_apply() {
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 2}});
    let made = apply(&schema(), None, &config, writer("me"), false).unwrap();
    assert_eq!(*fields_of(&made, "me"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(made["spec"]["replicas"], 2);
    let mut live = created();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: config.to_string()});
    let mut changed = config.clone();
    changed["spec"]["replicas"] = 7.into();
    let taken = apply(&schema(), Some(&live), &changed, writer("kubectl"), false).unwrap();
    assert_eq!(taken["spec"]["replicas"], 7);
    assert!(taken["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap().contains("\"replicas\":7"));
    assert!(apply(&schema(), Some(&live), &changed, writer("someone"), false).is_err());
}

#[test]
fn old_updaters_are_put_together() {
    let mut object = created();
    for round in 0..14 {
        let mut new = object.clone();
        new["metadata"]["labels"][format!("l{round}")] = "x".into();
        let (name, now) = (format!("m{round:02}"), format!("2026-01-01T00:00:{:02}Z", round + 1));
        track_update(&schema(), Some(&object), &mut new, Writer { manager: &name, subresource: "", now: &now });
        object = new;
    }
    let names: Vec<_> = owners(&object).into_iter().map(|(manager, ..)| manager).collect();
    assert_eq!(names.len(), 10);
    assert_eq!(names[0], "ancient-changes");
    assert_eq!(names[9], "m13");
}

#[test]
fn broken_managed_fields_do_no_harm() {
    let live = created();
    for broken in [
        json!([{"manager": "x", "operation": "Bad", "apiVersion": "v1", "fieldsType": "FieldsV1"}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"q:": {}}}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"k:x": 5, "é": []}}]),
    ] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = broken;
        track_update(&schema(), Some(&live), &mut new, writer("idle"));
        assert_eq!(new, live);
    }
}

#[test]
fn an_empty_list_is_owned_as_given_and_stored_as_null() {
    let schema = Schema::builtin("rbac.authorization.k8s.io", "v1", "ClusterRole").unwrap();
    let given =
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}, "rules": []});
    let mut object = schema.decode_ref(&given, FieldValidation::Strict).unwrap().object;
    track_update(&schema, None, &mut object, writer("creator"));
    assert_eq!((&object["rules"], fields_of(&object, "creator")), (&Value::Null, &json!({"f:rules": {}})));
    let error = apply(&schema, Some(&object), &given, writer("me"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "creator" using rbac.authorization.k8s.io/v1: .rules"#
    );
}
