//! What each image of a cluster holds. One function, one image; [`all`] is the table.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::archive::{Entry, Image};
use crate::libraries;

/// Where images are named from, as kubeadm's `imageRepository`.
pub const REPOSITORY: &str = "registry.k8s.io";

/// All images: file name (without `.tar`) and contents. `bins` holds our binaries.
///
/// # Errors
/// A program that goes into an image is missing: the text names the Debian package.
pub fn all(bins: &Path, version: &str) -> Result<Vec<(String, Image)>> {
    let mut images = vec![("pause".to_owned(), pause(bins)?), ("etcd".to_owned(), etcd()?)];
    for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "rk-ingress"] {
        images.push((name.to_owned(), component(bins, name, version)?));
    }
    // With nft, for the node-local mode.
    let mut dns = component(bins, "rk-dns", version)?;
    program(&mut dns, "/usr/sbin", &distribution("nft", "nftables")?)?;
    images.push(("rk-dns".to_owned(), dns));
    for name in ["kube-proxy", "rk-cni"] {
        images.push((name.to_owned(), with_packet_filter(component(bins, name, version)?)?));
    }
    images.push(("rk-test".to_owned(), test(bins, version)?));
    Ok(images)
}

fn reference(name: &str, tag: &str) -> String {
    format!("{REPOSITORY}/{name}:{tag}")
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One of our binaries and nothing else.
fn component(bins: &Path, name: &str, version: &str) -> Result<Image> {
    let mut image = Image {
        reference: reference(name, version),
        entrypoint: vec![],
        command: vec![name.to_owned()],
        environment: vec![PATH.to_owned()],
        ..Image::default()
    };
    image.entries.insert(format!("/usr/local/bin/{name}"), Entry::File(ours(bins, name)?));
    image.entries.insert("/tmp".to_owned(), Entry::Directory(0o1777));
    image.entries.insert(
        "/etc/passwd".to_owned(),
        Entry::Text("root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n".into()),
    );
    Ok(image)
}

/// The sandbox image.
fn pause(bins: &Path) -> Result<Image> {
    let mut image = Image {
        reference: reference("pause", component::version::PAUSE_TAG),
        entrypoint: vec!["/pause".to_owned()],
        environment: vec![PATH.to_owned()],
        user: "65535:65535".to_owned(),
        ..Image::default()
    };
    image.entries.insert("/pause".to_owned(), Entry::File(ours(bins, "pause")?));
    Ok(image)
}

/// The distribution's etcd and etcdctl with a shell, so that `kubectl exec etcd-… -- sh -c "etcdctl …"` works.
fn etcd() -> Result<Image> {
    let mut image = Image {
        reference: reference("etcd", &etcd_tag()?),
        command: vec!["etcd".to_owned()],
        environment: vec![PATH.to_owned()],
        ..Image::default()
    };
    for name in ["etcd", "etcdctl"] {
        program(&mut image, "/usr/local/bin", &distribution(name, "etcd-server etcd-client")?)?;
    }
    // etcd 3.5 and later; Debian 12's etcd has none.
    if let Ok(etcdutl) = distribution("etcdutl", "etcd-client") {
        program(&mut image, "/usr/local/bin", &etcdutl)?;
    }
    busybox(&mut image)?;
    Ok(image)
}

/// The tag for the etcd at hand, as kubeadm writes etcd's tags: `3.4.23-0`.
///
/// # Errors
/// There is no etcd.
pub fn etcd_tag() -> Result<String> {
    let etcd = distribution("etcd", "etcd-server")?;
    let output = Command::new(&etcd).arg("--version").output().with_context(|| format!("run {}", etcd.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version =
        text.lines().find_map(|line| line.strip_prefix("etcd Version:")).context("etcd --version printed no version")?;
    Ok(format!("{}-0", version.trim()))
}

/// Adds iptables with every extension, nft and conntrack. An extension without its libraries makes a whole rule set fail.
fn with_packet_filter(mut image: Image) -> Result<Image> {
    let nft = distribution("xtables-nft-multi", "iptables")?;
    program(&mut image, "/usr/sbin", &nft)?;
    program(&mut image, "/usr/sbin", &distribution("xtables-legacy-multi", "iptables")?)?;
    for (suffix, multi) in [("", "xtables-nft-multi"), ("-nft", "xtables-nft-multi"), ("-legacy", "xtables-legacy-multi")] {
        for family in ["iptables", "ip6tables"] {
            for tool in ["", "-save", "-restore"] {
                image.entries.insert(format!("/usr/sbin/{family}{suffix}{tool}"), Entry::Link(multi.to_owned()));
            }
        }
    }
    let extensions = extensions_dir()?;
    for file in std::fs::read_dir(&extensions)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "so") {
            plug_in(&mut image, &path)?;
        }
    }
    for (name, package) in [("nft", "nftables"), ("conntrack", "conntrack"), ("ipset", "ipset")] {
        program(&mut image, "/usr/sbin", &distribution(name, package)?)?;
    }
    image.entries.insert("/run".to_owned(), Entry::Directory(0o755));
    busybox(&mut image)?;
    Ok(image)
}

/// Where iptables keeps its extensions: `/usr/lib/<triplet>/xtables`.
fn extensions_dir() -> Result<PathBuf> {
    for base in std::fs::read_dir("/usr/lib")? {
        let dir = base?.path().join("xtables");
        if dir.join("libxt_statistic.so").exists() {
            return Ok(dir);
        }
    }
    bail!("no iptables extensions below /usr/lib/*/xtables; apt-get install iptables")
}

/// Tools for tests and the tour: busybox, bash, our echo server and what tests of a node need (a CSI driver, a registry, …).
fn test(bins: &Path, version: &str) -> Result<Image> {
    let mut image = component(bins, "rk-test", version)?;
    image.entries.insert("/usr/local/bin/rk-test-node".to_owned(), Entry::File(ours(bins, "rk-test-node")?));
    busybox(&mut image)?;
    program(&mut image, "/usr/bin", Path::new("/bin/bash"))?;
    image.entries.insert("/bin/bash".to_owned(), Entry::Link("/usr/bin/bash".to_owned()));
    Ok(image)
}

/// Adds a static busybox with a link for each of its tools, unless the image already has that tool.
fn busybox(image: &mut Image) -> Result<()> {
    let busybox = distribution("busybox", "busybox-static")?;
    if !libraries::of(&busybox)?.is_empty() {
        bail!("{} is not static; apt-get install busybox-static", busybox.display());
    }
    let output = Command::new(&busybox).arg("--list").output().context("run busybox --list")?;
    image.entries.insert("/bin/busybox".to_owned(), Entry::File(busybox));
    for tool in String::from_utf8_lossy(&output.stdout).lines().filter(|tool| !tool.is_empty() && *tool != "busybox") {
        image.entries.entry(format!("/bin/{tool}")).or_insert_with(|| Entry::Link("/bin/busybox".to_owned()));
    }
    image.entries.insert("/tmp".to_owned(), Entry::Directory(0o1777));
    image
        .entries
        .entry("/etc/passwd".to_owned())
        .or_insert_with(|| Entry::Text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n".into()));
    image.entries.entry("/etc/group".to_owned()).or_insert_with(|| Entry::Text("root:x:0:\nnogroup:x:65534:\n".into()));
    Ok(())
}

/// A program and its libraries, the libraries where they are here.
fn program(image: &mut Image, directory: &str, path: &Path) -> Result<()> {
    let name = path.file_name().context("program without a name")?.to_string_lossy().into_owned();
    for library in libraries::of(path)? {
        image.entries.insert(library.to_string_lossy().into_owned(), Entry::File(library));
    }
    image.entries.insert(format!("{directory}/{name}"), Entry::File(path.to_owned()));
    Ok(())
}

fn plug_in(image: &mut Image, path: &Path) -> Result<()> {
    for library in libraries::of(path)? {
        image.entries.insert(library.to_string_lossy().into_owned(), Entry::File(library));
    }
    image.entries.insert(path.to_string_lossy().into_owned(), Entry::File(path.to_owned()));
    Ok(())
}

fn ours(bins: &Path, name: &str) -> Result<PathBuf> {
    let path = bins.join(name);
    if path.exists() { Ok(path) } else { bail!("{} is missing; run `make build` first", path.display()) }
}

/// The real file of a program of the distribution.
fn distribution(name: &str, package: &str) -> Result<PathBuf> {
    for directory in ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"] {
        let path = Path::new(directory).join(name);
        if path.exists() {
            return path.canonicalize().with_context(|| format!("find {name}"));
        }
    }
    bail!("{name} is not installed; apt-get install {package}")
}
