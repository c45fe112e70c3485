//! Images: present or pulled before a container starts. Upstream: pkg/kubelet/images/image_manager.go

pub mod credentials;
pub mod gc;
pub mod provider;

use std::sync::Arc;
use std::time::Duration;

use client::events::Kind;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::kubelet::Kubelet;
use crate::pod;
use crate::runtime::security::ImageUser;
use provider::Providers;

/// Pulls in progress and failures.
pub struct Images {
    slots: Option<Arc<Semaphore>>,
    /// Programs that give credentials.
    pub providers: Providers,
    /// When images were seen and used.
    pub(crate) seen: parking_lot::Mutex<gc::Seen>,
    rate: Rate,
    backoff: Backoff,
    failures: parking_lot::Mutex<std::collections::HashMap<String, (Instant, String)>>,
}

/// An image that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pulled {
    /// The runtime's name for it.
    pub reference: String,
    /// The user it asks for.
    pub user: ImageUser,
}

/// Why a container waits for its image: reason and message of its state.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageError {
    /// `ErrImagePull`, `ImagePullBackOff`, …
    pub reason: &'static str,
    /// For a person.
    pub message: String,
    /// When to try again.
    pub retry: Duration,
}

impl Images {
    /// `parallel`: pulls at once, `None` for any number; `qps` and `burst` bound how many begin per second (0: any number).
    pub fn new(parallel: Option<usize>, qps: i32, burst: i32, providers: Providers) -> Self {
        /// Upstream: MaxContainerBackOff.
        const MAX: Duration = Duration::from_secs(300);
        Self {
            slots: parallel.map(|n| Arc::new(Semaphore::new(n))),
            providers,
            seen: parking_lot::Mutex::default(),
            rate: Rate::new(qps, burst),
            backoff: Backoff::new(MAX),
            failures: parking_lot::Mutex::default(),
        }
    }

    /// Forgets a pod's failures.
    pub fn forget(&self, uid: &str) {
        self.backoff.forget(uid);
        self.failures.lock().retain(|key, _| !key.starts_with(uid));
    }
}

/// A token bucket.
struct Rate {
    qps: f64,
    burst: f64,
    state: parking_lot::Mutex<(f64, Instant)>,
}

impl Rate {
    fn new(qps: i32, burst: i32) -> Self {
        let burst = f64::from(burst.max(1));
        Self { qps: f64::from(qps), burst, state: parking_lot::Mutex::new((burst, Instant::now())) }
    }

    /// Whether another may begin now.
    fn take(&self) -> bool {
        if self.qps <= 0.0 {
            return true;
        }
        let mut state = self.state.lock();
        let now = Instant::now();
        let tokens = (state.0 + now.saturating_duration_since(state.1).as_secs_f64() * self.qps).min(self.burst);
        let taken = tokens >= 1.0;
        *state = (if taken { tokens - 1.0 } else { tokens }, now);
        taken
    }
}

/// Name with a tag, as pulled; `None` where it is no image name.
pub(crate) fn with_tag(image: &str) -> Option<String> {
    let valid = !image.is_empty()
        && image.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@+[]".contains(&byte))
        && !image.starts_with(['/', ':', '@', '-', '.'])
        && !image.ends_with(['/', ':', '@'])
        && !image.contains("//");
    if !valid {
        return None;
    }
    let name_end = image.find('@').unwrap_or(image.len());
    let last = image[..name_end].rsplit('/').next().unwrap_or("");
    let path = image[..name_end]
        .split('/')
        .skip(usize::from(image.contains('/') && image.split('/').next().is_some_and(|host| host.contains(['.', ':']))))
        .collect::<Vec<_>>()
        .join("/");
    let repository = path.split(':').next().unwrap_or("");
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    Some(if image.contains('@') || last.contains(':') { image.to_owned() } else { format!("{image}:latest") })
}

