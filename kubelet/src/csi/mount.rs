//! Makes a CSI volume ready for a pod: attached, staged, published. Every step may be repeated.
//!
//! Upstream: pkg/volume/csi/csi_mounter.go, csi_attacher.go

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, SecretReference, Volume,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use kube::Api;
use serde_json::{Value, json};

use super::data::{self, Data};
use super::unique_name;
use super::v1::node_service_capability::rpc::Type as Can;
use super::v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use super::v1::{NodePublishVolumeRequest, NodeStageVolumeRequest, VolumeCapability};
use crate::kubelet::Kubelet;
use crate::objects::message;
use crate::pod;
use crate::volume::{Context, Ready, VolumeError, fs_group, mount};

/// How long a pod waits for a volume to be attached before it says so.
const ATTACH_PATIENCE: Duration = Duration::from_secs(60);

/// A volume to make ready, whether it is a PersistentVolume's or the pod's own.
#[derive(Clone, Debug, Default)]
struct Wanted {
    driver: String,
    handle: String,
    spec_id: String,
    ephemeral: bool,
    fs_type: String,
    access_mode: String,
    mount_flags: Vec<String>,
    attributes: BTreeMap<String, String>,
    read_only: bool,
    stage_secret: Option<SecretReference>,
    publish_secret: Option<SecretReference>,
}

/// Whether a pod's volume may be a CSI driver's.
pub fn may_be_csi(volume: &Volume) -> bool {
    volume.csi.is_some() || volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
}

/// A PersistentVolume of a driver.
///
/// # Errors
/// It is not ready; retried.
pub async fn persistent(
    context: &Context<'_>,
    volume: &PersistentVolume,
    source: &CSIPersistentVolumeSource,
    claim: &PersistentVolumeClaim,
    read_only: bool,
) -> Result<Ready, VolumeError> {
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(VolumeError("block volumes of CSI drivers are not supported by this kubelet".into()));
    }
    let wanted = Wanted {
        driver: source.driver.clone(),
        handle: source.volume_handle.clone(),
        spec_id: volume.metadata.name.clone().unwrap_or_default(),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        access_mode: spec.access_modes.as_ref().and_then(|modes| modes.first().cloned()).unwrap_or_default(),
        mount_flags: spec.mount_options.clone().unwrap_or_default(),
        attributes: source.volume_attributes.clone().unwrap_or_default(),
        read_only: read_only || source.read_only.unwrap_or(false),
        stage_secret: source.node_stage_secret_ref.clone(),
        publish_secret: source.node_publish_secret_ref.clone(),
        ..Default::default()
    };
    let ready = set_up(context, &wanted).await?;
    super::expand::if_needed(context, volume, source, claim, &ready.path).await?;
    Ok(ready)
}

/// A volume that lives with its pod.
///
/// # Errors
/// It is not ready; retried.
pub async fn inline(context: &Context<'_>) -> Result<Ready, VolumeError> {
    let source = context.volume.csi.clone().ok_or_else(|| VolumeError("not a CSI volume".into()))?;
    let namespace = pod::namespace(context.pod).to_owned();
    let wanted = Wanted {
        driver: source.driver,
        handle: data::ephemeral_handle(pod::uid(context.pod), &context.volume.name),
        spec_id: context.volume.name.clone(),
        ephemeral: true,
        fs_type: source.fs_type.unwrap_or_default(),
        access_mode: "ReadWriteOnce".into(),
        attributes: source.volume_attributes.unwrap_or_default(),
        read_only: source.read_only.unwrap_or(false),
        publish_secret: source
            .node_publish_secret_ref
            .map(|secret| SecretReference { name: Some(secret.name), namespace: Some(namespace) }),
        ..Default::default()
    };
    set_up(context, &wanted).await
}

