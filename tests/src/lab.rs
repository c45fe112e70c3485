//! A lab of a test's own: up when made, down when dropped.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::kubectl::Kubectl;

/// A running lab.
pub struct Lab {
    name: String,
    rkadm: PathBuf,
}

impl Lab {
    /// Brings a lab up with further arguments of `rkadm lab up` (`--bare`, `--nodes 2`); what it printed comes along.
    ///
    /// # Errors
    /// It did not come up. It is taken down again, unless `RK_KEEP_LAB` is set.
    pub fn up(name: &str, arguments: &[&str]) -> Result<(Self, String)> {
        let bins = PathBuf::from(std::env::var_os("RK_BIN").context("RK_BIN is not set: run the cluster tests by `make test`")?);
        let lab = Self { name: name.to_owned(), rkadm: bins.join("rkadm") };
        let images = std::env::var_os("RK_IMAGES").context("RK_IMAGES is not set: run the cluster tests by `make test`")?;
        // One that an earlier, killed run has left.
        lab.rkadm(&["down"]).output()?;
        let output = lab.rkadm(&["up", "--images"]).arg(&images).args(arguments).output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("lab did not come up:\n{text}");
        }
        Ok((lab, text))
    }

    /// `rkadm lab …` for this lab.
    pub fn rkadm(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.rkadm);
        command.args(["lab", "--lab", &self.name]).args(words).stdin(Stdio::null());
        command
    }

    /// The lab's directory.
    pub fn dir(&self) -> PathBuf {
        PathBuf::from(std::env::var_os("RK_LAB_ROOT").unwrap_or_else(|| "/var/lib/rk/labs".into())).join(&self.name)
    }

    /// The kubectl of this machine for this lab.
    pub fn kubectl(&self) -> Kubectl {
        self.kubectl_of(PathBuf::from(std::env::var_os("RK_KUBECTL").unwrap_or_else(|| "kubectl".into())))
    }

    /// Another kubectl for this lab.
    pub fn kubectl_of(&self, program: PathBuf) -> Kubectl {
        let cache = self.dir().join("kubectl-cache").join(program.file_name().unwrap_or_default());
        Kubectl { program, kubeconfig: self.dir().join("kubeconfig"), cache }
    }

    /// Runs a shell script on a host; what it printed.
    ///
    /// # Errors
    /// It failed; the text holds both outputs.
    pub fn sh(&self, host: &str, script: &str) -> Result<String> {
        let output = self.rkadm(&["enter", host, "--", "bash", "-c", script]).output()?;
        if !output.status.success() {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            bail!("on {host}: {script}: {}\n{out}{err}", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Takes the lab down now and says what `rkadm lab down` printed.
    ///
    /// # Errors
    /// Something would not go.
    pub fn down(&self) -> Result<String> {
        let output = self.rkadm(&["down"]).output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(text) } else { bail!("{text}") }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::env::var_os("RK_KEEP_LAB").is_none()
            && let Err(error) = self.down()
        {
            eprintln!("lab {}: {error:#}", self.name);
        }
    }
}
