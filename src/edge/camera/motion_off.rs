//! The recorder's side of motion in a build without a decoder: nothing is looked at.
//!
//! Stands in for `motion` where feature media is off. May not do anything.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::mpsc;

use super::metrics::CameraMetrics;
use super::session::AccessUnit;
use super::timing::Mapping;
use crate::edge::fmp4::Track;

/// There is nothing to say.
pub enum MotionInput {}

/// The camera may tell of motion itself.
#[derive(Default)]
pub struct Turns {
    pub camera_tells: Arc<AtomicBool>,
}

pub enum Which {
    Recorded,
}

pub struct MotionFeed;

impl MotionFeed {
    pub fn new(
        _which: Which,
        _turns: Arc<Turns>,
        _sender: Option<mpsc::Sender<MotionInput>>,
        _metrics: CameraMetrics,
    ) -> Self {
        Self
    }

    pub fn connected(&mut self) {}

    pub fn track(&mut self, _track: &Track) {}

    pub fn unit(&mut self, _unit: &AccessUnit, _mapping: Mapping) {}

    pub fn ended(&mut self) {}
}
