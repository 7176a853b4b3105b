//! How the ward's devices are doing, and why.
//!
//! ```text
//! events ─► facts (what was last heard) ─► judge (what is wrong) ─► standing (what lasts) ─► cause (what is shared)
//! ```
//!
//! Owns the state of every device and box over time. May not talk to boxes; may not decide what is right to do about it.

pub mod availability;
pub mod book;
pub mod burning;
pub mod cause;
pub mod circuit;
pub mod core;
pub mod cover;
pub mod device_figures;
pub mod facts;
pub mod figures;
pub mod judge;
pub mod keeper;
pub mod lighting;
pub mod rhythm;
pub mod roster;
pub mod severity;
pub mod standing;
pub mod sun;
pub mod webhook;
pub mod words;
pub mod work;
