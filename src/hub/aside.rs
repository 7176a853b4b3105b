//! Setting aside: what a box sent and the hub can't take, with its place, its reason, and a bound.
//!
//! Owns which places of a message an unreadable event stands for, how much of what is set aside is kept for one
//! box, and its counters. May not lose a place: whatever has one goes into the truth, so that the receipt covers
//! it and the box goes on.

use std::collections::{HashMap, HashSet};

use prometheus::{IntCounterVec, Registry as Metrics};

use super::truth::HubRecord;
use crate::limits::{
    METRIC_BOXES_MAX, REFUSED_BOX_BYTES_PER_HOUR, REFUSED_BOX_LOGGED_PER_HOUR, REFUSED_BOX_UNPLACED_PER_HOUR,
};
use crate::metrics::Part;
use crate::model::{BoxId, Epoch, Time};
use crate::wire::{Decoded, Refusal, RefusalReason};

/// Where an event stands, as far as that is known.
pub type MaybePlace = (Option<Epoch>, Option<u64>);

/// For each item of a message the places that are refused with it: none for an event; its own if it could still
/// be read; else what of the message's range (epoch, first and last sequence) nothing else claims.
pub fn refused_places(items: &[Decoded], range: Option<(Epoch, u64, u64)>) -> Vec<Vec<MaybePlace>> {
    let own = |item: &Decoded| match item {
        Decoded::Event { event, .. } => Some((event.epoch, event.sequence)),
        Decoded::Refused(refusal) => refusal.epoch.zip(refusal.sequence),
    };
    let claimed: HashSet<(Epoch, u64)> = items.iter().filter_map(own).collect();
    let is_free = |epoch, sequence| !claimed.contains(&(epoch, sequence));
    let mut rest: Vec<MaybePlace> = match range {
        None => Vec::new(),
        Some((epoch, first, last)) => (first..=last)
            .filter(|&sequence| is_free(epoch, sequence))
            .map(|sequence| (Some(epoch), Some(sequence)))
            .collect(),
    };
    let is_one_each = range.is_some_and(|(_, first, last)| last - first + 1 == items.len() as u64);
    let places = |(n, item): (usize, &Decoded)| match (item, own(item), range) {
        (Decoded::Event { .. }, ..) => Vec::new(),
        (_, Some((epoch, sequence)), _) => vec![(Some(epoch), Some(sequence))],
        (_, None, Some((epoch, first, _))) if is_one_each && is_free(epoch, first + n as u64) => {
            vec![(Some(epoch), Some(first + n as u64))]
        }
        (_, None, Some(_)) if !is_one_each && !rest.is_empty() => std::mem::take(&mut rest),
        _ => vec![(None, None)],
    };
    items.iter().enumerate().map(places).collect()
}

/// Ends the detail of a refusal whose body was not kept.
const BODY_LOST: &str = "(body not kept: the box has used its share of this hour)";

/// False for the record of a further place of one message: its detail and body stand with the first.
pub fn is_of_its_own(detail: &str) -> bool {
    !detail.is_empty()
}

/// True if there was a body and it was not kept.
pub fn is_body_lost(detail: &str) -> bool {
    detail.ends_with(BODY_LOST)
}

/// Turns refusals into records, within a share of disk and log for each box.
pub struct SetAside {
    shares: HashMap<BoxId, Share>,
    hour: i64,
    counts: Counts,
    labelled: HashSet<BoxId>,
}

/// Of the hub, by reason; and by box too, for the figures of each.
struct Counts {
    all: IntCounterVec,
    by_box: IntCounterVec,
}

/// What one box has used in this hour.
#[derive(Default)]
struct Share {
    bytes: usize,
    unplaced: u64,
    logged: u64,
}

impl SetAside {
    /// Counts by reason in `metrics`, and by box in `of_each`.
    pub fn register(metrics: &Metrics, of_each: &Metrics) -> Result<Self, prometheus::Error> {
        Ok(Self::counting(Counts::register(metrics, of_each)?))
    }

