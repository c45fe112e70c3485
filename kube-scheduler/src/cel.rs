//! The part of the Common Expression Language that device selectors use: parsed once, evaluated per device, within a budget.
//!
//! Complete: literals, operators, `has` and the collection macros, `cel.bind`, text functions, and Kubernetes' quantities and
//! semantic versions. Absent, since selectors have no use for them: timestamps, bytes, messages, the two-variable macros. The crate
//! `cel` lacks quantities, versions and any bound on the work done, and is larger than the scheduler.
//!
//! Upstream: k8s.io/dynamic-resource-allocation/cel, apiserver/pkg/cel/library

mod call;
mod eval;
mod parse;
mod value;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

pub use value::{Semver, Value};

/// Most compiled expressions kept; then all are dropped and made again as needed. A cluster has some tens.
const MAX_KNOWN: usize = 1024;
/// Longest expression, bytes. Upstream: CELSelectorExpressionMaxLength
const MAX_LENGTH: usize = 10 * 1024;

/// A compiled expression.
#[derive(Debug)]
pub struct Program(parse::Expr);

/// Compiles, or finds what was compiled before.
///
/// # Errors
/// The text is no expression.
pub fn compile(text: &str) -> Result<Arc<Program>, String> {
    static KNOWN: LazyLock<Mutex<HashMap<String, Arc<Program>>>> = LazyLock::new(Mutex::default);
    if let Some(program) = KNOWN.lock().get(text) {
        return Ok(program.clone());
    }
    if text.len() > MAX_LENGTH {
        return Err(format!("expression is longer than {MAX_LENGTH} bytes"));
    }
    let program = Arc::new(Program(parse::parse(text)?));
    let mut known = KNOWN.lock();
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
    known.insert(text.to_owned(), program.clone());
    Ok(program)
}

impl Program {
    /// The expression's value, given the variables.
    ///
    /// # Errors
    /// What went wrong: no such key, no such overload, too much work.
    pub fn evaluate(&self, variables: &[(&str, Value)]) -> Result<Value, String> {
        eval::evaluate(&self.0, variables)
    }
}

#[cfg(test)]
mod tests;
