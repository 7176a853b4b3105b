//! How long an event takes from the moment its box made it to the moment a search finds it.
//!
//! Owns one histogram, `camnet_hub_motion_searchable_seconds`. May not decide anything. Batches that are replayed
//! (start, reindex) are not observed: they were searchable before.

use prometheus::{Histogram, Registry};

use super::truth::HubRecord;
use crate::metrics::Part;
use crate::model::{EventData, Time};

/// From 5 ms to about three hours; what is older (a backlog) goes above the last one.
const FIRST_BUCKET_S: f64 = 0.005;
const BUCKET_GROWTH: f64 = 1.6;
const BUCKETS: usize = 32;

/// Observes batches that have just entered the index.
#[derive(Clone)]
pub struct Searchable {
    seconds: Histogram,
}

impl Searchable {
    pub fn register(metrics: &Registry) -> Result<Self, prometheus::Error> {
        let help = "From the moment a box made a motion event (its UUIDv7) to the moment a search finds it";
        let buckets = prometheus::exponential_buckets(FIRST_BUCKET_S, BUCKET_GROWTH, BUCKETS)?;
        let part = Part::new(metrics, "camnet_hub_");
        Ok(Self { seconds: part.histogram("motion_searchable_seconds", help, buckets)? })
    }

    /// Call after `records` were applied. Box and hub have clocks of their own: a difference shows as latency,
    /// and what would be negative counts as none.
    pub fn observe(&self, records: &[HubRecord], now: Time) {
        let now_ms = now.as_millisecond();
        for record in records {
            let HubRecord::Event(arrived) = record else { continue };
            if let EventData::Motion(_) = arrived.event.data
                && arrived.event.id.get_version_num() == 7
            {
                let made_ms = (arrived.event.id.as_u128() >> 80) as i64;
                self.seconds.observe((now_ms - made_ms).max(0) as f64 / 1000.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::hub::truth::Arrived;
    use crate::model::{
        BoxId, ClockQuality, ClockSource, Epoch, Event, Motion, MotionPhase, Source, Status, SyncState,
    };

    fn record(made_ms: u64, data: EventData) -> HubRecord {
        let box_id = BoxId::new("box-01").unwrap();
        let event = Event {
            id: uuid::Builder::from_unix_timestamp_millis(made_ms, &[7; 10]).into_uuid(),
            source: Source::of_box(&box_id),
            epoch: Epoch(1),
            sequence: 1,
            time: Time::UNIX_EPOCH,
            clock: ClockQuality {
                source: ClockSource::Box,
                sync: SyncState::Unknown,
                offset_ms: None,
                uncertainty_ms: None,
            },
            data,
        };
        HubRecord::Event(Arrived::of(event, Time::UNIX_EPOCH))
    }

    #[test]
    fn motion_counts_from_its_making_and_nothing_else_counts() {
        let searchable = Searchable::register(&Registry::new()).unwrap();
        let motion = EventData::Motion(Motion::new(Uuid::nil(), MotionPhase::Start, Time::UNIX_EPOCH, 0.5));
        let status = EventData::Status(Status::new(true, None));
        let now = Time::from_millisecond(10_000).unwrap();
        searchable.observe(&[record(9_000, motion.clone()), record(1_000, status)], now);
        assert_eq!((searchable.seconds.get_sample_count(), searchable.seconds.get_sample_sum()), (1, 1.0));
        searchable.observe(&[record(11_000, motion)], now);
        assert_eq!(searchable.seconds.get_sample_sum(), 1.0, "a box whose clock runs ahead");
    }
}
