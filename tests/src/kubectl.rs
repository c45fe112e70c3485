//! kubectl as a user types it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A kubectl of some version with a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
    /// Where it keeps what it learns; one per cluster, since labs reuse addresses.
    pub cache: PathBuf,
}

impl Kubectl {
    /// A command line split at spaces (quote nothing: use [`Kubectl::args`] for words with spaces), ready to run.
    pub fn command(&self, line: &str) -> Command {
        self.words(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The same from words.
    pub fn words(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(&self.cache).args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command line; its standard output.
    ///
    /// # Errors
    /// It failed; the text holds both outputs.
    pub fn run(&self, line: &str) -> Result<String> {
        finish(line, self.command(line).output().context("run kubectl")?)
    }

    /// The same from words.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn args(&self, words: &[&str]) -> Result<String> {
        finish(&words.join(" "), self.words(words).output().context("run kubectl")?)
    }

    /// Runs a command that must fail; what it said.
    ///
    /// # Errors
    /// It succeeded.
    pub fn fails(&self, line: &str) -> Result<String> {
        let output = self.command(line).output()?;
        if output.status.success() {
            bail!("kubectl {line} succeeded: {}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }

    /// Feeds a manifest to a command that reads standard input (`apply -f -`).
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn feed(&self, line: &str, manifest: &str) -> Result<String> {
        let mut child = self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("stdin")?.write_all(manifest.as_bytes())?;
        finish(line, child.wait_with_output()?)
    }

    /// `kubectl get … -o jsonpath=…`.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn field(&self, what: &str, path: &str) -> Result<String> {
        let output = format!("jsonpath={{{path}}}");
        let words: Vec<&str> = ["get"].into_iter().chain(what.split_whitespace()).chain(["-o", &output]).collect();
        self.args(&words)
    }
}

fn finish(line: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "kubectl {line}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
