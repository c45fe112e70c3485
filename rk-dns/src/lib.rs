//! rk-dns
