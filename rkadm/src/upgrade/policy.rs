//! Which upgrades may be done. Pure.
//! Upstream: cmd/kubeadm/app/phases/upgrade/policy.go.

use crate::version::{self, Version};

/// Every reason against going from `current` to `target` with this rkadm and these kubelets.
pub fn check<'a>(current: &str, target: &str, own: &str, kubelets: impl Iterator<Item = &'a str>) -> Vec<String> {
    let (Some(now), Some(then), Some(own)) = (version::parse(current), version::parse(target), version::parse(own)) else {
        return vec![format!("one of the versions {current:?}, {target:?} cannot be read")];
    };
    let mut problems = Vec::new();
    let minors = |a: &Version, b: &Version| i64::from(b.minor) - i64::from(a.minor);
    if then.major != now.major {
        problems.push(format!("{then} is another major version than {now}"));
    } else if minors(&now, &then) > 1 {
        problems.push(format!(
            "{then} is more than one minor version after {now}: upgrade to v{}.{} first",
            now.major,
            now.minor + 1
        ));
    } else if then.order() < now.order() {
        problems.push(format!("{then} is older than {now}: a control plane is not downgraded; restore a snapshot instead"));
    }
    if then.order() > own.order() {
        problems
            .push(format!("specified version to upgrade to {then} is higher than the rkadm version {own}: upgrade rkadm first"));
    }
    for kubelet in kubelets {
        let Some(kubelet) = version::parse(kubelet) else { continue };
        // The version skew policy: a kubelet may be up to three minor versions older than the API server, never newer.
        if minors(&kubelet, &then) > 3 {
            problems.push(format!("a kubelet is at {kubelet}, more than three minor versions before {then}: upgrade it first"));
        }
        if minors(&kubelet, &then) < 0 {
            problems.push(format!("a kubelet is at {kubelet}, newer than {then}"));
        }
    }
    problems.dedup();
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skew_policy_is_kept() {
        for (current, target, own, kubelet, wanted) in [
            ("v1.36.0", "v1.36.1", "v1.36.1", "v1.36.0", None),
            ("v1.36.0", "v1.37.0", "v1.37.0", "v1.36.0", None),
            ("v1.36.0", "v1.36.0", "v1.36.0", "v1.36.0", None),
            ("v1.36.0", "v1.38.0", "v1.38.0", "v1.36.0", Some("more than one minor")),
            ("v1.36.2", "v1.36.1", "v1.36.2", "v1.36.0", Some("older than")),
            ("v1.36.0", "v1.36.1", "v1.36.0", "v1.36.0", Some("higher than the rkadm version")),
            ("v1.36.0", "v1.37.0", "v1.37.0", "v1.33.0", Some("three minor versions")),
            ("v1.36.0", "v1.36.1", "v1.36.1", "v1.37.0", Some("newer than")),
            ("v1.36.0", "v2.0.0", "v2.0.0", "v1.36.0", Some("another major")),
            ("x", "v1.36.1", "v1.36.1", "v1.36.0", Some("cannot be read")),
        ] {
            let problems = check(current, target, own, [kubelet].into_iter()).join("; ");
            match wanted {
                None => assert_eq!(problems, "", "{current} -> {target}"),
                Some(text) => assert!(problems.contains(text), "{current} -> {target}: {problems}"),
            }
        }
    }
}