async fn set_up(context: &Context<'_>, wanted: &Wanted) -> Result<Ready, VolumeError> {
    let (kubelet, pod) = (context.kubelet, context.pod);
    let driver = kubelet.csi.driver(&wanted.driver).map_err(VolumeError)?;
    let policy = policy(kubelet, wanted).await?;
    let words = |what: &str, status: tonic::Status| {
        VolumeError(format!("{what} failed: rpc error: code = {:?} desc = {}", status.code(), status.message()))
    };
    let dir = kubelet.config.pod_dir(pod::uid(pod)).join("volumes").join(data::PLUGIN_DIR).join(&wanted.spec_id);
    let target = dir.join("mount");
    let ready = Ready { path: target.clone(), read_only: wanted.read_only, ..Default::default() };
    let _turn = kubelet.csi.turn(&wanted.driver, &wanted.handle).await;
    let mounted = data::read(&dir).is_some() && mount::is_mount_point(&target);
    if mounted && !policy.requires_republish.unwrap_or(false) {
        return Ok(ready);
    }
    let attached = !wanted.ephemeral && policy.attach_required.unwrap_or(true);
    let node = &kubelet.config.node_name;
    let told = Data {
        spec_id: wanted.spec_id.clone(),
        volume_handle: wanted.handle.clone(),
        driver_name: wanted.driver.clone(),
        node_name: node.clone(),
        attachment_id: if attached { data::attachment_name(&wanted.handle, &wanted.driver, node) } else { String::new() },
        mode: if wanted.ephemeral { "Ephemeral".into() } else { "Persistent".into() },
    };
    let publish_context = if attached {
        if kubelet.csi.note_use(&unique_name(&wanted.driver, &wanted.handle), pod::uid(pod)) {
            kubelet.node.status_soon.notify_one();
        }
        attachment(kubelet, &told.attachment_id).await?
    } else {
        HashMap::new()
    };
    let group = fs_group::of(pod);
    let can = |what| {
        let driver = driver.clone();
        async move { driver.can(what).await.map_err(|status| words("NodeGetCapabilities", status)) }
    };
    let mounts_group = group.is_some() && can(Can::VolumeMountGroup).await?;
    let capability = VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: wanted.fs_type.clone(),
            mount_flags: wanted.mount_flags.clone(),
            volume_mount_group: group.filter(|_| mounts_group).map(|group| group.to_string()).unwrap_or_default(),
        })),
        access_mode: Some(AccessMode { mode: access_mode(&wanted.access_mode, can(Can::SingleNodeMultiWriter).await?) as i32 }),
    };
    // Written first: what a crash leaves half done is taken back by it.
    data::write(&dir, &told)?;
    let mut staging = PathBuf::new();
    if !wanted.ephemeral && can(Can::StageUnstageVolume).await? {
        let staged = data::staging_dir(&kubelet.config.root_dir, &wanted.driver, &wanted.handle);
        data::write(&staged, &told)?;
        staging = staged.join("globalmount");
        std::fs::create_dir_all(&staging)?;
        if !mount::is_mount_point(&staging) {
            let request = NodeStageVolumeRequest {
                volume_id: wanted.handle.clone(),
                publish_context: publish_context.clone(),
                staging_target_path: staging.to_string_lossy().into_owned(),
                volume_capability: Some(capability.clone()),
                secrets: secrets(kubelet, wanted.stage_secret.as_ref()).await?,
                volume_context: wanted.attributes.clone().into_iter().collect(),
            };
            driver.stage(request).await.map_err(|status| words("MountVolume.MountDevice", status))?;
        }
    }
    let mut volume_context: HashMap<String, String> = wanted.attributes.clone().into_iter().collect();
    if policy.pod_info_on_mount.unwrap_or(false) {
        volume_context.extend(pod_info(pod, wanted.ephemeral));
    }
    let mut publish_secrets = secrets(kubelet, wanted.publish_secret.as_ref()).await?;
    if let Some(tokens) = tokens(kubelet, pod, &policy).await? {
        let key = "csi.storage.k8s.io/serviceAccount.tokens".to_owned();
        if policy.service_account_token_in_secrets.unwrap_or(false) {
            publish_secrets.insert(key, tokens);
        } else {
            volume_context.insert(key, tokens);
        }
    }
    let request = NodePublishVolumeRequest {
        volume_id: wanted.handle.clone(),
        publish_context,
        staging_target_path: staging.to_string_lossy().into_owned(),
        target_path: target.to_string_lossy().into_owned(),
        volume_capability: Some(capability),
        readonly: wanted.read_only,
        secrets: publish_secrets,
        volume_context,
    };
    driver.publish(request).await.map_err(|status| words("MountVolume.SetUp", status))?;
    if !mounted && !mounts_group && !wanted.read_only && owns(&policy, wanted) && target.is_dir() {
        let pod = pod.clone();
        tokio::task::spawn_blocking(move || fs_group::apply(&pod, &target, false)).await.map_err(std::io::Error::other)??;
    }
    Ok(ready)
}

/// What the cluster knows of the driver; upstream's defaults where it knows nothing.
async fn policy(kubelet: &Kubelet, wanted: &Wanted) -> Result<CSIDriverSpec, VolumeError> {
    let api = kubelet.api.clone().ok_or_else(|| VolumeError("no API server is configured".into()))?;
    let object = Api::<CSIDriver>::all(api).get_opt(&wanted.driver).await.map_err(|error| VolumeError(message(&error)))?;
    let spec = object.map(|object| object.spec).unwrap_or_default();
    let mode = if wanted.ephemeral { "Ephemeral" } else { "Persistent" };
    let modes =
        spec.volume_lifecycle_modes.clone().filter(|modes| !modes.is_empty()).unwrap_or_else(|| vec!["Persistent".into()]);
    if !modes.iter().any(|other| other == mode) {
        return Err(VolumeError(format!(
            "volume mode {mode:?} not supported by driver {} (only supports {modes:?})",
            wanted.driver
        )));
    }
    Ok(spec)
}

