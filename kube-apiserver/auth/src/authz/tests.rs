use serde_json::json;

use super::*;
use crate::authn::tests::Cluster;
use crate::bootstrap;
use crate::impersonation::impersonate;
use crate::review;

fn cluster() -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::default());
    for action in bootstrap::reconcile(cluster.as_ref()) {
        let bootstrap::Action::Create { resource, object } = action else { panic!("empty cluster") };
        cluster.put(rbac::GROUP, resource, object);
    }
    assert!(bootstrap::reconcile(cluster.as_ref()).is_empty());
    cluster
}

fn authorizers(cluster: &Arc<Cluster>) -> Authorizers {
    Authorizers::new(vec![Mode::Node, Mode::Rbac], cluster.clone())
}

fn bind(cluster: &Cluster, namespace: &str, role: &str, subject: serde_json::Value) {
    let object = json!({
        "metadata": {"name": "b", "namespace": namespace}, "subjects": [subject],
        "roleRef": {"apiGroup": rbac::GROUP, "kind": "ClusterRole", "name": role},
    });
    cluster.put(rbac::GROUP, "rolebindings", object);
}

#[test]
fn refusals_have_upstreams_words() {
    let cluster = cluster();
    let authorizers = authorizers(&cluster);
    let jane = User::new("jane", &["system:authenticated"]);
    let asked = Attributes::resource(&jane, "get", "", "pods", "default", "p1").subresource("exec");
    let decision = authorizers.authorize(&asked);
    assert_eq!(decision, Decision::NoOpinion(String::new()));
    let status = Authorizers::forbidden(&asked, &decision);
    let message =
        r#"pods "p1" is forbidden: User "jane" cannot get resource "pods/exec" in API group "" in the namespace "default""#;
    assert_eq!(status.message, message);
    let path = Attributes::path(&jane, "get", "/metrics");
    let status = Authorizers::forbidden(&path, &authorizers.authorize(&path));
    assert_eq!(status.message, r#"forbidden: User "jane" cannot get path "/metrics""#);
    assert!(authorizers.authorize(&Attributes::path(&jane, "get", "/api/v1")).allowed());
    assert!(authorizers.authorize(&Attributes::path(&User::new("root", &[MASTERS]), "post", "/x")).allowed());
}

#[test]
fn a_binding_allows_in_its_namespace_and_says_why() {
    let cluster = cluster();
    let authorizers = authorizers(&cluster);
    bind(&cluster, "dev", "view", json!({"kind": "ServiceAccount", "name": "sa"}));
    let account = User::new("system:serviceaccount:dev:sa", &[]);
    let decision = authorizers.authorize(&Attributes::resource(&account, "list", "", "pods", "dev", ""));
    assert_eq!(decision.reason(), r#"RBAC: allowed by RoleBinding "b/dev" of ClusterRole "view" to ServiceAccount "sa/dev""#);
    assert!(decision.allowed());
    for denied in [
        Attributes::resource(&account, "list", "", "pods", "other", ""),
        Attributes::resource(&account, "list", "", "pods", "", ""),
        Attributes::resource(&account, "delete", "", "pods", "dev", "p"),
        Attributes::resource(&account, "get", "", "secrets", "dev", "s"),
    ] {
        assert!(!authorizers.authorize(&denied).allowed(), "{denied:?}");
    }
    bind(&cluster, "gone", "no-such-role", json!({"kind": "User", "name": "jane"}));
    let jane = User::new("jane", &[]);
    let decision = authorizers.authorize(&Attributes::resource(&jane, "get", "", "pods", "gone", "p"));
    assert_eq!(decision.reason(), r#"RBAC: clusterrole.rbac.authorization.k8s.io "no-such-role" not found"#);
}

#[test]
fn rules_match_names_subresources_and_paths() {
    let rule = |value| rule::Rule::from_value(&value);
    let user = User::new("u", &[]);
    let scale = rule(json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*/scale"]}));
    let asked = Attributes::resource(&user, "patch", "apps", "deployments", "x", "d");
    assert!(scale.allows(&asked.subresource("scale")));
    assert!(!scale.allows(&asked));
    let named = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"]}));
    assert!(named.allows(&Attributes::resource(&user, "get", "", "configmaps", "x", "a")));
    assert!(!named.allows(&Attributes::resource(&user, "get", "", "configmaps", "x", "b")));
    let paths = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}));
    for (path, allowed) in [("/healthz", true), ("/healthz/etcd", false), ("/api/v1", true), ("/api", false)] {
        assert_eq!(paths.allows(&Attributes::path(&user, "get", path)), allowed, "{path}");
    }
}

#[test]
fn nobody_grants_more_than_they_hold() {
    let cluster = cluster();
    let authorizers = authorizers(&cluster);
    bind(&cluster, "dev", "admin", json!({"kind": "User", "name": "jane"}));
    let jane = User::new("jane", &["system:authenticated"]);
    let role = |verbs: serde_json::Value| json!({"metadata": {"namespace": "dev", "name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": verbs}]});
    let status = escalation::check_role(&authorizers, &jane, "roles", &role(json!(["get", "list"])), None).unwrap_err();
    let message = "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting \
                   to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}";
    assert_eq!(status.message, message);
    let held = json!({"metadata": {"namespace": "dev", "name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    assert!(escalation::check_role(&authorizers, &jane, "roles", &held, None).is_ok());
    let binding = |name: &str| json!({"metadata": {"namespace": "dev", "name": "x"}, "roleRef": {"apiGroup": rbac::GROUP, "kind": "ClusterRole", "name": name}});
    assert!(escalation::check_binding(&authorizers, &jane, "rolebindings", &binding("view")).is_ok());
    let refused = escalation::check_binding(&authorizers, &jane, "rolebindings", &binding("cluster-admin")).unwrap_err();
    assert!(refused.message.contains("{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}"), "{}", refused.message);
}

#[test]
fn a_node_reaches_what_its_pods_use() {
    let cluster = cluster();
    let authorizers = authorizers(&cluster);
    let pod = json!({
        "metadata": {"namespace": "dev", "name": "p"},
        "spec": {
            "nodeName": "n1", "serviceAccountName": "sa",
            "containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}],
            "volumes": [{"secret": {"secretName": "s"}}, {"persistentVolumeClaim": {"claimName": "claim"}}],
        },
    });
    cluster.put("", "pods", pod.clone());
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "dev", "name": "claim"}, "csi": {"nodeStageSecretRef": {"namespace": "csi", "name": "key"}}}});
    cluster.put("", "persistentvolumes", volume.clone());
    let node = |name: &str| User::new(format!("system:node:{name}"), &["system:nodes", "system:authenticated"]);
    let (n1, n2) = (node("n1"), node("n2"));
    let questions = |user: &User| {
        [
            Attributes::resource(user, "get", "", "secrets", "dev", "s"),
            Attributes::resource(user, "watch", "", "configmaps", "dev", "c"),
            Attributes::resource(user, "get", "", "persistentvolumes", "", "pv"),
            Attributes::resource(user, "get", "", "secrets", "csi", "key"),
            Attributes::resource(user, "get", "", "pods", "dev", "p"),
            Attributes::resource(user, "create", "", "serviceaccounts", "dev", "sa").subresource("token"),
        ]
        .map(|asked| authorizers.authorize(&asked))
    };
    assert!(questions(&n1).iter().all(Decision::allowed));
    for decision in questions(&n2) {
        assert_eq!(decision.reason(), "no relationship found between node 'n2' and this object");
    }
    // Fed with events, the graph follows them and nothing else.
    authorizers.node.observe("", "pods", &pod, false);
    authorizers.node.observe("", "persistentvolumes", &volume, false);
    assert!(questions(&n1).iter().all(Decision::allowed));
    authorizers.node.observe("", "pods", &pod, true);
    assert!(!questions(&n1).iter().any(Decision::allowed));

    let list = Attributes::resource(&n1, "list", "", "pods", "", "");
    assert_eq!(authorizers.authorize(&list).reason(), "can only list/watch pods with spec.nodeName field selector");
    assert!(authorizers.authorize(&Attributes { field_selector: "spec.nodeName=n1", ..list }).allowed());
    assert!(!authorizers.authorize(&Attributes { field_selector: "spec.nodeName=n2", ..list }).allowed());
    assert!(authorizers.authorize(&Attributes::resource(&n1, "patch", "", "nodes", "", "n1").subresource("status")).allowed());
    assert!(authorizers.authorize(&Attributes::resource(&n1, "get", "", "nodes", "", "n1")).allowed());
    assert!(!authorizers.authorize(&Attributes::resource(&n1, "get", "", "nodes", "", "n2")).allowed());
    assert!(
        authorizers
            .authorize(&Attributes::resource(&n1, "update", "coordination.k8s.io", "leases", "kube-node-lease", "n1"))
            .allowed()
    );
    assert!(authorizers.authorize(&Attributes::resource(&n1, "list", "", "services", "", "")).allowed());
    assert!(!authorizers.authorize(&Attributes::resource(&n1, "list", "", "secrets", "", "")).allowed());
}

