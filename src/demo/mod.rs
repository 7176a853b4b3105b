//! A small ward on loopback made of the real parts.

pub mod cabinet;
pub mod street;