/// Waits until the volume is attached; what the attacher says of it.
async fn attachment(kubelet: &Kubelet, name: &str) -> Result<HashMap<String, String>, VolumeError> {
    let api = kubelet.api.clone().ok_or_else(|| VolumeError("no API server is configured".into()))?;
    let objects = Api::<VolumeAttachment>::all(api);
    let deadline = tokio::time::Instant::now() + ATTACH_PATIENCE;
    let mut wait = Duration::from_millis(100);
    loop {
        let status = match objects.get_opt(name).await {
            Ok(object) => object.and_then(|object| object.status),
            Err(error) => return Err(VolumeError(message(&error))),
        };
        if let Some(status) = &status {
            if status.attached {
                return Ok(status.attachment_metadata.clone().unwrap_or_default().into_iter().collect());
            }
            if let Some(error) = &status.attach_error {
                return Err(VolumeError(format!("AttachVolume.Attach failed: {}", error.message.clone().unwrap_or_default())));
            }
        }
        if tokio::time::Instant::now() > deadline {
            return Err(VolumeError(format!("timed out waiting for external-attacher: VolumeAttachment {name} is not attached")));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

/// A Secret's values as text; empty for no reference.
pub(super) async fn secrets(
    kubelet: &Kubelet,
    reference: Option<&SecretReference>,
) -> Result<HashMap<String, String>, VolumeError> {
    let Some(reference) = reference else { return Ok(HashMap::new()) };
    let (namespace, name) = (reference.namespace.as_deref().unwrap_or(""), reference.name.as_deref().unwrap_or(""));
    let secret = kubelet.objects.secret(namespace, name).await?;
    let secret = secret.ok_or_else(|| VolumeError(format!("failed to find the secret {namespace}/{name}")))?;
    let values = secret.data.iter().flatten();
    Ok(values.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect())
}

async fn tokens(kubelet: &Kubelet, pod: &Pod, policy: &CSIDriverSpec) -> Result<Option<String>, VolumeError> {
    let mut out = serde_json::Map::new();
    for wanted in policy.token_requests.iter().flatten() {
        const LIFE: i64 = 3600;
        let seconds = wanted.expiration_seconds.unwrap_or(LIFE);
        let (token, until) = kubelet.objects.token_until(pod, &wanted.audience, seconds).await?;
        out.insert(wanted.audience.clone(), json!({"token": token, "expirationTimestamp": until.to_string()}));
    }
    Ok(if out.is_empty() { None } else { Some(Value::Object(out).to_string()) })
}

fn pod_info(pod: &Pod, ephemeral: bool) -> [(String, String); 5] {
    let account = pod::spec(pod).service_account_name.clone().unwrap_or_default();
    [
        ("pod.name", pod::name(pod).to_owned()),
        ("pod.namespace", pod::namespace(pod).to_owned()),
        ("pod.uid", pod::uid(pod).to_owned()),
        ("serviceAccount.name", account),
        ("ephemeral", ephemeral.to_string()),
    ]
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
}

/// The access mode in CSI's words.
fn access_mode(mode: &str, many_writers: bool) -> Mode {
    match (mode, many_writers) {
        ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
        ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
        ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
        ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
        _ => Mode::SingleNodeWriter,
    }
}

/// Whether the volume's files are given to the pod's group.
fn owns(policy: &CSIDriverSpec, wanted: &Wanted) -> bool {
    match policy.fs_group_policy.as_deref() {
        Some("None") => false,
        Some("File") => true,
        _ => !wanted.fs_type.is_empty() && matches!(wanted.access_mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_policies_follow_upstream() {
        for (mode, many, want) in [
            ("ReadWriteOnce", false, Mode::SingleNodeWriter),
            ("ReadWriteOnce", true, Mode::SingleNodeMultiWriter),
            ("ReadWriteOncePod", false, Mode::SingleNodeWriter),
            ("ReadWriteOncePod", true, Mode::SingleNodeSingleWriter),
            ("ReadOnlyMany", true, Mode::MultiNodeReaderOnly),
            ("ReadWriteMany", false, Mode::MultiNodeMultiWriter),
        ] {
            assert_eq!(access_mode(mode, many), want, "{mode} {many}");
        }
        let policy = |text: Option<&str>| CSIDriverSpec { fs_group_policy: text.map(str::to_owned), ..Default::default() };
        let volume = |fs: &str, mode: &str| Wanted { fs_type: fs.into(), access_mode: mode.into(), ..Default::default() };
        for (text, fs, mode, yes) in [
            (None, "ext4", "ReadWriteOnce", true),
            (None, "", "ReadWriteOnce", false),
            (Some("ReadWriteOnceWithFSType"), "ext4", "ReadWriteMany", false),
            (Some("File"), "", "ReadWriteMany", true),
            (Some("None"), "ext4", "ReadWriteOnce", false),
        ] {
            assert_eq!(owns(&policy(text), &volume(fs, mode)), yes, "{text:?} {fs} {mode}");
        }
    }
}
