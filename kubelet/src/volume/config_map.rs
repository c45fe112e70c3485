//! `configMap`. Upstream: pkg/volume/configmap

use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath};

use super::atomic_writer::{self, File, Payload};
use super::{Context, Plugin, Ready, VolumeError, fs_group};

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: "kubernetes.io~configmap",
    can: |volume| volume.config_map.is_some(),
    set_up: |context| async move { set_up(&context).await }.boxed(),
    refreshes: true,
};

async fn set_up(context: &Context<'_>) -> Result<Ready, VolumeError> {
    let source = context.volume.config_map.clone().unwrap_or_default();
    let map = context.kubelet.objects.follow_config_map(context.pod, &source.name).await?;
    let optional = source.optional.unwrap_or(false);
    let map = match map {
        Some(map) => map,
        None if optional => Default::default(),
        None => return Err(VolumeError(format!("configmap {:?} not found", source.name))),
    };
    let payload = payload(&map, source.items.as_deref(), source.default_mode.unwrap_or(0o644), optional)?;
    std::fs::create_dir_all(&context.dir)?;
    atomic_writer::write(&context.dir, &payload, |dir| fs_group::apply(context.pod, dir, true))?;
    Ok(Ready { path: context.dir.clone(), read_only: true, ..Default::default() })
}

/// The files for a ConfigMap's keys.
pub fn payload(map: &ConfigMap, items: Option<&[KeyToPath]>, default_mode: i32, optional: bool) -> Result<Payload, VolumeError> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    project(text.chain(binary).collect(), items, default_mode, optional, "configmap")
}

/// The files for keys: all of them, or those of `items` under their paths.
pub fn project(
    data: std::collections::BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: i32,
    optional: bool,
    what: &str,
) -> Result<Payload, VolumeError> {
    let file = |data: &[u8], mode: Option<i32>| File {
        data: data.to_vec(),
        mode: u32::try_from(mode.unwrap_or(default_mode)).unwrap_or(0o644) & 0o777,
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, data)| (key.to_owned(), file(data, None))).collect());
    };
    let mut out = Payload::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(data) => {
                out.insert(item.path.clone(), file(data, item.mode));
            }
            None if optional => {}
            None => {
                return Err(VolumeError(
                    format!("{what} references non-existent {what} key: {}", item.key).replace("configmap key", "config key"),
                ));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_become_files() {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1"}, "binaryData": {"b": "AA=="}})).unwrap();
        let all = payload(&map, None, 0o600, false).unwrap();
        assert_eq!(all["a"], File { data: b"1".to_vec(), mode: 0o600 });
        assert_eq!(all["b"].data, [0]);
        let items: Vec<KeyToPath> = serde_json::from_value(json!([{"key": "a", "path": "x/y", "mode": 256}])).unwrap();
        assert_eq!(payload(&map, Some(&items), 0o644, false).unwrap()["x/y"].mode, 0o400);
        let items: Vec<KeyToPath> = serde_json::from_value(json!([{"key": "z", "path": "z"}])).unwrap();
        assert_eq!(payload(&map, Some(&items), 0o644, false).unwrap_err().0, "configmap references non-existent config key: z");
        assert!(payload(&map, Some(&items), 0o644, true).unwrap().is_empty());
    }
}
