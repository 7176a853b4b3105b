//! How much a cause matters: one scale for Prometheus and webhooks.
//!
//! Owns the scale. Pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cause::{Cause, CauseKind};
use crate::model::{DeviceState, Trouble};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It does its job, not well: somebody should look this week.
    #[default]
    Info,
    /// Something does not do its job: somebody should go there.
    Warning,
    /// An area, or everything, is cut off: somebody should call now.
    Critical,
}

impl Severity {
    pub fn of(cause: &Cause, trouble: Trouble) -> Self {
        match (cause.kind(), trouble.state()) {
            (CauseKind::Hub | CauseKind::Area, _) => Self::Critical,
            (_, DeviceState::NotRecording | DeviceState::Unreachable) => Self::Warning,
            _ => Self::Info,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wider_and_the_worse_matters_more() {
        let check = |cause: &Cause, trouble, expected| assert_eq!(Severity::of(cause, trouble), expected);
        let device = Cause::Device("cam-01".parse().unwrap());
        check(&Cause::Hub, Trouble::BoxSilent, Severity::Critical);
        check(&Cause::Area("khu-pho-1".parse().unwrap()), Trouble::BoxSilent, Severity::Critical);
        check(&Cause::Site("cho".parse().unwrap()), Trouble::BoxSilent, Severity::Warning);
        check(&device, Trouble::CameraUnreachable, Severity::Warning);
        check(&device, Trouble::PictureBlurred, Severity::Info);
        check(&Cause::Box("box-01".parse().unwrap()), Trouble::Hot, Severity::Info);
    }
}
