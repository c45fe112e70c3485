//! All plugins that are on, in order.

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::Attributes;
use crate::host::Host;
use crate::plugins::{Row, TABLE};

/// One admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// May change the object; runs before the strategy prepares and validates it. `object` is null on delete and connect without options.
    ///
    /// # Errors
    /// The request is refused.
    async fn admit(
        &self,
        _request: &Attributes,
        _object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// May refuse the object as it will be stored; runs after validation.
    ///
    /// # Errors
    /// The request is refused.
    async fn validate(
        &self,
        _request: &Attributes,
        _object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins of a server.
#[derive(Clone)]
pub struct Chain {
    plugins: Vec<(&'static str, Arc<dyn Plugin>)>,
}

impl Chain {
    /// The default plugins, more and fewer by name as `--enable-admission-plugins` and `--disable-admission-plugins` give them.
    ///
    /// # Errors
    /// A name that upstream does not know, that this server cannot serve yet, or that is in both lists; as text for the command line.
    pub fn new(host: &Host, enable: &[String], disable: &[String]) -> Result<Self, String> {
        for name in enable.iter().chain(disable) {
            if !TABLE.iter().any(|row| row.name == name) {
                return Err(format!("admission-control plugin {name:?} is unknown"));
            }
        }
        if let Some(name) = enable.iter().find(|name| disable.contains(name)) {
            return Err(format!("[{name}] in enable-admission-plugins and disable-admission-plugins overlapped"));
        }
        let mut plugins = Vec::new();
        for Row { name, default, build } in TABLE {
            let asked = enable.iter().any(|other| other == name);
            let on = (*default || asked) && !disable.iter().any(|other| other == name);
            match build {
                Some(build) if on => plugins.push((*name, build(host))),
                None if asked => return Err(format!("admission plugin {name} is not yet supported")),
                _ => {}
            }
        }
        Ok(Self { plugins })
    }

    /// The names of the plugins, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.plugins.iter().map(|(name, _)| *name).collect()
    }

    /// Runs all mutating parts.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        for (_, plugin) in &self.plugins {
            plugin.admit(request, object, old, warnings).await?;
        }
        Ok(())
    }

    /// Runs all validating parts.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        for (_, plugin) in &self.plugins {
            plugin.validate(request, object, old, warnings).await?;
        }
        Ok(())
    }
}
