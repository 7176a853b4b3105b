//! How a device is doing, in words that a person understands, and what is wrong with it.
//!
//! Owns which trouble leads to which state. May not know how a trouble is found (the hub's fleet does).

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{GapCause, PictureFault};

/// How a device is doing (tình trạng), the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// It does what it is there for.
    Working,
    /// It does, but not well: what it gives may be of no use.
    Degraded,
    /// It is there, and does not do what it is there for: a camera that does not record, a lamp that gives no light.
    NotRecording,
    /// Nothing is heard of it.
    Unreachable,
    /// Somebody works on it: nothing that is found counts.
    Maintenance,
    /// It is no longer in use.
    Retired,
}

/// What is wrong with a device or a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Its box is off, or has no link: nothing is known of it.
    BoxSilent,
    /// Its box is there and has not spoken of it for too long.
    Silent,
    CameraUnreachable,
    StreamBroken,
    DiskFull,
    /// The box's disk can't be written or read.
    DiskFailed,
    PausedByOwner,
    /// Footage of the ring can't be read back.
    SelfTestFailed,
    PictureDark,
    PictureCovered,
    PictureBlurred,
    PictureFrozen,
    PictureMoved,
    FewPictures,
    PacketsLost,
    ClockOff,
    /// The ring holds less than promised.
    RingShort,
    /// Motion is not looked for.
    MotionBlind,
    CabinetUnreachable,
    CabinetFault,
    /// Switched on, and no power is drawn (TALQ: supplyLoss).
    SupplyLoss,
    /// Some lamps of the circuit give no light (TALQ: lampFailure).
    LampFailure,
    /// Power is drawn though it is switched off.
    OnWhenOff,
    /// It burns by day.
    OnByDay,
    /// It is off by night.
    OffByNight,
    /// A gate was opened by force, or its sensor was tampered with.
    Forced,
    BatteryLow,
    DiskWorn,
    Hot,
    UnderVoltage,
    /// The box starts again and again.
    Restarts,
}

impl Trouble {
    pub const ALL: [Self; 31] = [
        Self::BoxSilent,
        Self::Silent,
        Self::CameraUnreachable,
        Self::StreamBroken,
        Self::DiskFull,
        Self::DiskFailed,
        Self::PausedByOwner,
        Self::SelfTestFailed,
        Self::PictureDark,
        Self::PictureCovered,
        Self::PictureBlurred,
        Self::PictureFrozen,
        Self::PictureMoved,
        Self::FewPictures,
        Self::PacketsLost,
        Self::ClockOff,
        Self::RingShort,
        Self::MotionBlind,
        Self::CabinetUnreachable,
        Self::CabinetFault,
        Self::SupplyLoss,
        Self::LampFailure,
        Self::OnWhenOff,
        Self::OnByDay,
        Self::OffByNight,
        Self::Forced,
        Self::BatteryLow,
        Self::DiskWorn,
        Self::Hot,
        Self::UnderVoltage,
        Self::Restarts,
    ];

    /// What a device with this trouble is, at best.
    pub fn state(self) -> DeviceState {
        match self {
            Self::BoxSilent | Self::Silent | Self::CameraUnreachable | Self::CabinetUnreachable => {
                DeviceState::Unreachable
            }
            Self::StreamBroken
            | Self::DiskFull
            | Self::DiskFailed
            | Self::PausedByOwner
            | Self::CabinetFault
            | Self::SupplyLoss
            | Self::OffByNight => DeviceState::NotRecording,
            Self::SelfTestFailed
            | Self::PictureDark
            | Self::PictureCovered
            | Self::PictureBlurred
            | Self::PictureFrozen
            | Self::PictureMoved
            | Self::FewPictures
            | Self::PacketsLost
            | Self::ClockOff
            | Self::RingShort
            | Self::MotionBlind
            | Self::LampFailure
            | Self::OnWhenOff
            | Self::OnByDay
            | Self::Forced
            | Self::BatteryLow
            | Self::DiskWorn
            | Self::Hot
            | Self::UnderVoltage
            | Self::Restarts => DeviceState::Degraded,
        }
    }

    /// Within which time after it began, or after its box said so, it is shown: what is promised, and measured by
    /// `benches/fleet`.
    pub fn shown_within(self) -> SignedDuration {
        let seconds = match self {
            // A link that goes without a word is noticed by the broker, after one and a half keep-alives.
            Self::BoxSilent => 120,
            // By its own rhythm; see `hub::fleet::rhythm`.
            Self::Silent => 7200,
            Self::PictureFrozen => 180,
            Self::PictureDark | Self::PictureCovered | Self::PictureBlurred | Self::PictureMoved => 120,
            Self::ClockOff | Self::FewPictures | Self::PacketsLost => 120,
            Self::RingShort | Self::SelfTestFailed => 86_400,
            // With the next word of the circuit.
            Self::OnByDay | Self::OffByNight => 1200,
            _ => 90,
        };
        SignedDuration::from_secs(seconds)
    }

    /// What a gap in a camera's account says of it now.
    pub fn of_gap(cause: GapCause) -> Self {
        match cause {
            GapCause::BoxOff | GapCause::NotYetReported => Self::BoxSilent,
            GapCause::CameraUnreachable => Self::CameraUnreachable,
            GapCause::StreamBroken => Self::StreamBroken,
            GapCause::DiskFull => Self::DiskFull,
            GapCause::DiskFailed => Self::DiskFailed,
            GapCause::ClockUnsure => Self::ClockOff,
            GapCause::PausedByOwner => Self::PausedByOwner,
        }
    }

    pub fn of_picture(fault: PictureFault) -> Self {
        match fault {
            PictureFault::Dark => Self::PictureDark,
            PictureFault::Covered => Self::PictureCovered,
            PictureFault::Blurred => Self::PictureBlurred,
            PictureFault::Frozen => Self::PictureFrozen,
            PictureFault::Moved => Self::PictureMoved,
        }
    }
}