#[test]
fn impersonation_needs_its_rights_and_completes_groups() {
    let cluster = cluster();
    let authorizers = authorizers(&cluster);
    let root = User::new("root", &[MASTERS]);
    let headers = |list: &[(&'static str, &str)]| {
        let mut out = http::HeaderMap::new();
        for (key, value) in list {
            out.append(*key, value.parse().unwrap());
        }
        out
    };
    let account = headers(&[("impersonate-user", "system:serviceaccount:dev:sa")]);
    let user = impersonate(&authorizers, &root, &account).unwrap().unwrap();
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:dev", "system:authenticated"]);
    let jane = User::new("jane", &[]);
    let status = impersonate(&authorizers, &jane, &account).unwrap_err();
    let message = r#"serviceaccounts "sa" is forbidden: User "jane" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "dev""#;
    assert_eq!(status.message, message);
    let status = impersonate(&authorizers, &root, &headers(&[("impersonate-group", "x")])).unwrap_err();
    let message = r#"requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"x"}, Extra:map[string][]string(nil)} without impersonating a user name"#;
    assert_eq!((status.code, status.message.as_str()), (400, message));
    assert_eq!(impersonate(&authorizers, &jane, &headers(&[])), Ok(None));
}

#[test]
fn reviews_answer_as_the_request_would_be() {
    let cluster = cluster();
    let authorizers = authorizers(&cluster);
    let ask = |spec| review::subject_access_review(&authorizers, &json!({"spec": spec}));
    let answer =
        ask(json!({"user": "x", "groups": ["system:masters"], "resourceAttributes": {"verb": "get", "resource": "pods"}}))
            .unwrap();
    assert_eq!(answer["status"], json!({"allowed": true}));
    let answer = ask(json!({"user": "x", "resourceAttributes": {"verb": "get", "resource": "pods"}})).unwrap();
    assert_eq!(answer["status"], json!({"allowed": false}));
    let status = ask(json!({"user": "x"})).unwrap_err();
    assert!(status.message.contains("exactly one of nonResourceAttributes or resourceAttributes must be specified"));
    let user = User::new("x", &["system:authenticated"]);
    let rules = review::self_subject_rules_review(&authorizers, &json!({"spec": {"namespace": "default"}}), &user).unwrap();
    assert!(rules["status"]["nonResourceRules"].as_array().is_some_and(|rules| !rules.is_empty()));
    assert_eq!(rules["status"]["incomplete"], false);
}
