//! camnet: event ingestion for community camera networks.
//!
//! The modules stand in reading order, which is also the way of the data:
//!
//! ```text
//! camera or lamp → edge → MQTT → hub → index → search → officer
//! ```
//!
//! | module | owns | may not |
//! |---|---|---|
//! | [`limits`] | every bound of the system, named | |
//! | [`model`] | the words: ids, events, clips, coverage, places, clock quality | do I/O |
//! | [`wire`] | topics, payloads and their versions | do I/O |
//! | [`journal`] | append-only, checksummed files that survive a power cut | know what its records mean |
//! | [`tls`] | loading of certificates and keys | open connections |
//! | [`toml_file`] | configuration files: TOML in, typed | know what a program's file says |
//! | [`metrics`] | figures for Prometheus, by part | know what is counted |
//! | [`outage`] | what the log says of something that fails again and again | log itself |
//! | [`mqtt`] | the MQTT connection; the only one that names rumqttc | decide when to ack |
//! | [`broker`] | the embedded MQTT broker; the only one that names rmqtt | keep anything that counts |
//! | [`media`] | decoding and thumbnails; the only one that names GStreamer | touch the network or the store |
//! | [`edge`] | the agent on the box | know the hub's insides |
//! | [`hub`] | ingest, index, search, evidence | connect to a box |
//! | `load` | many boxes at once against a real hub, and the report | be used by any other module |
//! | [`demo`] | a small ward on loopback made of the real parts | be used by any other module |
//! | [`cli`] | commands and their output | hold logic |
//!
//! `edge` and `hub` share only what stands above them here. ARCHITECTURE.md has the invariants;
//! `tests/it/layers.rs` keeps the direction of imports true.
#![forbid(unsafe_op_in_unsafe_fn)]

/// A hub allocates some fifty times for each event: with the C library's allocator that is a fifth of its time.
#[cfg(feature = "hub")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod limits;
pub mod model;
pub mod wire;

pub mod journal;
pub mod metrics;
pub mod outage;
pub mod tls;
pub mod toml_file;

pub mod mqtt;

#[cfg(feature = "broker")]
pub mod broker;

#[cfg(feature = "media")]
pub mod media;

#[cfg(feature = "edge")]
pub mod edge;

#[cfg(feature = "hub")]
pub mod hub;

#[cfg(all(feature = "edge", feature = "hub"))]
pub mod load;

#[cfg(feature = "demo")]
pub mod demo;

pub mod cli;
