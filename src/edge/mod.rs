//! The agent on a box: cameras and lamp cabinets in, events and clips out.
//!
//! ```text
//! camera ─► ring ─► clips ─► upload ═HTTPS═► hub
//!    └─► motion ─┐
//! lamp ──────────┴─► outbox ─► uplink ═MQTT═► hub
//! ```
//!
//! Owns what happens on the box. May not know the hub's insides: it meets the hub on the wire only.

pub mod camera;
pub mod clip;
pub mod clock;
pub mod config;
pub mod coverage;
pub mod fmp4;
pub mod lamp;
pub mod motion;
pub mod outbox;
pub mod ring;
pub mod upload;