    fn counting(counts: Counts) -> Self {
        Self { shares: HashMap::new(), hour: 0, counts, labelled: HashSet::new() }
    }

    /// The records of one refusal at `places`. The first one has the body, if the box's share still allows it;
    /// what has no place is kept as long as that is worth the disk, and counted in any case.
    pub fn records(
        &mut self,
        box_id: &BoxId,
        received: Time,
        refusal: Refusal,
        places: Vec<MaybePlace>,
    ) -> Vec<HubRecord> {
        let reason = refusal.reason.as_str();
        self.count(box_id, reason, places.len() as u64);
        self.log(box_id, received, reason, &refusal.detail);
        let share = self.share(box_id, received);
        let mut records = Vec::with_capacity(places.len());
        for (epoch, sequence) in places {
            let is_placed = epoch.is_some() && sequence.is_some();
            share.unplaced += u64::from(!is_placed);
            if !is_placed && share.unplaced > REFUSED_BOX_UNPLACED_PER_HOUR {
                continue;
            }
            let (id, (detail, body)) = match records.is_empty() {
                true => (refusal.id, share.keep(&refusal)),
                // The first one of the message says it for all.
                false => (None, (String::new(), Vec::new())),
            };
            let (box_id, reason) = (box_id.clone(), reason.to_owned());
            records.push(HubRecord::Refused { box_id, received, reason, detail, epoch, sequence, id, body });
        }
        records
    }

    /// Counts what is not even kept as a record: a status or a topic that can't be read.
    pub fn count(&mut self, box_id: &BoxId, reason: &str, count: u64) {
        if self.labelled.len() < METRIC_BOXES_MAX && !self.labelled.contains(box_id) {
            self.labelled.insert(box_id.clone());
        }
        let label = if self.labelled.contains(box_id) { box_id.as_str() } else { "other" };
        self.counts.all.with_label_values(&[reason]).inc_by(count);
        self.counts.by_box.with_label_values(&[label, reason]).inc_by(count);
    }

    /// A message on a topic that no box has.
    pub fn count_topic(&self) {
        self.counts.all.with_label_values(&["unexpected_topic"]).inc();
        self.counts.by_box.with_label_values(&["other", "unexpected_topic"]).inc();
    }

    fn log(&mut self, box_id: &BoxId, received: Time, reason: &str, detail: &str) {
        let share = self.share(box_id, received);
        share.logged += 1;
        match share.logged {
            n if n < REFUSED_BOX_LOGGED_PER_HOUR => {
                tracing::warn!(%box_id, reason, detail, "event set aside")
            }
            REFUSED_BOX_LOGGED_PER_HOUR => {
                tracing::warn!(%box_id, reason, detail, "event set aside; more of this hour are only counted");
            }
            _ => tracing::debug!(%box_id, reason, detail, "event set aside"),
        }
    }

    fn share(&mut self, box_id: &BoxId, received: Time) -> &mut Share {
        let hour = received.as_second().div_euclid(3600);
        if hour != self.hour {
            self.hour = hour;
            self.shares.clear();
        }
        self.shares.entry(box_id.clone()).or_default()
    }
}

impl Default for SetAside {
    /// Counts for nobody.
    fn default() -> Self {
        let nobody = Metrics::new();
        Self::counting(Counts::register(&nobody, &nobody).expect("each figure is registered once"))
    }
}

impl Counts {
    fn register(metrics: &Metrics, of_each: &Metrics) -> Result<Self, prometheus::Error> {
        let part = |registry| Part::new(registry, "camnet_hub_ingest_");
        let all = part(metrics).counters("refused_total", "Events that were set aside", &["reason"])?;
        // What is not there yet can't be seen to grow.
        for reason in RefusalReason::ALL {
            all.with_label_values(&[reason.as_str()]);
        }
        let help = "Events that were set aside, by box";
        let by_box = part(of_each).counters("box_refused_total", help, &["box", "reason"])?;
        Ok(Self { all, by_box })
    }
}

