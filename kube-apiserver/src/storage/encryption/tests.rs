use super::*;

const SECRET_32: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const SECRET_16: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";

fn place(path: &str, group: &str, plural: &str) -> Place {
    Place { path: path.into(), group: group.into(), plural: plural.into() }
}

fn load(dir: &tempfile::TempDir, providers: &str) -> Result<Encryption, String> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, '*.apps']\n  providers:\n{providers}"
    );
    let file = dir.path().join("encryption.yaml");
    std::fs::write(&file, text).unwrap();
    let places = vec![place("secrets", "", "secrets"), place("deployments", "apps", "deployments"), place("pods", "", "pods")];
    Encryption::load(&file, "/registry/", places)
}

#[test]
fn every_provider_reads_what_it_wrote_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["aesgcm", "aescbc", "secretbox"] {
        let row = format!("  - {kind}: {{keys: [{{name: k1, secret: {SECRET_32}}}]}}\n");
        let encryption = load(&dir, &row).unwrap();
        for plain in [&b""[..], b"x", b"0123456789abcdef", &[7; 5000]] {
            let sealed = encryption.seal("/registry/secrets/a/b", plain).unwrap();
            assert!(sealed.starts_with(format!("k8s:enc:{kind}:v1:k1:").as_bytes()), "{kind}");
            let (opened, stale) = encryption.open("/registry/secrets/a/b", &sealed).unwrap();
            assert_eq!((opened.as_ref(), stale), (plain, false), "{kind}");
        }
        let sealed = encryption.seal("/registry/secrets/a/b", b"x").unwrap();
        // Only aesgcm binds a value to its place.
        assert_eq!(encryption.open("/registry/secrets/a/other", &sealed).is_err(), kind == "aesgcm");
        let mut broken = sealed.into_owned();
        let last = broken.len() - 1;
        broken[last] ^= 1;
        broken[last - 16] ^= 1;
        assert!(encryption.open("/registry/secrets/a/b", &broken).map(|(plain, _)| *plain != b"x"[..]).unwrap_or(true));
        assert!(encryption.open("/registry/secrets/a/b", format!("k8s:enc:{kind}:v1:k1:").as_bytes()).is_err());
        // Other resources stay as they are.
        assert_eq!(encryption.seal("/registry/pods/a/b", b"x").unwrap().as_ref(), b"x");
        assert!(encryption.seal("/registry/deployments/a/b", b"x").unwrap().starts_with(b"k8s:enc:"));
    }
}

#[test]
fn keys_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let encryption = load(&dir, "  - identity: {}\n").unwrap();
    let plain = encryption.seal("/registry/secrets/a/b", b"x").unwrap().into_owned();
    assert_eq!(plain, b"x");
    let old = format!("{{name: old, secret: {SECRET_16}}}");
    let new = format!("{{name: new, secret: {SECRET_32}}}");
    let first = load(&dir, &format!("  - aescbc: {{keys: [{old}]}}\n  - identity: {{}}\n")).unwrap();
    assert!(first.open("/registry/secrets/a/b", &plain).unwrap().1, "plain text is stale once there is a key");
    let by_old = first.seal("/registry/secrets/a/b", b"x").unwrap().into_owned();
    let second = load(&dir, &format!("  - aescbc: {{keys: [{new}, {old}]}}\n")).unwrap();
    let (value, stale) = second.open("/registry/secrets/a/b", &by_old).unwrap();
    assert_eq!((value.as_ref(), stale), (&b"x"[..], true));
    assert!(second.open("/registry/secrets/a/b", &plain).is_err(), "nobody reads plain text any more");
    let third = load(&dir, &format!("  - aescbc: {{keys: [{new}]}}\n  - identity: {{}}\n")).unwrap();
    assert!(third.open("/registry/secrets/a/b", &by_old).is_err());
    let by_new = second.seal("/registry/secrets/a/b", b"x").unwrap();
    assert!(!third.open("/registry/secrets/a/b", &by_new).unwrap().1);
}

#[test]
fn a_value_that_upstream_wrote_is_read() {
    // aescbc: IV of zeros, then AES-128-CBC with PKCS#7 of "{}" (openssl enc -aes-128-cbc).
    let dir = tempfile::tempdir().unwrap();
    let encryption = load(&dir, &format!("  - aescbc: {{keys: [{{name: k, secret: {SECRET_16}}}]}}\n")).unwrap();
    let cipher_text = std::process::Command::new("sh")
        .args([
            "-c",
            "printf '{}' | openssl enc -aes-128-cbc -K 30313233343536373839616263646566 -iv 00000000000000000000000000000000",
        ])
        .output()
        .unwrap()
        .stdout;
    let value = [b"k8s:enc:aescbc:v1:k:".as_slice(), &[0; 16], &cipher_text].concat();
    assert_eq!(encryption.open("/registry/secrets/a/b", &value).unwrap().0.as_ref(), b"{}");
}

#[test]
fn wrong_configurations_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("  - kms: {name: x, endpoint: unix:///x}\n", "not yet supported"),
        ("  - {}\n", "does not contain any of the expected providers"),
        ("  - aescbc: {keys: []}\n", "must contain at least one key"),
        ("  - aescbc: {keys: [{name: a, secret: '!'}]}\n", "must be base64 encoded"),
        ("  - secretbox: {keys: [{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}\n", "got 16, expected one of [32]"),
        ("  - aesfoo: {}\n", "unknown field"),
    ];
    for (providers, wanted) in cases {
        let error = load(&dir, providers).unwrap_err();
        assert!(error.contains(wanted), "{providers}: {error}");
    }
}
