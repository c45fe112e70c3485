//! Volumes of pods, and the sources that PersistentVolumes share with them.
//!
//! Upstream: ValidateVolumes, validateVolumeSource, ValidatePersistentVolumeSpec

use api::field::{Errors, Path};
use serde_json::Value;

use super::environment::{self, VOLUME_FIELDS};
use crate::check;
use crate::identifier;
use crate::quantity;
use crate::tree::Tree;

/// Checks the volumes and gives those that are fine; mounts of others find nothing.
pub fn volumes<'a>(spec: &'a Value, path: &Path, errors: &mut Errors) -> Vec<&'a Value> {
    let mut fine: Vec<&Value> = Vec::new();
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let path = path.index(index);
        let mut own = Errors::new();
        source(volume, &path, &mut own);
        let name = volume.text("name");
        if name.is_empty() {
            own.required(&path.child("name"), "");
        } else {
            check::label_name(name, &path.child("name"), &mut own);
        }
        if fine.iter().any(|other| other.text("name") == name) {
            own.duplicate(&path.child("name"), name);
        }
        if own.is_empty() {
            fine.push(volume);
        }
        errors.extend(own);
    }
    fine
}

type Check = fn(&Value, &Path, &mut Errors);

/// Source and its rules, in upstream's order.
const SOURCES: &[(&str, Check)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", |s, path, errors| {
        required(s, "pdName", path, errors);
        partition(s, path, errors);
    }),
    ("awsElasticBlockStore", |s, path, errors| {
        required(s, "volumeID", path, errors);
        partition(s, path, errors);
    }),
    ("secret", |s, path, errors| {
        required(s, "secretName", path, errors);
        check::file_mode(s.at("defaultMode"), &path.child("defaultMode"), errors);
        key_to_paths(s, path, errors);
    }),
    ("nfs", nfs),
    ("iscsi", iscsi),
    ("glusterfs", |s, path, errors| {
        required(s, "endpoints", path, errors);
        required(s, "path", path, errors);
    }),
    ("flocker", flocker),
    ("persistentVolumeClaim", |s, path, errors| required(s, "claimName", path, errors)),
    ("rbd", |s, path, errors| {
        required_list(s, "monitors", path, errors);
        required(s, "image", path, errors);
    }),
    ("cephfs", |s, path, errors| required_list(s, "monitors", path, errors)),
    ("quobyte", quobyte),
    ("downwardAPI", |s, path, errors| {
        check::file_mode(s.at("defaultMode"), &path.child("defaultMode"), errors);
        for item in s.items("items") {
            downward_item(item, path, errors);
        }
    }),
    ("configMap", |s, path, errors| {
        required(s, "name", path, errors);
        check::file_mode(s.at("defaultMode"), &path.child("defaultMode"), errors);
        key_to_paths(s, path, errors);
    }),
    ("fc", fc),
    ("azureFile", |s, path, errors| {
        required(s, "secretName", path, errors);
        required(s, "shareName", path, errors);
    }),
    ("flexVolume", flex),
    ("vsphereVolume", |s, path, errors| required(s, "volumePath", path, errors)),
    ("photonPersistentDisk", |s, path, errors| required(s, "pdID", path, errors)),
    ("portworxVolume", |s, path, errors| required(s, "volumeID", path, errors)),
    ("azureDisk", |s, path, errors| {
        required(s, "diskName", path, errors);
        required(s, "diskURI", path, errors);
    }),
    ("cinder", |s, path, errors| required(s, "volumeID", path, errors)),
    ("scaleIO", |s, path, errors| {
        required(s, "gateway", path, errors);
        required(s, "system", path, errors);
        required(s, "volumeName", path, errors);
    }),
    ("storageos", |_, _, _| {}),
    ("projected", projected),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", |s, path, errors| {
        required(s, "reference", path, errors);
        pull_policy(s.text("pullPolicy"), &path.child("pullPolicy"), errors);
    }),
];