impl Share {
    /// Detail and body as they are kept.
    fn keep(&mut self, refusal: &Refusal) -> (String, Vec<u8>) {
        if self.bytes + refusal.body.len() > REFUSED_BOX_BYTES_PER_HOUR {
            let detail = format!("{} {BODY_LOST}", refusal.detail);
            return (detail, Vec::new());
        }
        self.bytes += refusal.body.len();
        (refusal.detail.clone(), refusal.body.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RefusalReason;

    const A: Epoch = Epoch(0xa);

    fn refused(place: Option<(Epoch, u64)>) -> Decoded {
        Decoded::Refused(refusal(place, 1))
    }

    fn refusal(place: Option<(Epoch, u64)>, bytes: usize) -> Refusal {
        let why = (RefusalReason::NotJson, "why".to_owned());
        Refusal::new(why, place.map(|p| p.0), place.map(|p| p.1), None, &vec![b'x'; bytes])
    }

    #[test]
    fn what_has_no_place_of_its_own_takes_what_the_message_leaves() {
        let place = |sequence| (Some(A), Some(sequence));
        let unknown = || refused(None);
        let known = |sequence| refused(Some((A, sequence)));
        let nowhere = vec![(None, None)];
        let table = [
            (vec![unknown()], None, vec![nowhere.clone()]),
            (vec![unknown()], Some((A, 3, 5)), vec![vec![place(3), place(4), place(5)]]),
            (vec![known(9)], Some((A, 3, 3)), vec![vec![place(9)]]),
            (
                vec![known(3), unknown(), known(5)],
                Some((A, 3, 5)),
                vec![vec![place(3)], vec![place(4)], vec![place(5)]],
            ),
            // The message's range and its items do not fit: the rest goes to the first that has no place.
            (vec![known(4), unknown()], Some((A, 3, 5)), vec![vec![place(4)], vec![place(3), place(5)]]),
            // A place that another item of the message claims is not refused under it.
            (vec![unknown(), known(3)], Some((A, 3, 4)), vec![nowhere, vec![place(3)]]),
        ];
        for (items, range, expected) in table {
            assert_eq!(refused_places(&items, range), expected, "{items:?} {range:?}");
        }
    }

    #[test]
    fn a_box_that_sends_rubbish_for_ever_is_bounded_and_counted() {
        let mut aside = SetAside::default();
        let (box_id, other) = (BoxId::new("box-01").unwrap(), BoxId::new("box-02").unwrap());
        let hour = |n: i64| Time::from_second(1_772_000_000 / 3600 * 3600 + n * 3600).unwrap();
        let bytes_kept = |aside: &mut SetAside, box_id: &BoxId, at: Time, place: Option<u64>| {
            let places = vec![(place.map(|_| A), place)];
            let records = aside.records(box_id, at, refusal(None, 10_000), places);
            assert!(place.is_none() || records.len() == 1, "what has a place is always kept");
            let body = |record: &HubRecord| match record {
                HubRecord::Refused { body, .. } => body.len(),
                other => panic!("{other:?}"),
            };
            (records.len(), records.iter().map(body).sum::<usize>())
        };
        let (mut records, mut bytes) = (0, 0);
        for n in 0..3000 {
            let kept = bytes_kept(&mut aside, &box_id, hour(0), (n % 2 == 0).then_some(n));
            records += kept.0;
            bytes += kept.1;
        }
        assert_eq!(records as u64, 1500 + REFUSED_BOX_UNPLACED_PER_HOUR);
        assert!(bytes <= REFUSED_BOX_BYTES_PER_HOUR && bytes > REFUSED_BOX_BYTES_PER_HOUR / 2, "{bytes}");
        assert_eq!(
            bytes_kept(&mut aside, &other, hour(0), Some(1)),
            (1, 10_000),
            "each box has its own share"
        );
        assert_eq!(
            bytes_kept(&mut aside, &box_id, hour(1), None),
            (1, 10_000),
            "each hour has its own share"
        );
        assert_eq!(aside.counts.by_box.with_label_values(&["box-01", "not_json"]).get(), 3001);
        assert_eq!(aside.counts.all.with_label_values(&["not_json"]).get(), 3002, "all are counted");
    }
}
