//! `image`: the files of an OCI image, mounted by the runtime. Upstream: pkg/volume/image

use futures::FutureExt;

use super::{Plugin, Ready, VolumeError};

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: "kubernetes.io~image",
    can: |volume| volume.image.is_some(),
    set_up: |context| {
        async move {
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
