//! Tokens for joining, the rules that let them bootstrap, and `cluster-info` for discovery.

use crate::init::Init;
use crate::{objects, say};

pub async fn run(init: &mut Init) -> anyhow::Result<()> {
    let ca = pki::tree::authority_certificate(&init.node.files, &init.node.pki_dir(), "ca")?;
    let info = objects::cluster_info_kubeconfig(&init.node.server(), ca.to_pem().as_bytes())?;
    let mut all = objects::token_secrets(&init.init.bootstrap_tokens, jiff::Timestamp::now());
    all.extend(objects::bootstrap_rules(&info));
    if !init.node.balanced.is_empty() {
        all.extend(objects::balancer_rules());
    }
    init.node.apply(&all).await?;
    say::phase("bootstrap-token", "Nodes may join with the token; discovery is in the ConfigMap cluster-info of kube-public");
    Ok(())
}
