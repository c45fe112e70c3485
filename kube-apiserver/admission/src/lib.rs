//! The admission plugins: what may still change or refuse a request that is authorized, before it is stored.
//!
//! One plugin = one file and one line in [`plugins::TABLE`], whose order is upstream's. Plugins read the cluster through
//! [`api::lister::Lister`], and what they must ask or write otherwise through the traits in [`host`].

pub mod attributes;
pub mod chain;
pub mod host;
pub mod plugins;
pub mod pod;

pub use attributes::{Attributes, Operation, User};
pub use chain::Chain;
pub use host::{Authorizer, Host, Question, QuotaWriter};
