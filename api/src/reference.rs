//! For tests: upstream's reference data beside the project.

use std::path::PathBuf;

/// The folder `../shared/reference`, or `None` with a loud line where it is absent. CI has it: under `CI` its absence fails the test.
pub(crate) fn folder() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "no reference data at {}", path.display());
    eprintln!("SKIPPED: no reference data at {}", path.display());
    None
}

/// A JSON document in the reference folder.
pub(crate) fn json(name: &str) -> Option<serde_json::Value> {
    let text = std::fs::read(folder()?.join(name)).unwrap();
    Some(serde_json::from_slice(&text).unwrap())
}

/// The samples `wire/<name>.json` with their protobuf twins.
pub(crate) fn wire() -> Vec<(String, serde_json::Value, Vec<u8>)> {
    let Some(folder) = folder() else { return Vec::new() };
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder.join("wire")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let object = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            out.push((name, object, std::fs::read(path.with_extension("pb")).unwrap()));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}
