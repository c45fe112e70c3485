//! `rkadm token create|list|delete|generate`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::apply::{Api, readable};
use crate::config::types::BootstrapToken;
use crate::token::{self, Listed};

/// Somebody waits at the terminal.
const PATIENCE: Duration = Duration::from_secs(5);
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
    /// The kubeconfig file to use when talking to the cluster
    #[arg(long, global = true, default_value = crate::node::ADMIN)]
    kubeconfig: PathBuf,
    /// Whether to enable dry-run mode or not
    #[arg(long, global = true)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Create bootstrap tokens on the server
    Create(CreateArgs),
    /// List bootstrap tokens on the server
    List {
        /// text, json or yaml
        #[arg(short, long, default_value = "text")]
        output: String,
    },
    /// Delete bootstrap tokens on the server
    Delete {
        /// Tokens or their ids
        #[arg(required = true)]
        tokens: Vec<String>,
    },
    /// Generate and print a bootstrap token, but do not create it on the server
    Generate,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The token to create; made up when not given
    token: Option<String>,
    /// When used together with '--print-join-command', print the full command needed to join the cluster as a control-plane
    #[arg(long)]
    certificate_key: Option<String>,
    #[arg(long)]
    config: Option<String>,
    /// A human friendly description of how this token is used
    #[arg(long, default_value = "")]
    description: String,
    /// Extra groups that this token will authenticate as when used for authentication
    #[arg(long, value_delimiter = ',', default_value = crate::objects::BOOTSTRAPPERS)]
    groups: Vec<String>,
    /// Instead of printing only the token, print the full 'rkadm join' flag needed to join the cluster using the token
    #[arg(long)]
    print_join_command: bool,
    /// The duration before the token is automatically deleted (e.g. 1s, 2m, 3h). '0' never expires
    #[arg(long, value_parser = component::duration::parse, default_value = "24h0m0s")]
    ttl: Duration,
    /// Describes the ways in which this token can be used
    #[arg(long, value_delimiter = ',', default_value = "signing,authentication")]
    usages: Vec<String>,
}

pub async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let connect = || Api::connect(&args.kubeconfig, PATIENCE);
    match args.command {
        TokenCommand::Generate => {
            println!("{}", token::generate());
            Ok(())
        }
        TokenCommand::Create(create) => self::create(create, &args.kubeconfig, args.dry_run).await,
        TokenCommand::List { output } => {
            let list = connect()
                .await?
                .get(&format!("{SECRETS}?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken"))
                .await
                .map_err(readable)
                .context("cannot list the tokens")?;
            let tokens: Vec<Listed> = list["items"].as_array().into_iter().flatten().filter_map(token::of_secret).collect();
            print!("{}", render(&tokens, &output, Timestamp::now())?);
            Ok(())
        }
        TokenCommand::Delete { tokens } => {
            let api = connect().await?;
            for text in tokens {
                let id = token::parse(&text).map_or(text.as_str(), |(id, _)| id);
                if id.len() != 6 || !id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()) {
                    bail!("{text:?} is neither a token nor a token's id (six characters)");
                }
                if args.dry_run {
                    println!("[dryrun] Would delete {SECRETS}/{}", token::secret_name(id));
                    continue;
                }
                match api.delete(&format!("{SECRETS}/{}", token::secret_name(id))).await {
                    Ok(_) => println!("bootstrap token {id:?} deleted"),
                    Err(error) if client::is_not_found(&error) => bail!("there is no bootstrap token {id:?}"),
                    Err(error) => return Err(readable(error)).with_context(|| format!("cannot delete bootstrap token {id:?}")),
                }
            }
            Ok(())
        }
    }
}

async fn create(args: CreateArgs, kubeconfig: &std::path::Path, dry_run: bool) -> anyhow::Result<()> {
    let mut wanted = BootstrapToken {
        token: args.token.unwrap_or_else(token::generate),
        description: args.description,
        groups: args.groups,
        ttl: args.ttl,
        usages: args.usages,
        ..Default::default()
    };
    if let Some(path) = &args.config {
        let documents = crate::config::load(path)?;
        if let Some(first) = documents.init.and_then(|init| init.bootstrap_tokens.into_iter().next()) {
            wanted = BootstrapToken { token: if first.token.is_empty() { wanted.token } else { first.token.clone() }, ..first };
        }
    }
    let Some((id, _)) = token::parse(&wanted.token) else {
        bail!("the token {:?} is not of the form abcdef.0123456789abcdef", wanted.token);
    };
    if let Some(group) = wanted.groups.iter().find(|group| !token::is_group(group)) {
        bail!("the group {group:?} must start with system:bootstrappers:");
    }
    if let Some(usage) = wanted.usages.iter().find(|usage| !["signing", "authentication"].contains(&usage.as_str())) {
        bail!("the usage {usage:?} is neither signing nor authentication");
    }
    let secret = token::secret(&wanted, Timestamp::now());
    if dry_run {
        return crate::node::show(&secret);
    }
    let api = Api::connect(kubeconfig, PATIENCE).await?;
    match api.request(http::Method::POST, SECRETS, Some(&secret), "application/json").await {
        Ok(_) => {}
        Err(error) if client::is_conflict(&error) => bail!("a token with id {id:?} already exists"),
        Err(error) => return Err(readable(error)).context("cannot create the token's Secret"),
    }
    if args.print_join_command {
        println!("{}", join_command(&api, &wanted.token, args.certificate_key.as_deref()).await?);
    } else {
        println!("{}", wanted.token);
    }
    Ok(())
}

