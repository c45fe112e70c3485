//! Another release of what is tested: the same binaries with another version stamped in, and one that is broken on purpose.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;

/// An unpacked release: `bin` and `images`.
#[derive(Clone, Debug)]
pub struct Release {
    /// `v1.36.1`.
    pub version: String,
    dir: PathBuf,
}

/// The version `steps` patches after what is tested.
pub fn later(steps: u32) -> String {
    let current = component::version::current();
    let (rest, patch) = current.rsplit_once('.').unwrap_or((current, "0"));
    let digits: String = patch.chars().take_while(char::is_ascii_digit).collect();
    format!("{rest}.{}", digits.parse::<u32>().unwrap_or(0) + steps)
}

impl Release {
    /// Makes a release of the binaries in `RK_BIN`; a component named in `broken` ends as soon as it starts.
    ///
    /// # Errors
    /// A script of the repository failed; the text holds its words.
    pub fn make(lab: &Lab, version: &str, broken: Option<&str>) -> Result<Self> {
        let bins = PathBuf::from(std::env::var_os("RK_BIN").context("RK_BIN is not set: run the cluster tests by `make test`")?);
        let dir = lab.dir().join(format!("release-{version}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("bin"))?;
        for entry in fs::read_dir(&bins)?.flatten() {
            fs::copy(entry.path(), dir.join("bin").join(entry.file_name()))?;
        }
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
        run(Command::new(scripts.join("stamp")).arg(version).arg(dir.join("bin")))?;
        if let Some(component) = broken {
            // A program of ours that knows none of the component's flags.
            fs::copy(bins.join("rk-images"), dir.join("bin").join(component))?;
        }
        run(Command::new(scripts.join("images")).arg(dir.join("bin")).arg(dir.join("images")))?;
        Ok(Self { version: version.to_owned(), dir })
    }

    /// Puts the release on a host; the directory there, whose `bin/rkadm` is the release's.
    ///
    /// # Errors
    /// The disk is full.
    pub fn give(&self, lab: &Lab, host: &str) -> Result<String> {
        let name = format!("rk-{}", self.version);
        let to = lab.dir().join("nodes").join(host).join("disk/root").join(&name);
        let _ = fs::remove_dir_all(&to);
        // Links, not copies: images are large.
        run(Command::new("cp").arg("-al").arg(&self.dir).arg(&to))?;
        Ok(format!("/root/{name}"))
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let words = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}", words());
    Ok(())
}
