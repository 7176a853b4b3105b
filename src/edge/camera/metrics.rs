//! What the cameras of a box count, for the technician.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::metrics::Part;
use crate::model::DeviceId;

/// Metrics of all cameras; register once per process.
#[derive(Clone)]
pub struct CamerasMetrics {
    connected: IntGaugeVec,
    connections_failed: IntCounterVec,
    access_units: IntCounterVec,
    key_frames: IntCounterVec,
    access_units_skipped: IntCounterVec,
    bytes: IntCounterVec,
    audio_frames: IntCounterVec,
    audio_frames_skipped: IntCounterVec,
    lost_packets: IntCounterVec,
    sender_reports: IntCounterVec,
    metadata_messages: IntCounterVec,
    metadata_refused: IntCounterVec,
    fragments: IntCounterVec,
    ring_bytes: IntCounterVec,
    ring_errors: IntCounterVec,
    clock_shifts: IntCounterVec,
    motion_units_dropped: IntCounterVec,
    motion_units_decoded: IntCounterVec,
    motion_frames: IntCounterVec,
    motion_decoder: IntGaugeVec,
    motion_faults: IntCounterVec,
    clips: IntCounterVec,
    clips_failed: IntCounterVec,
}

/// The metrics of one camera.
#[derive(Clone)]
pub struct CameraMetrics {
    pub connected: IntGauge,
    pub connections_failed: IntCounter,
    pub access_units: IntCounter,
    pub key_frames: IntCounter,
    pub access_units_skipped: IntCounter,
    pub bytes: IntCounter,
    pub audio_frames: IntCounter,
    pub audio_frames_skipped: IntCounter,
    pub lost_packets: IntCounter,
    pub sender_reports: IntCounter,
    pub metadata_messages: IntCounter,
    pub metadata_refused: IntCounter,
    pub fragments: IntCounter,
    pub ring_bytes: IntCounter,
    pub ring_errors: IntCounter,
    pub clock_shifts: IntCounter,
    pub motion_units_dropped: IntCounter,
    pub motion_units_decoded: IntCounter,
    pub motion_frames: IntCounter,
    device: DeviceId,
    decoder: IntGaugeVec,
    pub motion_faults: IntCounter,
    pub clips: IntCounter,
    pub clips_failed: IntCounter,
}

impl CamerasMetrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let part = Part::new(registry, "camnet_edge_camera_");
        let counter = |name: &str, help: &str| part.counters(name, help, &["device"]);
        Ok(Self {
            connected: part.gauges("connected", "1 while the camera sends pictures", &["device"])?,
            connections_failed: counter("connections_failed_total", "Connections that failed or ended")?,
            access_units: counter("access_units_total", "Access units received")?,
            key_frames: counter("key_frames_total", "Access units received at which decoding may begin")?,
            access_units_skipped: counter("access_units_skipped_total", "Access units before a key frame")?,
            bytes: counter("bytes_total", "Bytes of video received")?,
            audio_frames: counter("audio_frames_total", "Audio frames received")?,
            audio_frames_skipped: counter(
                "audio_frames_skipped_total",
                "Audio frames without pictures of their time",
            )?,
            lost_packets: counter("lost_packets_total", "RTP packets that were lost")?,
            sender_reports: counter("sender_reports_total", "RTCP sender reports received")?,
            metadata_messages: counter("metadata_messages_total", "ONVIF metadata messages read")?,
            metadata_refused: counter("metadata_refused_total", "ONVIF metadata messages not understood")?,
            fragments: counter("fragments_total", "Fragments written to the ring")?,
            ring_bytes: counter("ring_bytes_total", "Bytes written to the ring")?,
            ring_errors: counter("ring_errors_total", "Times the ring could not be written")?,
            clock_shifts: counter("clock_shifts_total", "Runs ended because their clock shifted")?,
            motion_units_dropped: counter(
                "motion_units_dropped_total",
                "Access units not looked at for motion",
            )?,
            motion_units_decoded: counter(
                "motion_units_decoded_total",
                "Access units decoded to look for motion",
            )?,
            motion_decoder: part.gauges(
                "motion_decoder",
                "1 for the decoder that motion is looked for with",
                &["device", "decoder"],
            )?,
            motion_frames: counter("motion_frames_total", "Pictures looked at for motion")?,
            motion_faults: counter("motion_faults_total", "Times the motion decoder failed")?,
            clips: counter("clips_total", "Clips cut")?,
            clips_failed: counter("clips_failed_total", "Clips that could not be cut")?,
        })
    }

    pub fn of(&self, device: &DeviceId) -> CameraMetrics {
        let label = [device.as_str()];
        CameraMetrics {
            connected: self.connected.with_label_values(&label),
            connections_failed: self.connections_failed.with_label_values(&label),
            access_units: self.access_units.with_label_values(&label),
            key_frames: self.key_frames.with_label_values(&label),
            access_units_skipped: self.access_units_skipped.with_label_values(&label),
            bytes: self.bytes.with_label_values(&label),
            audio_frames: self.audio_frames.with_label_values(&label),
            audio_frames_skipped: self.audio_frames_skipped.with_label_values(&label),
            lost_packets: self.lost_packets.with_label_values(&label),
            sender_reports: self.sender_reports.with_label_values(&label),
            metadata_messages: self.metadata_messages.with_label_values(&label),
            metadata_refused: self.metadata_refused.with_label_values(&label),
            fragments: self.fragments.with_label_values(&label),
            ring_bytes: self.ring_bytes.with_label_values(&label),
            ring_errors: self.ring_errors.with_label_values(&label),
            clock_shifts: self.clock_shifts.with_label_values(&label),
            motion_units_dropped: self.motion_units_dropped.with_label_values(&label),
            motion_units_decoded: self.motion_units_decoded.with_label_values(&label),
            motion_frames: self.motion_frames.with_label_values(&label),
            device: device.clone(),
            decoder: self.motion_decoder.clone(),
            motion_faults: self.motion_faults.with_label_values(&label),
            clips: self.clips.with_label_values(&label),
            clips_failed: self.clips_failed.with_label_values(&label),
        }
    }
}

impl CameraMetrics {
    /// Says which decoder motion is looked for with.
    pub fn motion_decoder(&self, name: &str) {
        self.decoder.with_label_values(&[self.device.as_str(), name]).set(1);
    }
}