fn source(volume: &Value, path: &Path, errors: &mut Errors) {
    let mut count = 0;
    for (key, check) in SOURCES {
        if !volume.has(key) {
            continue;
        }
        if count > 0 {
            errors.forbidden(&path.child(key), "may not specify more than 1 volume type");
        } else {
            count += 1;
            check(volume.at(key), &path.child(key), errors);
        }
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

/// The one source of a PersistentVolume; `fallback` names the source in errors that concern the whole.
pub fn persistent(spec: &Value, path: &Path, errors: &mut Errors) -> bool {
    const KEYS: &[&str] = &[
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "flocker",
        "nfs",
        "rbd",
        "quobyte",
        "cephfs",
        "iscsi",
        "cinder",
        "fc",
        "flexVolume",
        "azureFile",
        "vsphereVolume",
        "photonPersistentDisk",
        "portworxVolume",
        "azureDisk",
        "scaleIO",
        "local",
        "storageos",
        "csi",
    ];
    let mut count = 0;
    for key in KEYS {
        if !spec.has(key) {
            continue;
        }
        if count > 0 {
            errors.forbidden(&path.child(key), "may not specify more than 1 volume type");
            continue;
        }
        count += 1;
        let (source, path) = (spec.at(key), path.child(key));
        match *key {
            "csi" => {
                csi_driver_name(source, &path, errors);
                required(source, "volumeHandle", &path, errors);
            }
            "local" => {
                required(source, "path", &path, errors);
                check::no_backsteps(source.text("path"), &path.child("path"), errors);
            }
            _ => {
                if let Some((_, check)) = SOURCES.iter().find(|(other, _)| other == key) {
                    check(source, &path, errors);
                }
            }
        }
    }
    count > 0
}

fn required(source: &Value, field: &str, path: &Path, errors: &mut Errors) {
    if source.text(field).is_empty() {
        errors.required(&path.child(field), "");
    }
}

fn required_list(source: &Value, field: &str, path: &Path, errors: &mut Errors) {
    if source.items(field).is_empty() {
        errors.required(&path.child(field), "");
    }
}

fn partition(source: &Value, path: &Path, errors: &mut Errors) {
    if let Some(number) = source.int("partition").filter(|number| !(0..=255).contains(number)) {
        errors.invalid(&path.child("partition"), number, check::range_error(0, 255));
    }
}

fn empty_dir(source: &Value, path: &Path, errors: &mut Errors) {
    if quantity::parse(source.at("sizeLimit")).is_some_and(|size| size < 0) {
        errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(source: &Value, path: &Path, errors: &mut Errors) {
    let text = source.text("path");
    if text.is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        check::no_backsteps(text, &path.child("path"), errors);
    }
    const TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let kind = source.text("type");
    if !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, TYPES);
    }
}

fn git_repo(source: &Value, path: &Path, errors: &mut Errors) {
    required(source, "repository", path, errors);
    check::descending(source.text("directory"), &path.child("directory"), errors);
}

fn nfs(source: &Value, path: &Path, errors: &mut Errors) {
    required(source, "server", path, errors);
    let text = source.text("path");
    if text.is_empty() {
        errors.required(&path.child("path"), "");
    }
    if !text.starts_with('/') {
        errors.invalid(&path.child("path"), text, "must be an absolute path");
    }
}

fn iscsi(source: &Value, path: &Path, errors: &mut Errors) {
    required(source, "targetPortal", path, errors);
    let iqn = source.text("iqn");
    if iqn.is_empty() {
        errors.required(&path.child("iqn"), "");
    } else if !["iqn", "eui", "naa"].iter().any(|start| iqn.starts_with(start)) {
        errors.invalid(&path.child("iqn"), iqn, "must be valid format starting with iqn, eui, or naa");
    }
    let lun = source.int("lun").unwrap_or(0);
    if !(0..=255).contains(&lun) {
        errors.invalid(&path.child("lun"), lun, check::range_error(0, 255));
    }
    if (source.truth("chapAuthDiscovery") || source.truth("chapAuthSession")) && !source.has("secretRef") {
        errors.required(&path.child("secretRef"), "");
    }
}

fn flocker(source: &Value, path: &Path, errors: &mut Errors) {
    let (name, uuid) = (source.text("datasetName"), source.text("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        errors.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &Value, path: &Path, errors: &mut Errors) {
    if source.text("registry").is_empty() {
        errors.required(&path.child("registry"), "must be a host:port pair or multiple pairs separated by commas");
    }
    required(source, "volume", path, errors);
}

fn fc(source: &Value, path: &Path, errors: &mut Errors) {
    let (names, ids) = (!source.items("targetWWNs").is_empty(), !source.items("wwids").is_empty());
    if !names && !ids {
        errors.required(&path.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both");
    }
    if names && ids {
        errors.invalid(
            &path.child("targetWWNs"),
            source.at("targetWWNs").clone(),
            "targetWWNs and wwids can not be specified simultaneously",
        );
    }
    if names {
        match source.int("lun") {
            None => errors.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) if !(0..=255).contains(&lun) => errors.invalid(&path.child("lun"), lun, check::range_error(0, 255)),
            Some(_) => {}
        }
    }
}

fn flex(source: &Value, path: &Path, errors: &mut Errors) {
    required(source, "driver", path, errors);
    for (key, _) in source.entries("options") {
        let domain = key.split('/').next().unwrap_or("").to_lowercase();
        if key.contains('/') && (format!(".{domain}").ends_with(".kubernetes.io") || format!(".{domain}").ends_with(".k8s.io")) {
            errors.invalid(&path.child("options").key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

/// The `driver` of a CSI volume.
pub fn csi_driver_name(source: &Value, path: &Path, errors: &mut Errors) {
    driver_name(source.text("driver"), &path.child("driver"), errors);
}

/// The name of a CSI driver: a subdomain (whatever its case) of 63 bytes.
pub fn driver_name(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    for message in identifier::dns1123_subdomain(&name.to_lowercase()) {
        errors.invalid(path, name, message);
    }
}

/// The same where an empty name has no other error.
pub fn driver_name_once(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() { errors.required(path, "") } else { driver_name(name, path, errors) }
}

fn csi(source: &Value, path: &Path, errors: &mut Errors) {
    csi_driver_name(source, path, errors);
    if source.has("nodePublishSecretRef") && source.at("nodePublishSecretRef").text("name").is_empty() {
        errors.required(&path.child("nodePublishSecretRef.name"), "");
    }
}

fn ephemeral(source: &Value, path: &Path, errors: &mut Errors) {
    if !source.has("volumeClaimTemplate") {
        errors.required(&path.child("volumeClaimTemplate"), "");
        return;
    }
    let template = source.at("volumeClaimTemplate");
    let path = path.child("volumeClaimTemplate");
    crate::metadata::validate_labels(template.path("metadata.labels"), &path.child("metadata.labels"), errors);
    crate::metadata::validate_annotations(template.path("metadata.annotations"), &path.child("metadata.annotations"), errors);
    claim_spec(template.at("spec"), &path.child("spec"), errors);
}

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Access modes of claims and volumes.
pub fn access_modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let modes = spec.items("accessModes");
    let mut once_pod = false;
    let mut others = false;
    for mode in modes {
        let mode = mode.as_str().unwrap_or("");
        if !ACCESS_MODES.contains(&mode) {
            errors.not_supported(&path.child("accessModes"), mode, ACCESS_MODES);
        }
        if mode == "ReadWriteOncePod" { once_pod = true } else { others = true }
    }
    if once_pod && others {
        errors.forbidden(&path.child("accessModes"), "may not use ReadWriteOncePod with other access modes");
    }
}

/// The spec of a PersistentVolumeClaim.
pub fn claim_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    if spec.items("accessModes").is_empty() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    check::label_selector(spec.at("selector"), &path.child("selector"), errors);
    access_modes(spec, path, errors);
    let storage = spec.path("resources.requests").at("storage");
    let path_of_storage = path.child("resources").key("storage");
    if storage.is_null() {
        errors.required(&path_of_storage, "");
    } else {
        let size = quantity::parse(storage).unwrap_or(0);
        if size <= 0 {
            errors.invalid(&path_of_storage, storage.clone(), "must be greater than zero");
        }
        super::resources::amount("storage", storage, &path_of_storage, errors);
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        check::each(identifier::dns1123_subdomain(class), class, &path.child("storageClassName"), errors);
    }
    volume_mode(spec, path, errors);
    let attributes = spec.text("volumeAttributesClassName");
    if !attributes.is_empty() {
        check::each(identifier::dns1123_subdomain(attributes), attributes, &path.child("volumeAttributesClassName"), errors);
    }
    for key in ["dataSource", "dataSourceRef"] {
        let source = spec.at(key);
        if source.is_null() {
            continue;
        }
        let path = path.child(key);
        for field in ["name", "kind"] {
            if source.text(field).is_empty() {
                errors.required(&path.child(field), "");
            }
        }
        let group = source.text("apiGroup");
        if group.is_empty() && source.text("kind") != "PersistentVolumeClaim" {
            errors.invalid(&path, source.text("kind"), "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
        }
        if !group.is_empty() {
            check::each(identifier::dns1123_subdomain(group), group, &path.child("apiGroup"), errors);
        }
    }
}

/// `volumeMode` of claims and volumes.
pub fn volume_mode(spec: &Value, path: &Path, errors: &mut Errors) {
    let mode = spec.text("volumeMode");
    if spec.has("volumeMode") && !matches!(mode, "Block" | "Filesystem") {
        errors.not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

fn key_to_paths(source: &Value, path: &Path, errors: &mut Errors) {
    for (index, item) in source.items("items").iter().enumerate() {
        key_to_path(item, &path.child("items").index(index), errors);
    }
}

fn key_to_path(item: &Value, path: &Path, errors: &mut Errors) {
    required(item, "key", path, errors);
    required(item, "path", path, errors);
    check::descending_not_reserved(item.text("path"), &path.child("path"), errors);
    check::file_mode(item.at("mode"), &path.child("mode"), errors);
}

fn downward_item(item: &Value, path: &Path, errors: &mut Errors) {
    required(item, "path", path, errors);
    check::descending_not_reserved(item.text("path"), &path.child("path"), errors);
    if item.has("fieldRef") {
        environment::field_selector(item.at("fieldRef"), VOLUME_FIELDS, &path.child("fieldRef"), errors);
        if item.has("resourceFieldRef") {
            errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if item.has("resourceFieldRef") {
        environment::resource_selector(item.at("resourceFieldRef"), true, &path.child("resourceFieldRef"), errors);
    } else {
        errors.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    check::file_mode(item.at("mode"), &path.child("mode"), errors);
}

fn projected(source: &Value, path: &Path, errors: &mut Errors) {
    check::file_mode(source.at("defaultMode"), &path.child("defaultMode"), errors);
    let mut taken: Vec<String> = Vec::new();
    for (index, part) in source.items("sources").iter().enumerate() {
        let at = path.child("sources").index(index);
        let mut count = 0;
        let mut first = |key: &str, errors: &mut Errors| {
            if !part.has(key) {
                return false;
            }
            if count > 0 {
                errors.forbidden(&at.child(key), "may not specify more than 1 volume type per source");
                return false;
            }
            count += 1;
            true
        };
        let mut claim = |text: &str, owner: &Value, errors: &mut Errors| {
            if text.is_empty() {
                return;
            }
            if taken.iter().any(|other| other == text) {
                errors.invalid(path, owner.clone(), "conflicting duplicate paths");
            } else {
                taken.push(text.to_owned());
            }
        };
        for key in ["secret", "configMap"] {
            if first(key, errors) {
                let (source, at) = (part.at(key), at.child(key));
                required(source, "name", &at, errors);
                for (index, item) in source.items("items").iter().enumerate() {
                    key_to_path(item, &at.child("items").index(index), errors);
                    claim(item.text("path"), source.at("name"), errors);
                }
            }
        }
        if first("downwardAPI", errors) {
            for item in part.at("downwardAPI").items("items") {
                downward_item(item, &at.child("downwardAPI"), errors);
                claim(item.text("path"), item.at("path"), errors);
            }
        }
        if first("serviceAccountToken", errors) {
            let token = part.at("serviceAccountToken");
            let at = at.child("serviceAccountToken");
            let seconds = token.int("expirationSeconds").unwrap_or(0);
            if seconds < 600 {
                errors.invalid(&at.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds > 1 << 32 {
                errors.invalid(&at.child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds");
            }
            if token.text("path").is_empty() {
                errors.required(&path.child("path"), "");
            } else {
                check::descending_not_reserved(token.text("path"), &path.child("path"), errors);
            }
        }
        if first("clusterTrustBundle", errors) {
            let bundle = part.at("clusterTrustBundle");
            let at = at.child("clusterTrustBundle");
            match (bundle.has("name"), bundle.has("signerName")) {
                (true, true) => {
                    let shown = crate::internal::compact("ClusterTrustBundleProjection", bundle);
                    errors.add_shown(api::field::ErrorType::Invalid, &at, shown, "only one of name and signerName may be used")
                }
                (false, false) => errors.required(&at, "either name or signerName must be specified"),
                _ => {}
            }
            if bundle.text("path").is_empty() {
                errors.required(&at.child("path"), "");
            }
            check::descending_not_reserved(bundle.text("path"), &at.child("path"), errors);
            claim(bundle.text("path"), bundle.at("path"), errors);
        }
    }
}

/// When images are pulled.
pub fn pull_policy(policy: &str, path: &Path, errors: &mut Errors) {
    match policy {
        "Always" | "IfNotPresent" | "Never" => {}
        "" => errors.required(path, ""),
        other => errors.not_supported(path, other, &["Always", "IfNotPresent", "Never"]),
    }
}
