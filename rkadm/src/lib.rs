//! rkadm
