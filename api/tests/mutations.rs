//! Broken input from strangers: mutated samples go through every decoder. Nothing may panic or run away; what is accepted must be stable.

use std::path::PathBuf;

use api::patch::{Patch, PatchType};
use api::schema::{FieldValidation, Schema};
use api::selector::{FieldSelector, LabelSelector};

/// A small generator of pseudo-random numbers (xorshift), so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }

    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.next(4) {
            if out.is_empty() {
                break;
            }
            let at = self.next(out.len());
            match self.next(5) {
                0 => out[at] = self.next(256) as u8,
                1 => out.truncate(at),
                2 => out.insert(at, b"{}[]\",:0-9eE.\\\xff\x00"[self.next(16)]),
                3 => {
                    out.remove(at);
                }
                _ => {
                    let end = (at + self.next(40)).min(out.len());
                    let piece = out[at..end].to_vec();
                    let to = self.next(out.len());
                    out.splice(to..to, piece);
                }
            }
        }
        out
    }
}

fn samples() -> Vec<(Vec<u8>, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/wire");
    if !folder.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "no samples at {}", folder.display());
        eprintln!("SKIPPED: no samples at {}", folder.display());
        return Vec::new();
    }
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut json: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    json.sort();
    json.into_iter().map(|path| (std::fs::read(&path).unwrap(), std::fs::read(path.with_extension("pb")).unwrap())).collect()
}

#[test]
fn mutated_bodies_are_refused_or_read_but_never_fatal() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let pod = Schema::builtin("", "v1", "Pod").unwrap();
    let crd = Schema::builtin("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    for (json, protobuf) in samples() {
        for _ in 0..40 {
            let body = random.mutate(&json);
            for schema in [&pod, &crd] {
                if let Ok(decoded) = schema.decode(&body, FieldValidation::Strict) {
                    let again = schema.decode_ref(&decoded.object, FieldValidation::Strict).unwrap();
                    assert_eq!(again.object, decoded.object, "decoding is not stable for {}", String::from_utf8_lossy(&body));
                }
            }
            let _ = api::yaml::decode(&body);
            let _ = api::json::syntax_error(&body);
            let _ = LabelSelector::parse(&String::from_utf8_lossy(&body));
            let _ = FieldSelector::parse(&String::from_utf8_lossy(&body));
            for kind in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
                if let Ok(patch) = Patch::parse(kind, &body, FieldValidation::Warn) {
                    let _ = patch.apply(
                        &pod,
                        serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}),
                        FieldValidation::Strict,
                    );
                }
            }
            let message = random.mutate(&protobuf);
            if let Ok(object) = api::proto::decode(&message) {
                let _ = api::proto::encode(&object);
            }
        }
    }
}
