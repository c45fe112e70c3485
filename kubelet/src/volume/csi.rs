//! `csi`: a volume that a driver makes for this pod alone. Upstream: pkg/volume/csi

use futures::FutureExt;

use super::Plugin;
use crate::csi::{data, mount};

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: data::PLUGIN_DIR,
    can: |volume| volume.csi.is_some(),
    set_up: |context| async move { mount::inline(&context).await }.boxed(),
    // Drivers may ask to be called again and again (`requiresRepublish`).
    refreshes: true,
};
