//! Kernel settings that a node needs. Upstream: pkg/kubelet/cm/container_manager_linux.go setupKernelTunables

use std::path::Path;

/// Setting below /proc/sys and its value.
const WANTED: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Sets what differs; with `protect` (`protectKernelDefaults`) a difference is an error instead.
///
/// # Errors
/// A setting differs and must not be touched. One that cannot be set is only warned of.
pub fn set_up(root: &Path, protect: bool) -> Result<(), String> {
    for (name, wanted) in WANTED {
        let file = root.join(name);
        let Ok(have) = std::fs::read_to_string(&file) else { continue };
        let have = have.trim();
        if have == *wanted {
            continue;
        }
        if protect {
            return Err(format!("invalid kernel flag: {name}, expected value: {wanted}, actual value: {have}"));
        }
        match std::fs::write(&file, wanted) {
            Ok(()) => tracing::info!(setting = name, from = have, to = wanted, "Updated a kernel setting"),
            Err(error) => {
                tracing::warn!(setting = name, from = have, to = wanted, err = %error, "Failed to update a kernel setting")
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_made_or_demanded() {
        let temp = tempfile::tempdir().unwrap();
        let file = |name: &str| temp.path().join(name);
        std::fs::create_dir_all(file("vm")).unwrap();
        std::fs::write(file("vm/overcommit_memory"), "0\n").unwrap();
        std::fs::write(file("vm/panic_on_oom"), "0\n").unwrap();
        let error = set_up(temp.path(), true).unwrap_err();
        assert_eq!(error, "invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0");
        set_up(temp.path(), false).unwrap();
        assert_eq!(std::fs::read_to_string(file("vm/overcommit_memory")).unwrap(), "1");
        assert!(set_up(temp.path(), true).is_ok());
    }
}
