use std::process::Command;

use super::*;

const YEAR: Duration = crate::LEAF_VALIDITY;

fn cluster(now: SystemTime) -> Cluster {
    Cluster {
        node_name: "node1".into(),
        advertise_address: "172.30.0.1".parse().unwrap(),
        service_addresses: vec!["10.96.0.1".parse().unwrap()],
        dns_domain: "cluster.local".into(),
        control_plane_host: None,
        apiserver_sans: vec![],
        etcd_server_sans: vec![],
        etcd_peer_sans: vec![],
        external_etcd: false,
        // Quick for the logic; RSA, the default, is made in the golden test.
        algorithm: Algorithm::EcdsaP256,
        validity: YEAR,
        ca_validity: crate::CA_VALIDITY,
        now,
    }
}

fn write_all(dir: &Path, cluster: &Cluster) -> Result<(), Error> {
    let keys = KeyPool::start(cluster.algorithm, key_count(cluster));
    let server = "https://172.30.0.1:6443";
    ensure_all(&mut Files::below(dir), Path::new("/etc/kubernetes"), cluster, server, server, &keys)
}

fn openssl(args: &[&str]) -> String {
    let output = Command::new("openssl").args(args).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What reference/kubeadm/certificates.txt says of one certificate, asked from openssl.
fn describe(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    let ext = "keyUsage,extendedKeyUsage,basicConstraints,subjectAltName";
    let text = openssl(&["x509", "-in", path, "-noout", "-subject", "-issuer", "-ext", ext]);
    let whole = openssl(&["x509", "-in", path, "-noout", "-text"]);
    let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    lines.extend(
        whole
            .lines()
            .map(str::trim)
            .filter(|l| l.starts_with("Public-Key") || l.starts_with("Signature Algorithm"))
            .map(str::to_string),
    );
    lines
}

#[test]
fn the_tree_is_kubeadms_to_the_last_name_and_openssl_verifies_it() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    write_all(dir.path(), &Cluster { algorithm: Algorithm::Rsa2048, ..cluster(now) }).unwrap();
    let kubernetes = dir.path().join("etc/kubernetes");
    for item in CERTIFICATES {
        let path = item.certificate_path(&kubernetes.join("pki"));
        let ca = item_path(&kubernetes.join("pki"), item.authority.unwrap_or(item.name));
        openssl(&["verify", "-x509_strict", "-CAfile", ca.to_str().unwrap(), path.to_str().unwrap()]);
        let key = std::fs::read_to_string(path.with_extension("key")).unwrap();
        assert!(key.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
        openssl(&["rsa", "-in", path.with_extension("key").to_str().unwrap(), "-check", "-noout"]);
        let certificate = Certificate::from_pem(&std::fs::read(&path).unwrap()).unwrap();
        let life = certificate.not_after().duration_since(certificate.not_before()).unwrap();
        let wanted = if item.authority.is_none() { crate::CA_VALIDITY } else { YEAR };
        assert_eq!(life.as_secs(), (wanted + crate::BACKDATE).as_secs(), "{}", item.name);
    }
    openssl(&["rsa", "-in", kubernetes.join("pki/sa.pub").to_str().unwrap(), "-pubin", "-noout"]);

    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/kubeadm");
    let Ok(facts) = std::fs::read_to_string(reference.join("certificates.txt")) else {
        eprintln!("SKIPPED: no reference data at {}", reference.display());
        return;
    };
    let mut compared = 0;
    for part in facts.split("## ").skip(1) {
        let (name, text) = part.split_once('\n').unwrap();
        let mut lines = text.lines().map(str::trim).peekable();
        let mut wanted = Vec::new();
        while let Some(line) = lines.next() {
            if line.starts_with("X509v3 Subject Key Identifier") {
                lines.next();
            } else if !line.starts_with("notBefore") && !line.starts_with("notAfter") {
                wanted.push(line.to_string());
            }
        }
        let mut got = describe(&kubernetes.join(name));
        wanted.sort();
        got.sort();
        assert_eq!(got, wanted, "{name}");
        compared += 1;
    }
    assert_eq!(compared, CERTIFICATES.len());

    for line in std::fs::read_to_string(reference.join("files.txt")).unwrap().lines() {
        use std::os::unix::fs::PermissionsExt as _;
        let (mode, path) = line.split_once(" ./").unwrap();
        if !path.starts_with("manifests/") {
            let real =
                std::fs::metadata(kubernetes.join(path)).unwrap_or_else(|e| panic!("{path}: {e}")).permissions().mode() & 0o7777;
            assert_eq!(format!("{real:o}"), mode, "{path}");
        }
    }
    let facts = std::fs::read_to_string(reference.join("kubeconfigs.txt")).unwrap();
    for part in facts.split("## ").skip(1) {
        let (name, text) = part.split_once('\n').unwrap();
        let wanted: Vec<_> = text.lines().take_while(|line| !line.starts_with("subject=")).collect();
        let ours = std::fs::read_to_string(kubernetes.join(name)).unwrap();
        let masked: Vec<String> = ours
            .lines()
            .map(|l| if let Some((k, _)) = l.split_once("-data: ") { format!("{k}-data: …") } else { l.into() })
            .collect();
        assert_eq!(masked, wanted, "{name}");
        let subject = text.lines().find_map(|line| line.strip_prefix("subject=")).unwrap();
        let certificate = Kubeconfig::parse(ours.as_bytes()).unwrap().certificate().unwrap().unwrap();
        assert_eq!(certificate.subject().to_string(), subject);
    }
}

#[test]
fn a_second_run_changes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(SystemTime::now());
    write_all(dir.path(), &cluster).unwrap();
    let read = || -> Vec<_> {
        CERTIFICATES
            .iter()
            .map(|item| std::fs::read(item.certificate_path(&dir.path().join("etc/kubernetes/pki"))).unwrap())
            .collect()
    };
    let before = read();
    write_all(dir.path(), &cluster).unwrap();
    assert_eq!(before, read());
}

