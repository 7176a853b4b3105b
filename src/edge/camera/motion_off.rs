//! The recorder's side of motion in a build without a decoder: nothing is looked at.
//!
//! Stands in for `motion` where feature media is off. May not do anything.

use tokio::sync::mpsc;

use super::metrics::CameraMetrics;
use super::session::AccessUnit;
use super::timing::Mapping;
use crate::edge::fmp4::Track;

/// There is nothing to say.
pub enum MotionInput {}

pub struct MotionFeed;

impl MotionFeed {
    pub fn new(_sender: Option<mpsc::Sender<MotionInput>>, _metrics: CameraMetrics) -> Self {
        Self
    }

    pub fn connected(&mut self) {}

    pub fn track(&mut self, _track: &Track) {}

    pub fn unit(&mut self, _unit: &AccessUnit, _mapping: Mapping) {}

    pub fn ended(&mut self) {}
}