/// One line, from what the cluster itself publishes.
async fn join_command(api: &Api, token: &str, certificate_key: Option<&str>) -> anyhow::Result<String> {
    let info = api
        .get("/api/v1/namespaces/kube-public/configmaps/cluster-info")
        .await
        .map_err(readable)
        .context("cannot get the ConfigMap cluster-info")?;
    let config = pki::Kubeconfig::parse(info["data"]["kubeconfig"].as_str().unwrap_or_default().as_bytes())?;
    let ca = pki::Certificate::from_pem(&config.certificate_authority)?;
    let endpoint = config.server.trim_start_matches("https://");
    let mut line = format!("rkadm join {endpoint} --token {token} --discovery-token-ca-cert-hash {} ", ca.public_key_pin());
    if let Some(key) = certificate_key {
        line.push_str(&format!("--control-plane --certificate-key {key}"));
    }
    Ok(line)
}

fn render(tokens: &[Listed], output: &str, now: Timestamp) -> anyhow::Result<String> {
    let objects = || -> Vec<Value> {
        tokens
            .iter()
            .map(|token| {
                json!({
                    "kind": "BootstrapToken", "apiVersion": "output.kubeadm.k8s.io/v1alpha3", "token": token.token,
                    "description": token.description, "expires": token.expires.map(|at| at.to_string()),
                    "usages": token.usages, "groups": token.groups,
                })
            })
            .collect()
    };
    match output {
        "text" if tokens.is_empty() => Ok(String::new()),
        "text" => {
            let none = |text: &str| if text.is_empty() { "<none>".to_string() } else { text.to_string() };
            let rows = tokens.iter().map(|token| {
                [
                    token.token.clone(),
                    left(token.expires, now),
                    token.expires.map_or("<never>".into(), |at| at.to_string()),
                    none(&token.usages.join(",")),
                    none(&token.description),
                    none(&token.groups.join(",")),
                ]
            });
            let header = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"].map(str::to_string);
            Ok(table(std::iter::once(header).chain(rows).map(Vec::from).collect()))
        }
        "json" => Ok(objects()
            .iter()
            .map(|object| serde_json::to_string_pretty(object).map(|text| text + "\n"))
            .collect::<Result<_, _>>()?),
        "yaml" => Ok(objects().iter().map(crate::config::yaml).collect::<anyhow::Result<Vec<_>>>()?.join("---\n")),
        other => bail!("--output {other}: text, json or yaml"),
    }
}

/// `23h`, `<invalid>` when it is over.
fn left(expires: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = expires else { return "<forever>".into() };
    match at.as_second() - now.as_second() {
        seconds if seconds < 0 => "<invalid>".into(),
        seconds if seconds < 60 => format!("{seconds}s"),
        seconds if seconds < 3600 => format!("{}m", seconds / 60),
        seconds if seconds < 48 * 3600 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

/// Columns three spaces apart.
pub fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_listed_as_kubeadm_lists_them() {
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let token = Listed {
            token: "abcdef.0123456789abcdef".into(),
            expires: Some("2026-11-20T23:00:00Z".parse().unwrap()),
            usages: vec!["authentication", "signing"],
            description: String::new(),
            groups: vec!["system:bootstrappers:kubeadm:default-node-token".into()],
        };
        let text = render(std::slice::from_ref(&token), "text", now).unwrap();
        let mut lines = text.lines();
        assert_eq!(
            lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
            ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA", "GROUPS"]
        );
        assert_eq!(lines.next().unwrap().split_whitespace().nth(1), Some("23h"));
        assert_eq!(render(&[], "text", now).unwrap(), "");
        assert!(render(&[token], "json", now).unwrap().contains("BootstrapToken"));
        assert_eq!(left(Some("2026-11-19T00:00:00Z".parse().unwrap()), now), "<invalid>");
    }
}
