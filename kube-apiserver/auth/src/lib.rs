//! Who is asking, and may they: authentication, authorization, the default roles, and the tokens of service accounts.
//!
//! A library that kube-apiserver composes. It reads the cluster only through [`api::lister::Lister`], never waits, and writes nothing.
//! - [`authn::Authenticator`]: request headers and the connection's certificate → user and audiences.
//! - [`authz::Authorizers`]: [`authz::Attributes`] → allowed, denied or no opinion, with upstream's reasons.
//! - [`authz::escalation`]: may this user write this role or binding.
//! - [`impersonation`]: the `Impersonate-*` headers.
//! - [`review`]: the answers of the review kinds, object in, object out.
//! - [`token`]: service-account tokens: issuing, keys, JWKS and discovery documents.
//! - [`bootstrap`]: the default roles and bindings, and how they are reconciled.

pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod impersonation;
pub mod review;
pub mod token;
pub mod user;

mod object;
