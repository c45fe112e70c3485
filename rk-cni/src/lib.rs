//! rk-cni