/// What is done to a good tree, and what the refusal must name.
#[test]
fn bad_files_are_refused_with_the_file_and_the_remedy() {
    type Spoil = fn(&Path, &mut Cluster);
    let pki = |dir: &Path, file: &str| dir.join("etc/kubernetes/pki").join(file);
    let cases: &[(&str, Spoil, &[&str])] = &[
        (
            "expired leaf",
            |_, c| c.now += YEAR + Duration::from_secs(60),
            &["pki/apiserver.crt", "expired at", "certs renew apiserver"],
        ),
        ("expired CA", |_, c| c.now += crate::CA_VALIDITY + Duration::from_secs(60), &["pki/ca.crt", "expired at"]),
        ("clock behind", |_, c| c.now -= Duration::from_secs(86400), &["pki/ca.crt", "valid only from", "clock"]),
        ("other node", |_, c| c.node_name = "node2".into(), &["pki/apiserver.crt", "does not cover DNS:node2", "remove it"]),
        ("other address", |_, c| c.advertise_address = "172.30.0.9".parse().unwrap(), &["does not cover IP:172.30.0.9"]),
        (
            "foreign leaf",
            |dir, c| {
                let other = tempfile::tempdir().unwrap();
                write_all(other.path(), c).unwrap();
                for end in ["crt", "key"] {
                    let name = format!("etc/kubernetes/pki/apiserver.{end}");
                    std::fs::copy(other.path().join(&name), dir.join(&name)).unwrap();
                }
            },
            &["pki/apiserver.crt", "not signed by the authority in", "ca.crt"],
        ),
        (
            "foreign CA",
            |dir, c| {
                let other = tempfile::tempdir().unwrap();
                write_all(other.path(), c).unwrap();
                for end in ["crt", "key"] {
                    let name = format!("etc/kubernetes/pki/ca.{end}");
                    std::fs::copy(other.path().join(&name), dir.join(&name)).unwrap();
                }
            },
            &["pki/apiserver.crt", "not signed by"],
        ),
        (
            "garbage",
            |dir, _| std::fs::write(dir.join("etc/kubernetes/pki/ca.crt"), "nonsense").unwrap(),
            &["pki/ca.crt", "no CERTIFICATE block"],
        ),
        (
            "wrong key",
            |dir, _| {
                let dir = dir.join("etc/kubernetes/pki");
                std::fs::copy(dir.join("sa.key"), dir.join("apiserver.key")).unwrap();
            },
            &["pki/apiserver.key", "does not belong"],
        ),
        (
            "no key",
            |dir, _| std::fs::remove_file(dir.join("etc/kubernetes/pki/apiserver.key")).unwrap(),
            &["apiserver.key", "missing"],
        ),
        (
            "lonely CA key",
            |dir, _| std::fs::remove_file(dir.join("etc/kubernetes/pki/ca.crt")).unwrap(),
            &["pki/ca.key", "without its certificate"],
        ),
        (
            "other server",
            |dir, _| {
                let path = dir.join("etc/kubernetes/admin.conf");
                let text = std::fs::read_to_string(&path).unwrap().replace("172.30.0.1", "172.30.0.2");
                std::fs::write(path, text).unwrap();
            },
            &["admin.conf", "https://172.30.0.2:6443", "remove it"],
        ),
        (
            "lonely sa.pub",
            |dir, _| std::fs::remove_file(dir.join("etc/kubernetes/pki/sa.key")).unwrap(),
            &["sa.pub", "without sa.key"],
        ),
    ];
    let now = SystemTime::now();
    for (name, spoil, wanted) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = cluster(now);
        write_all(dir.path(), &cluster).unwrap();
        let before = std::fs::read(pki(dir.path(), "ca.key")).ok();
        spoil(dir.path(), &mut cluster);
        let error = write_all(dir.path(), &cluster).expect_err(name).chain();
        for part in *wanted {
            assert!(error.contains(part), "{name}: {error:?} lacks {part:?}");
        }
        if *name != "foreign CA" {
            assert_eq!(before, std::fs::read(pki(dir.path(), "ca.key")).ok(), "{name}: the CA key was touched");
        }
    }
}