/// Makes sure the image is there, by its pull policy. `container`: for events.
///
/// # Errors
/// It is not; the reason and message go into the container's status.
pub async fn ensure(
    kubelet: &Kubelet,
    pod: &Pod,
    container: Option<&Container>,
    image: &str,
    policy: &str,
) -> Result<Pulled, ImageError> {
    let event = |kind, reason: &str, message: String| match container {
        Some(container) => kubelet.container_event(pod, container, kind, reason, message),
        None => kubelet.event(pod, kind, reason, message),
    };
    let fail = |reason, message: String, retry| ImageError { reason, message, retry };
    let handler = "";
    let Some(name) = with_tag(image) else {
        let message =
            format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format");
        event(Kind::Warning, "InspectFailed", message.clone());
        return Err(fail("InvalidImageName", message, Duration::from_secs(60)));
    };
    if policy != "Always" {
        let present = kubelet.cri.image_status(&name, handler).await.map_err(|status| {
            let message = format!("Failed to inspect image {name:?}: {}", status.message());
            event(Kind::Warning, "InspectFailed", message.clone());
            fail("ImageInspectError", message, Duration::from_secs(10))
        })?;
        if let Some(present) = present {
            event(
                Kind::Normal,
                "Pulled",
                format!("Container image \"{image}\" already present on machine and can be accessed by the pod"),
            );
            return Ok(pulled(present));
        }
        if policy == "Never" {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            event(Kind::Warning, "ErrImageNeverPull", message.clone());
            return Err(fail("ErrImageNeverPull", message, Duration::from_secs(10)));
        }
    }
    let key = format!("{}_{name}", pod::uid(pod));
    let last = kubelet.images.failures.lock().get(&key).cloned();
    if let Some((failed, why)) = &last
        && let Some((wait, _)) = kubelet.images.backoff.remaining(&key, *failed)
    {
        event(Kind::Normal, "BackOff", format!("Back-off pulling image \"{image}\""));
        // Looked at again before the wait is over: the image may come by another way.
        return Err(fail("ImagePullBackOff", format!("Back-off pulling image \"{image}\": {why}"), wait.min(LOOK_AGAIN)));
    }
    event(Kind::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let asked = Instant::now();
    let slot = match &kubelet.images.slots {
        Some(slots) => slots.clone().acquire_owned().await.ok(),
        None => None,
    };
    let began = Instant::now();
    let limited = !kubelet.images.rate.take();
    let credentials = credentials::for_image(kubelet, pod, &name).await;
    let sandbox = crate::containers::sandbox_config_for_pull(kubelet, pod);
    let mut outcome = Err(tonic::Status::unknown("pull QPS exceeded"));
    for credential in credentials.into_iter().map(Some).chain([None]).take(if limited { 0 } else { usize::MAX }) {
        outcome = kubelet.cri.pull_image(&name, handler, credential, sandbox.clone()).await;
        if outcome.is_ok() {
            break;
        }
    }
    drop(slot);
    match outcome {
        Ok(reference) => {
            let found = kubelet.cri.image_status(&reference, handler).await.ok().flatten();
            let size = found.as_ref().map_or(0, |image| image.size);
            let (took, waited) = (round(began.elapsed()), round(asked.elapsed()));
            let seconds = &crate::metrics::metrics().image_pull_seconds;
            seconds.with_label_values(&[size_bucket(size)]).observe(began.elapsed().as_secs_f64());
            event(
                Kind::Normal,
                "Pulled",
                format!(
                    "Successfully pulled image \"{image}\" in {took} ({waited} including waiting). Image size: {size} bytes."
                ),
            );
            kubelet.images.forget(&key);
            Ok(found.map_or(Pulled { reference, user: ImageUser::default() }, pulled))
        }
        Err(status) => {
            let why = match limited {
                true => status.message().to_owned(),
                false => format!("rpc error: code = {:?} desc = {}", status.code(), status.message()),
            };
            event(Kind::Warning, "Failed", format!("Failed to pull image \"{image}\": {why}"));
            let (reason, detail) = match status.message() {
                text if text.contains("RegistryUnavailable") => ("RegistryUnavailable", text.to_owned()),
                text if text.contains("SignatureValidationFailed") => ("SignatureValidationFailed", text.to_owned()),
                _ => ("ErrImagePull", why),
            };
            let now = Instant::now();
            kubelet.images.backoff.next(&key, now);
            let wait = kubelet.images.backoff.remaining(&key, now).map_or(INITIAL_WAIT, |(wait, _)| wait);
            kubelet.images.failures.lock().insert(key, (now, format!("{reason}: {detail}")));
            // Soon after, the state turns from the error to the back-off, as users know it.
            Err(fail(reason, detail, wait.min(Duration::from_secs(2))))
        }
    }
}

/// The label for an image's size. Upstream: pkg/kubelet/metrics GetImageSizeBucket
fn size_bucket(bytes: u64) -> &'static str {
    const BUCKETS: [(u64, &str); 11] = [
        (10 << 20, "0-10MB"),
        (100 << 20, "10MB-100MB"),
        (500 << 20, "100MB-500MB"),
        (1 << 30, "500MB-1GB"),
        (5 << 30, "1GB-5GB"),
        (10 << 30, "5GB-10GB"),
        (20 << 30, "10GB-20GB"),
        (30 << 30, "20GB-30GB"),
        (40 << 30, "30GB-40GB"),
        (60 << 30, "40GB-60GB"),
        (100 << 30, "60GB-100GB"),
    ];
    match bytes {
        0 => "N/A",
        bytes => BUCKETS.iter().find(|(bound, _)| bytes <= *bound).map_or("GT100GB", |(_, name)| name),
    }
}

const INITIAL_WAIT: Duration = Duration::from_secs(10);
/// How often a pod whose image cannot be pulled looks whether it is there by now. Upstream: the pod worker's backOffPeriod.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

fn round(duration: Duration) -> String {
    component::duration::format(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(0)))
}

fn pulled(image: crate::cri::v1::Image) -> Pulled {
    Pulled { reference: image.id, user: ImageUser { uid: image.uid.map(|uid| uid.value), name: image.username } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pulls_begin_at_the_rate_allowed() {
        let rate = Rate::new(1, 2);
        assert_eq!([rate.take(), rate.take(), rate.take()], [true, true, false]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([rate.take(), rate.take()], [true, false]);
        assert!((0..100).all(|_| Rate::new(0, 1).take()), "no limit");
    }

    #[test]
    fn names_get_their_tag_and_bad_ones_are_refused() {
        for (image, name) in [
            ("busybox", Some("busybox:latest")),
            ("a/b:1", Some("a/b:1")),
            ("localhost:5000/a", Some("localhost:5000/a:latest")),
            ("a@sha256:0", Some("a@sha256:0")),
            ("", None),
            ("A", None),
            ("a b", None),
            ("a//b", None),
            ("/a", None),
            ("R.io/a:V1", Some("R.io/a:V1")),
        ] {
            assert_eq!(with_tag(image).as_deref(), name, "{image}");
        }
    }
}
