//! Image references, as far as defaulting needs them.
//!
//! Upstream: pkg/util/parsers

/// The tag of an image reference: `latest` where neither tag nor digest is given, empty where it has only a digest or is malformed.
pub fn tag(image: &str) -> &str {
    if image.is_empty() || !image.bytes().all(|byte| byte.is_ascii_graphic()) {
        return "";
    }
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let (repository, tag) = match name.rfind(':') {
        Some(at) if !name[at..].contains('/') => (&name[..at], Some(&name[at + 1..])),
        _ => (name, None),
    };
    let path = match repository.split_once('/') {
        Some((host, path)) if host.contains('.') || host.contains(':') || host == "localhost" => path,
        _ => repository,
    };
    let path_ok = !path.is_empty()
        && path.split('/').all(|part| {
            let bytes = part.as_bytes();
            matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if plain(*first) && plain(*last))
                && bytes.iter().all(|&byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
        });
    if !path_ok || repository.len() > 255 {
        return "";
    }
    match (tag, digest) {
        (Some(tag), _) => tag,
        (None, Some(_)) => "",
        (None, None) => "latest",
    }
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `Always` for images whose content may change under their name, else `IfNotPresent`.
pub fn default_pull_policy(image: &str) -> &'static str {
    if tag(image) == "latest" { "Always" } else { "IfNotPresent" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_untagged_and_latest_images_are_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:v1", "IfNotPresent"),
            ("nginx@sha256:0000000000000000000000000000000000000000000000000000000000000000", "IfNotPresent"),
            ("registry.example/app:v1", "IfNotPresent"),
            ("Bad Value!", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(default_pull_policy(image), policy, "{image}");
        }
    }
}