#[test]
fn an_interrupted_run_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(SystemTime::now());
    write_all(dir.path(), &cluster).unwrap();
    let pki = dir.path().join("etc/kubernetes/pki");
    // The key is written before its certificate, so these are the states that a power cut leaves.
    std::fs::remove_file(pki.join("apiserver.crt")).unwrap();
    std::fs::remove_file(pki.join("etcd/peer.crt")).unwrap();
    std::fs::remove_file(pki.join("etcd/peer.key")).unwrap();
    std::fs::remove_file(pki.join("sa.pub")).unwrap();
    std::fs::remove_file(dir.path().join("etc/kubernetes/scheduler.conf")).unwrap();
    write_all(dir.path(), &cluster).unwrap();
    for item in CERTIFICATES {
        let (path, ca) = (item.certificate_path(&pki), item_path(&pki, item.authority.unwrap_or(item.name)));
        openssl(&["verify", "-CAfile", ca.to_str().unwrap(), path.to_str().unwrap()]);
    }
}

#[test]
fn an_external_authority_signs_nothing_here() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(SystemTime::now());
    write_all(dir.path(), &cluster).unwrap();
    let pki = dir.path().join("etc/kubernetes/pki");
    std::fs::remove_file(pki.join("ca.key")).unwrap();
    write_all(dir.path(), &cluster).expect("complete trees need no key");
    std::fs::remove_file(pki.join("apiserver.crt")).unwrap();
    let error = write_all(dir.path(), &cluster).unwrap_err().chain();
    assert!(error.contains("ca.key") && error.contains("external CA"), "{error}");
}

#[test]
fn renewal_keeps_names_and_changes_keys_even_after_the_end() {
    use crate::expiration::{Renewed, list, names, renew};
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let cluster = Cluster { apiserver_sans: vec!["api.example.org".into()], ..cluster(now) };
    write_all(dir.path(), &cluster).unwrap();
    let (kubernetes, pki) = (Path::new("/etc/kubernetes"), Path::new("/etc/kubernetes/pki"));
    let mut files = Files::below(dir.path());
    let later = now + YEAR + Duration::from_secs(86400);
    assert!(list(&files, kubernetes, pki).unwrap().iter().filter(|e| e.authority.is_some()).all(|e| e.residual(later).is_zero()));
    let old = Certificate::from_pem(&files.read("/etc/kubernetes/pki/apiserver.crt").unwrap().unwrap()).unwrap();
    let keys = KeyPool::lazy(Algorithm::EcdsaP256);
    for name in names() {
        assert_eq!(renew(&mut files, kubernetes, pki, name, later, YEAR, &keys).unwrap(), Renewed::Yes, "{name}");
    }
    assert!(list(&files, kubernetes, pki).unwrap().iter().all(|e| !e.residual(later).is_zero()));
    let new = Certificate::from_pem(&files.read("/etc/kubernetes/pki/apiserver.crt").unwrap().unwrap()).unwrap();
    assert_eq!((old.subject(), old.sans()), (new.subject(), new.sans()));
    assert_ne!(old.public_der(), new.public_der());
    std::fs::remove_file(dir.path().join("etc/kubernetes/kubelet.conf")).unwrap();
    write_all(dir.path(), &Cluster { now: later, ..cluster }).expect("the renewed tree is accepted");
    assert!(renew(&mut files, kubernetes, pki, "ca", later, YEAR, &keys).is_err(), "authorities are not renewed");
    files.remove("/etc/kubernetes/pki/apiserver.crt").unwrap();
    assert_eq!(renew(&mut files, kubernetes, pki, "apiserver", later, YEAR, &keys).unwrap(), Renewed::Absent);
    files.remove("/etc/kubernetes/pki/ca.key").unwrap();
    assert_eq!(renew(&mut files, kubernetes, pki, "admin.conf", later, YEAR, &keys).unwrap(), Renewed::External);
}

