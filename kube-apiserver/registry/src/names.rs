//! The names of the built-in resources: what discovery shows, in its order.
//!
//! To add a resource: one line here (names), one file (rules) and one line in [`crate::table`].

use crate::resource::{Names, Subresource};

const NAMESPACED: bool = true;
const CLUSTER: bool = false;
const ALL: &str = "create,delete,deletecollection,get,list,patch,update,watch";

/// Group/version, plural, singular, kind, namespaced, short names, categories, verbs, subresources (`name=kind:verbs;…`).
type Row = (&'static str, &'static str, &'static str, &'static str, bool, &'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("v1", "bindings", "binding", "Binding", NAMESPACED, "", "", "create", ""),
    ("v1", "componentstatuses", "componentstatus", "ComponentStatus", CLUSTER, "cs", "", "get,list", ""),
    ("v1", "configmaps", "configmap", "ConfigMap", NAMESPACED, "cm", "", ALL, ""),
    ("v1", "endpoints", "endpoints", "Endpoints", NAMESPACED, "ep", "", ALL, ""),
    ("v1", "events", "event", "Event", NAMESPACED, "ev", "", ALL, ""),
    ("v1", "limitranges", "limitrange", "LimitRange", NAMESPACED, "limits", "", ALL, ""),
    ("v1", "namespaces", "namespace", "Namespace", CLUSTER, "ns", "", "create,delete,get,list,patch,update,watch", "finalize=Namespace:update;status=Namespace:get,patch,update"),
    ("v1", "nodes", "node", "Node", CLUSTER, "no", "", ALL, "proxy=NodeProxyOptions:create,delete,get,patch,update;status=Node:get,patch,update"),
    ("v1", "persistentvolumeclaims", "persistentvolumeclaim", "PersistentVolumeClaim", NAMESPACED, "pvc", "", ALL, "status=PersistentVolumeClaim:get,patch,update"),
    ("v1", "persistentvolumes", "persistentvolume", "PersistentVolume", CLUSTER, "pv", "", ALL, "status=PersistentVolume:get,patch,update"),
    ("v1", "pods", "pod", "Pod", NAMESPACED, "po", "all", ALL, "attach=PodAttachOptions:create,get;binding=Binding:create;ephemeralcontainers=Pod:get,patch,update;eviction=policy/v1/Eviction:create;exec=PodExecOptions:create,get;log=Pod:get;portforward=PodPortForwardOptions:create,get;proxy=PodProxyOptions:create,delete,get,patch,update;resize=Pod:get,patch,update;status=Pod:get,patch,update"),
    ("v1", "podtemplates", "podtemplate", "PodTemplate", NAMESPACED, "", "", ALL, ""),
    ("v1", "replicationcontrollers", "replicationcontroller", "ReplicationController", NAMESPACED, "rc", "all", ALL, "scale=autoscaling/v1/Scale:get,patch,update;status=ReplicationController:get,patch,update"),
    ("v1", "resourcequotas", "resourcequota", "ResourceQuota", NAMESPACED, "quota", "", ALL, "status=ResourceQuota:get,patch,update"),
    ("v1", "secrets", "secret", "Secret", NAMESPACED, "", "", ALL, ""),
    ("v1", "serviceaccounts", "serviceaccount", "ServiceAccount", NAMESPACED, "sa", "", ALL, "token=authentication.k8s.io/v1/TokenRequest:create"),
    ("v1", "services", "service", "Service", NAMESPACED, "svc", "all", ALL, "proxy=ServiceProxyOptions:create,delete,get,patch,update;status=Service:get,patch,update"),
    ("apiregistration.k8s.io/v1", "apiservices", "apiservice", "APIService", CLUSTER, "", "api-extensions", ALL, "status=APIService:get,patch,update"),
    ("apps/v1", "controllerrevisions", "controllerrevision", "ControllerRevision", NAMESPACED, "", "", ALL, ""),
    ("apps/v1", "daemonsets", "daemonset", "DaemonSet", NAMESPACED, "ds", "all", ALL, "status=DaemonSet:get,patch,update"),
    ("apps/v1", "deployments", "deployment", "Deployment", NAMESPACED, "deploy", "all", ALL, "scale=autoscaling/v1/Scale:get,patch,update;status=Deployment:get,patch,update"),
    ("apps/v1", "replicasets", "replicaset", "ReplicaSet", NAMESPACED, "rs", "all", ALL, "scale=autoscaling/v1/Scale:get,patch,update;status=ReplicaSet:get,patch,update"),
    ("apps/v1", "statefulsets", "statefulset", "StatefulSet", NAMESPACED, "sts", "all", ALL, "scale=autoscaling/v1/Scale:get,patch,update;status=StatefulSet:get,patch,update"),
    ("events.k8s.io/v1", "events", "event", "Event", NAMESPACED, "ev", "", ALL, ""),
    ("authentication.k8s.io/v1", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview", CLUSTER, "", "", "create", ""),
    ("authentication.k8s.io/v1", "tokenreviews", "tokenreview", "TokenReview", CLUSTER, "", "", "create", ""),
    ("authorization.k8s.io/v1", "localsubjectaccessreviews", "localsubjectaccessreview", "LocalSubjectAccessReview", NAMESPACED, "", "", "create", ""),
    ("authorization.k8s.io/v1", "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview", CLUSTER, "", "", "create", ""),
    ("authorization.k8s.io/v1", "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview", CLUSTER, "", "", "create", ""),
    ("authorization.k8s.io/v1", "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview", CLUSTER, "", "", "create", ""),
    ("autoscaling/v2", "horizontalpodautoscalers", "horizontalpodautoscaler", "HorizontalPodAutoscaler", NAMESPACED, "hpa", "all", ALL, "status=HorizontalPodAutoscaler:get,patch,update"),
    ("autoscaling/v1", "horizontalpodautoscalers", "horizontalpodautoscaler", "HorizontalPodAutoscaler", NAMESPACED, "hpa", "all", ALL, "status=HorizontalPodAutoscaler:get,patch,update"),
    ("batch/v1", "cronjobs", "cronjob", "CronJob", NAMESPACED, "cj", "all", ALL, "status=CronJob:get,patch,update"),
    ("batch/v1", "jobs", "job", "Job", NAMESPACED, "", "all", ALL, "status=Job:get,patch,update"),
    ("certificates.k8s.io/v1", "certificatesigningrequests", "certificatesigningrequest", "CertificateSigningRequest", CLUSTER, "csr", "", ALL, "approval=CertificateSigningRequest:get,patch,update;status=CertificateSigningRequest:get,patch,update"),
    ("certificates.k8s.io/v1beta1", "clustertrustbundles", "clustertrustbundle", "ClusterTrustBundle", CLUSTER, "", "", ALL, ""),
    ("certificates.k8s.io/v1beta1", "podcertificaterequests", "podcertificaterequest", "PodCertificateRequest", NAMESPACED, "", "", ALL, "status=PodCertificateRequest:get,patch,update"),
    ("certificates.k8s.io/v1alpha1", "clustertrustbundles", "clustertrustbundle", "ClusterTrustBundle", CLUSTER, "", "", ALL, ""),
    ("networking.k8s.io/v1", "ingressclasses", "ingressclass", "IngressClass", CLUSTER, "", "", ALL, ""),
    ("networking.k8s.io/v1", "ingresses", "ingress", "Ingress", NAMESPACED, "ing", "", ALL, "status=Ingress:get,patch,update"),
    ("networking.k8s.io/v1", "ipaddresses", "ipaddress", "IPAddress", CLUSTER, "ip", "", ALL, ""),
    ("networking.k8s.io/v1", "networkpolicies", "networkpolicy", "NetworkPolicy", NAMESPACED, "netpol", "", ALL, ""),
    ("networking.k8s.io/v1", "servicecidrs", "servicecidr", "ServiceCIDR", CLUSTER, "", "", ALL, "status=ServiceCIDR:get,patch,update"),
    ("networking.k8s.io/v1beta1", "ipaddresses", "ipaddress", "IPAddress", CLUSTER, "ip", "", ALL, ""),
    ("networking.k8s.io/v1beta1", "servicecidrs", "servicecidr", "ServiceCIDR", CLUSTER, "", "", ALL, "status=ServiceCIDR:get,patch,update"),
    ("policy/v1", "poddisruptionbudgets", "poddisruptionbudget", "PodDisruptionBudget", NAMESPACED, "pdb", "", ALL, "status=PodDisruptionBudget:get,patch,update"),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding", CLUSTER, "", "", ALL, ""),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "clusterrole", "ClusterRole", CLUSTER, "", "", ALL, ""),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "rolebinding", "RoleBinding", NAMESPACED, "", "", ALL, ""),
    ("rbac.authorization.k8s.io/v1", "roles", "role", "Role", NAMESPACED, "", "", ALL, ""),
    ("storage.k8s.io/v1", "csidrivers", "csidriver", "CSIDriver", CLUSTER, "", "", ALL, ""),
    ("storage.k8s.io/v1", "csinodes", "csinode", "CSINode", CLUSTER, "", "", ALL, ""),
    ("storage.k8s.io/v1", "csistoragecapacities", "csistoragecapacity", "CSIStorageCapacity", NAMESPACED, "", "", ALL, ""),
    ("storage.k8s.io/v1", "storageclasses", "storageclass", "StorageClass", CLUSTER, "sc", "", ALL, ""),
    ("storage.k8s.io/v1", "volumeattachments", "volumeattachment", "VolumeAttachment", CLUSTER, "", "", ALL, "status=VolumeAttachment:get,patch,update"),
    ("storage.k8s.io/v1", "volumeattributesclasses", "volumeattributesclass", "VolumeAttributesClass", CLUSTER, "vac", "", ALL, ""),
    ("storage.k8s.io/v1beta1", "volumeattributesclasses", "volumeattributesclass", "VolumeAttributesClass", CLUSTER, "vac", "", ALL, ""),
    ("admissionregistration.k8s.io/v1", "mutatingadmissionpolicies", "mutatingadmissionpolicy", "MutatingAdmissionPolicy", CLUSTER, "", "api-extensions", ALL, ""),
    ("admissionregistration.k8s.io/v1", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", "MutatingAdmissionPolicyBinding", CLUSTER, "", "api-extensions", ALL, ""),
    ("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", "MutatingWebhookConfiguration", CLUSTER, "", "api-extensions", ALL, ""),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "validatingadmissionpolicy", "ValidatingAdmissionPolicy", CLUSTER, "", "api-extensions", ALL, "status=ValidatingAdmissionPolicy:get,patch,update"),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", "ValidatingAdmissionPolicyBinding", CLUSTER, "", "api-extensions", ALL, ""),
    ("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", "validatingwebhookconfiguration", "ValidatingWebhookConfiguration", CLUSTER, "", "api-extensions", ALL, ""),
    ("admissionregistration.k8s.io/v1beta1", "mutatingadmissionpolicies", "mutatingadmissionpolicy", "MutatingAdmissionPolicy", CLUSTER, "", "api-extensions", ALL, ""),
    ("admissionregistration.k8s.io/v1beta1", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", "MutatingAdmissionPolicyBinding", CLUSTER, "", "api-extensions", ALL, ""),
    ("admissionregistration.k8s.io/v1alpha1", "mutatingadmissionpolicies", "mutatingadmissionpolicy", "MutatingAdmissionPolicy", CLUSTER, "", "api-extensions", ALL, ""),
    ("admissionregistration.k8s.io/v1alpha1", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", "MutatingAdmissionPolicyBinding", CLUSTER, "", "api-extensions", ALL, ""),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions", "customresourcedefinition", "CustomResourceDefinition", CLUSTER, "crd,crds", "api-extensions", ALL, "status=CustomResourceDefinition:get,patch,update"),
    ("scheduling.k8s.io/v1", "priorityclasses", "priorityclass", "PriorityClass", CLUSTER, "pc", "", ALL, ""),
    ("scheduling.k8s.io/v1alpha2", "podgroups", "podgroup", "PodGroup", NAMESPACED, "", "", ALL, "status=PodGroup:get,patch,update"),
    ("scheduling.k8s.io/v1alpha2", "workloads", "workload", "Workload", NAMESPACED, "", "", ALL, ""),
    ("coordination.k8s.io/v1", "leases", "lease", "Lease", NAMESPACED, "", "", ALL, ""),
    ("coordination.k8s.io/v1beta1", "leasecandidates", "leasecandidate", "LeaseCandidate", NAMESPACED, "", "", ALL, ""),
    ("coordination.k8s.io/v1alpha2", "leasecandidates", "leasecandidate", "LeaseCandidate", NAMESPACED, "", "", ALL, ""),
    ("node.k8s.io/v1", "runtimeclasses", "runtimeclass", "RuntimeClass", CLUSTER, "", "", ALL, ""),
    ("discovery.k8s.io/v1", "endpointslices", "endpointslice", "EndpointSlice", NAMESPACED, "", "", ALL, ""),
    ("resource.k8s.io/v1", "deviceclasses", "deviceclass", "DeviceClass", CLUSTER, "", "", ALL, ""),
    ("resource.k8s.io/v1", "resourceclaims", "resourceclaim", "ResourceClaim", NAMESPACED, "", "", ALL, "status=ResourceClaim:get,patch,update"),
    ("resource.k8s.io/v1", "resourceclaimtemplates", "resourceclaimtemplate", "ResourceClaimTemplate", NAMESPACED, "", "", ALL, ""),
    ("resource.k8s.io/v1", "resourceslices", "resourceslice", "ResourceSlice", CLUSTER, "", "", ALL, ""),
    ("resource.k8s.io/v1beta2", "deviceclasses", "deviceclass", "DeviceClass", CLUSTER, "", "", ALL, ""),
    ("resource.k8s.io/v1beta2", "devicetaintrules", "devicetaintrule", "DeviceTaintRule", CLUSTER, "", "", ALL, "status=DeviceTaintRule:get,patch,update"),
    ("resource.k8s.io/v1beta2", "resourceclaims", "resourceclaim", "ResourceClaim", NAMESPACED, "", "", ALL, "status=ResourceClaim:get,patch,update"),
    ("resource.k8s.io/v1beta2", "resourceclaimtemplates", "resourceclaimtemplate", "ResourceClaimTemplate", NAMESPACED, "", "", ALL, ""),
    ("resource.k8s.io/v1beta2", "resourceslices", "resourceslice", "ResourceSlice", CLUSTER, "", "", ALL, ""),
    ("resource.k8s.io/v1beta1", "deviceclasses", "deviceclass", "DeviceClass", CLUSTER, "", "", ALL, ""),
    ("resource.k8s.io/v1beta1", "resourceclaims", "resourceclaim", "ResourceClaim", NAMESPACED, "", "", ALL, "status=ResourceClaim:get,patch,update"),
    ("resource.k8s.io/v1beta1", "resourceclaimtemplates", "resourceclaimtemplate", "ResourceClaimTemplate", NAMESPACED, "", "", ALL, ""),
    ("resource.k8s.io/v1beta1", "resourceslices", "resourceslice", "ResourceSlice", CLUSTER, "", "", ALL, ""),
    ("resource.k8s.io/v1alpha3", "devicetaintrules", "devicetaintrule", "DeviceTaintRule", CLUSTER, "", "", ALL, "status=DeviceTaintRule:get,patch,update"),
    ("resource.k8s.io/v1alpha3", "resourcepoolstatusrequests", "resourcepoolstatusrequest", "ResourcePoolStatusRequest", CLUSTER, "", "", ALL, "status=ResourcePoolStatusRequest:get,patch,update"),
    ("flowcontrol.apiserver.k8s.io/v1", "flowschemas", "flowschema", "FlowSchema", CLUSTER, "", "", ALL, "status=FlowSchema:get,patch,update"),
    ("flowcontrol.apiserver.k8s.io/v1", "prioritylevelconfigurations", "prioritylevelconfiguration", "PriorityLevelConfiguration", CLUSTER, "", "", ALL, "status=PriorityLevelConfiguration:get,patch,update"),
    ("internal.apiserver.k8s.io/v1alpha1", "storageversions", "storageversion", "StorageVersion", CLUSTER, "", "", ALL, "status=StorageVersion:get,patch,update"),
    ("storagemigration.k8s.io/v1beta1", "storageversionmigrations", "storageversionmigration", "StorageVersionMigration", CLUSTER, "", "", ALL, "status=StorageVersionMigration:get,patch,update"),
];

/// Versions that a server without `--runtime-config` serves: all that are generally available.
pub fn served_by_default(version: &str) -> bool {
    !version.contains("alpha") && !version.contains("beta")
}

/// `apps/v1` as group and version; the core group is empty.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// All names, in discovery's order; those that are off by default too.
pub fn all() -> Vec<Names> {
    ROWS.iter().map(names).collect()
}

fn names(row: &Row) -> Names {
    let &(api_version, plural, singular, kind, namespaced, short, categories, verbs, subresources) = row;
    let (group, version) = split_api_version(api_version);
    Names {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        singular: singular.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        namespaced,
        short_names: words(short),
        categories: words(categories),
        verbs: words(verbs),
        subresources: subresources.split(';').filter_map(|text| subresource(text, group, version)).collect(),
    }
}

fn subresource(text: &str, group: &str, version: &str) -> Option<Subresource> {
    let (name, rest) = text.split_once('=')?;
    let (kind, verbs) = rest.split_once(':')?;
    let mut parts = kind.split('/');
    let (group, version, kind) = match (parts.next(), parts.next(), parts.next()) {
        (Some(group), Some(version), Some(kind)) => (group, version, kind),
        _ => (group, version, kind),
    };
    Some(Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: words(verbs),
    })
}

fn words(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
