//! The words of the system: ids, events, clips, coverage, places, clock quality.
//!
//! Owns the types that every part speaks. May not do I/O, read a clock or know a format on the
//! wire; [`crate::wire`] does that.

mod coverage;
mod event;
mod health;
mod ids;
pub mod merkle;
mod nal;
mod place;
mod purpose;
mod ranges;
mod sha;
mod state;

pub use coverage::{CoverageSpan, GapCause, SpanState};
pub use event::{
    Boot, ClipCut, ClockCorrection, ClockQuality, ClockSource, Coverage, Event, EventData, Fault, FaultPhase,
    Gate, GateReason, Lamp, LampAct, LampCommanded, LampReason, Motion, MotionPhase, Previous, RunCommitment,
    SeenBy, Source, Status, Still, SyncState, Video,
};
pub use health::{BoxHealth, BoxStart, CameraHealth, PictureFault, SelfTest, SelfTestResult};
pub use ids::{AreaId, BoxId, DeviceId, Epoch, IdError, SiteId, StreetId};
pub use nal::{Picture, VideoCodec};
pub use place::{
    Area, Device, DeviceKind, FormerName, LampCircuit, LatLon, Point, Sector, Site, Street, View, ahead,
    bearing_deg, distance_m,
};
pub use purpose::{PURPOSE_HEADER, purpose_from_header, purpose_to_header};
pub use ranges::Ranges;
pub use sha::Sha256Hash;
pub use state::{DeviceState, Trouble};

/// A moment in UTC. The calendar and the zone are presentation and live at the rim.
pub type Time = jiff::Timestamp;
