//! Names of cgroups, as cgroupfs and as systemd write them. Upstream: pkg/kubelet/cm/cgroup_manager_linux.go CgroupName

/// Who owns the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Plain directories.
    Cgroupfs,
    /// Slices.
    Systemd,
}

/// A cgroup as a list of parts below the root.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Name(Vec<String>);

impl Name {
    /// The one at `path`.
    pub fn root(path: &str) -> Self {
        Self(path.split('/').filter(|part| !part.is_empty()).map(|part| part.trim_end_matches(".slice").to_owned()).collect())
    }

    /// A child.
    pub fn child(&self, part: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(part.to_owned());
        Self(parts)
    }

    /// The absolute path below the mount.
    pub fn path(&self, driver: Driver) -> String {
        match driver {
            Driver::Cgroupfs => format!("/{}", self.0.join("/")),
            Driver::Systemd => {
                let (mut out, mut prefix) = (String::new(), String::new());
                for part in &self.0 {
                    // systemd reads a dash as a level, so none may remain within a part.
                    let part = part.replace('-', "_");
                    prefix = if prefix.is_empty() { part } else { format!("{prefix}-{part}") };
                    out.push_str(&format!("/{prefix}.slice"));
                }
                if out.is_empty() { "/".to_owned() } else { out }
            }
        }
    }
}

/// The uid in the last part of a pod's cgroup; `None` for other cgroups.
pub fn pod_uid(entry: &str, driver: Driver) -> Option<String> {
    match driver {
        Driver::Cgroupfs => entry.strip_prefix("pod").map(str::to_owned),
        Driver::Systemd => {
            let last = entry.strip_suffix(".slice")?.rsplit('-').next()?;
            last.strip_prefix("pod").map(|uid| uid.replace('_', "-"))
        }
    }
    .filter(|uid| !uid.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams_for_both_drivers() {
        let name = Name::root("/").child("kubepods").child("burstable").child("pod12-34");
        assert_eq!(name.path(Driver::Cgroupfs), "/kubepods/burstable/pod12-34");
        assert_eq!(name.path(Driver::Systemd), "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_34.slice");
        assert_eq!(pod_uid("kubepods-burstable-pod12_34.slice", Driver::Systemd).as_deref(), Some("12-34"));
        assert_eq!(pod_uid("pod12-34", Driver::Cgroupfs).as_deref(), Some("12-34"));
        assert_eq!(pod_uid("burstable", Driver::Cgroupfs), None);
        assert_eq!(Name::root("/").path(Driver::Systemd), "/");
    }
}
