//! rk-test