#[test]
fn requests_keep_every_organization_and_openssl_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let now = SystemTime::now();
    let authority = Authority::generate("kubernetes", PrivateKey::generate(Algorithm::Rsa2048).unwrap(), now, YEAR).unwrap();
    std::fs::write(path("ca.crt"), authority.certificate().to_pem()).unwrap();

    // Ours, read by openssl.
    let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
    let subject = Subject::new("anna").organization("dev").organization("ops");
    let request =
        crate::Request::generate(&key, &subject, &[San::Dns("a.example".into()), San::Ip("10.0.0.1".parse().unwrap())]).unwrap();
    std::fs::write(path("ours.csr"), request.to_pem()).unwrap();
    let text = openssl(&["req", "-in", &path("ours.csr"), "-noout", "-text", "-verify"]);
    assert!(text.contains("O = dev + O = ops, CN = anna") && text.contains("DNS:a.example, IP Address:10.0.0.1"), "{text}");

    // openssl's, each organization a relative name of its own, signed by us.
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/O=a/O=b/O=c/CN=u",
        "-keyout",
        &path("u.key"),
        "-out",
        &path("u.csr"),
    ]);
    let request = crate::Request::from_pem(&std::fs::read(path("u.csr")).unwrap()).unwrap();
    assert_eq!(request.subject(), &Subject::new("u").organization("a").organization("b").organization("c"));
    let certificate = authority.sign_request(&request, &[Usage::ClientAuth], now, now + 10 * YEAR).unwrap();
    assert_eq!(certificate.subject(), request.subject());
    assert!(certificate.not_after() <= authority.certificate().not_after(), "a leaf does not outlive its authority");
    std::fs::write(path("u.crt"), certificate.to_pem()).unwrap();
    openssl(&["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", &path("ca.crt"), &path("u.crt")]);
    assert!(openssl(&["x509", "-in", &path("u.crt"), "-noout", "-subject"]).contains("O = a, O = b, O = c, CN = u"));

    // A request whose signature is not its key's.
    let mut blocks = crate::pem::parse(&std::fs::read(path("u.csr")).unwrap()).unwrap();
    *blocks[0].der.last_mut().unwrap() ^= 1;
    assert!(matches!(crate::Request::from_der(&blocks[0].der), Err(Error::RequestSignature)));
}

#[test]
fn openssl_authorities_of_both_key_forms_sign() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let now = SystemTime::now();
    for (name, args) in
        [("rsa", &["-newkey", "rsa:2048"][..]), ("ec", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"][..])]
    {
        let (crt, key) = (path(&format!("{name}.crt")), path(&format!("{name}.key")));
        let mut all = vec!["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=my ca", "-keyout", &key, "-out", &crt];
        all.extend(args);
        openssl(&all);
        let authority = Authority::from_pem(&std::fs::read(&crt).unwrap(), &std::fs::read(&key).unwrap()).unwrap();
        let leaf_key = PrivateKey::generate(Algorithm::EcdsaP384).unwrap();
        let profile = Profile::leaf(Subject::new("x"), &[Usage::ServerAuth], now, YEAR).sans([San::Dns("x".into())]);
        let leaf = authority.issue(&profile, &leaf_key).unwrap();
        std::fs::write(path("leaf.crt"), leaf.to_pem()).unwrap();
        openssl(&["verify", "-CAfile", &crt, &path("leaf.crt")]);
        assert!(leaf.is_signed_by(authority.certificate()));
    }
    let (chain, key) = crate::serving::self_signed("node1", &[San::Ip("10.0.0.1".parse().unwrap())], now).unwrap();
    assert!(chain[0].is_signed_by(&chain[1]) && chain[0].covers(&San::Ip("10.0.0.1".parse().unwrap())));
    assert!(crate::key::matches(&key, chain[0].public_der()));
}
