//! kubeconfig files in /etc/kubernetes.

use crate::init::Init;
use crate::say;

use super::certs::tell;

fn one(init: &mut Init, phase: &str) -> anyhow::Result<()> {
    let outcome = init.node.ensure_kubeconfig(phase, false)?;
    tell(init, "kubeconfig", &format!("{phase}.conf"), outcome);
    Ok(())
}

pub async fn admin(init: &mut Init) -> anyhow::Result<()> {
    one(init, "admin")
}

pub async fn super_admin(init: &mut Init) -> anyhow::Result<()> {
    one(init, "super-admin")
}

pub async fn kubelet(init: &mut Init) -> anyhow::Result<()> {
    one(init, "kubelet")
}

pub async fn controller_manager(init: &mut Init) -> anyhow::Result<()> {
    one(init, "controller-manager")
}

pub async fn scheduler(init: &mut Init) -> anyhow::Result<()> {
    one(init, "scheduler")?;
    say::phase("kubeconfig", "Kubeconfigs are in /etc/kubernetes");
    Ok(())
}
