//! `image`: the files of an OCI image, mounted by the runtime. Upstream: pkg/volume/image

use futures::FutureExt;

use super::{Plugin, Ready, VolumeError};
use crate::kubelet::Kubelet;

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: "kubernetes.io~image",
    can: |volume| volume.image.is_some(),
    set_up: |context| {
        async move {
            supported(context.kubelet).await?;
            let source = context.volume.image.clone().unwrap_or_default();
            let image = source.reference.unwrap_or_default();
            let policy = source.pull_policy.unwrap_or_else(|| crate::pod::defaults::pull_policy(&image).to_owned());
            let pulled = crate::image::ensure(context.kubelet, context.pod, None, &image, &policy).await;
            let pulled = pulled.map_err(|error| VolumeError(format!("{}: {}", error.reason, error.message)))?;
            Ok(Ready { image: Some(pulled.reference), read_only: true, ..Default::default() })
        }
        .boxed()
    },
    refreshes: false,
};

/// Older runtimes would fail with words that help nobody.
async fn supported(kubelet: &Kubelet) -> Result<(), VolumeError> {
    let version = kubelet.cri.version().await.map_err(|status| VolumeError(status.message().to_owned()))?;
    if mounts_images(&version.runtime_name, &version.runtime_version) {
        return Ok(());
    }
    Err(VolumeError(format!(
        "image volumes are not supported by the container runtime {} {}: containerd 2.1 or newer is needed",
        version.runtime_name, version.runtime_version
    )))
}

fn mounts_images(runtime: &str, version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '~', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    runtime != "containerd" || version >= (2, 1)
}

#[cfg(test)]
mod tests {
    use super::mounts_images;

    #[test]
    fn containerd_mounts_images_since_2_1() {
        for (runtime, version, yes) in [
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "v2.0.5", false),
            ("containerd", "v2.1.0-rc.1", true),
            ("containerd", "3.0", true),
            ("cri-o", "1.33.0", true),
        ] {
            assert_eq!(mounts_images(runtime, version), yes, "{runtime} {version}");
        }
    }
}
