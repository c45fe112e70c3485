//! What the API server knows about each resource beyond its schema: names, defaulting, validation, strategy, columns. Pure.
//!
//! One resource = one file below `src/<group>/` and one line in [`table`].

pub mod resource;
