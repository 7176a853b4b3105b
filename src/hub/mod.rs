//! The hub: takes what the boxes hand over, keeps it, and answers those who may ask.
//!
//! ```text
//! ═MQTT═► ingest ─► truth (journal) ─► catalog (index) ─► search ─► access ─► web ─► officer
//! ═HTTPS═► clips (files) ──────┘
//! ```
//!
//! Owns everything on the server side. May not connect to a box: boxes connect to the hub. Ingest and
//! search meet only in the catalog.

pub mod access;
pub mod catalog;
pub mod certificates;
pub mod clips;
pub mod config;
pub mod metrics;
pub mod registry;
pub mod search;
pub mod truth;
pub mod web;
