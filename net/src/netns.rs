//! Network namespaces. Entering one happens on a thread of its own, so the caller never finds itself elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink::Socket;

/// A network namespace, kept alive as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
}

impl NetNs {
    /// Opens a namespace by path (`/proc/PID/ns/net`, `/run/netns/NAME`).
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        Ok(Self { file: File::open(&path)?, path })
    }

    /// The calling thread's namespace.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// A new, empty namespace, gone with the last user of it.
    pub fn fresh() -> io::Result<Self> {
        thread::scope(|scope| {
            let made = scope.spawn(|| -> io::Result<Self> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Self::current()
            });
            made.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a namespace panicked")))
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `task` inside the namespace and waits for it. Processes that it starts are inside too.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let result = scope.spawn(|| -> io::Result<T> {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(task())
            });
            match result.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A routing socket inside the namespace, usable from outside.
    pub fn socket(&self) -> io::Result<Socket> {
        Ok(self.run(Socket::route)??)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_namespace_holds_only_the_loopback() {
        let inside = NetNs::fresh().unwrap();
        let links = crate::link::list(&inside.socket().unwrap()).unwrap();
        assert!(links.iter().any(|link| link.name == "lo"));
        assert!(links.iter().all(|link| link.kind.as_deref() != Some("veth")));
    }
}
