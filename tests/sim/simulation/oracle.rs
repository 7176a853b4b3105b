//! What must be true, told by someone who saw everything.

use std::collections::{BTreeMap, BTreeSet};

use camnet::hub::catalog::lay_out;
use camnet::model::{Coverage, CoverageSpan, DeviceId, Epoch, Ranges, Time};
use uuid::Uuid;

use super::hub::Hub;
use super::index::Row;

/// An event that was offered to an outbox.
#[derive(Debug, Clone)]
pub struct Offered {
    pub box_name: String,
    /// The outbox said Ok.
    pub is_accepted: bool,
    pub place: Option<(Epoch, u64)>,
    /// If its place is not known: where it may stand, the outbox having failed after it wrote.
    pub may_stand: Option<(Epoch, Ranges)>,
    /// It will be set aside by the hub.
    pub is_bad: bool,
    /// The disk that had it was replaced by an older image, or it shares its place with another box's event: it may be
    /// lost, but then no receipt may cover it.
    pub may_be_lost: bool,
    /// Two live boxes gave out its place: it may be lost.
    pub is_shared: bool,
}

#[derive(Default)]
pub struct Oracle {
    pub offered: BTreeMap<Uuid, Offered>,
    /// Enrolled cameras, each with the time from which its account must be whole.
    pub cameras: BTreeMap<DeviceId, Time>,
    /// Boxes of which two lived in one epoch: what they reported of one camera may contradict itself, and parts of it
    /// may be lost. The hub keeps what came and asks for a new epoch; more it can't do.
    pub shared: BTreeSet<String>,
    /// Events of such boxes that the hub acknowledged.
    pub acknowledged: BTreeSet<Uuid>,
    /// Boxes whose clock jumped back: the account that they go on with may lie before what they reported once.
    pub set_back: BTreeSet<String>,
    /// To where the account of each camera must reach.
    pub accounted: BTreeMap<DeviceId, Time>,
}

impl Offered {
    fn may_be_at(&self, epoch: Epoch, sequences: &Ranges) -> bool {
        match (&self.place, &self.may_stand) {
            (Some((at, sequence)), _) => *at == epoch && sequences.contains(*sequence),
            (None, Some((at, theirs))) => {
                *at == epoch
                    && theirs.iter().any(|(first, last)| {
                        sequences.range_at_or_after(first).is_some_and(|(from, _)| from <= last)
                    })
            }
            (None, None) => false,
        }
    }
}

impl Oracle {
    /// Marks what else of `box_name` may have one of these places; true if there is something.
    pub fn share(&mut self, box_name: &str, epoch: Epoch, sequences: &Ranges) -> bool {
        let others = self.offered.values_mut();
        let others = others.filter(|other| other.box_name == box_name && other.may_be_at(epoch, sequences));
        others.map(|other| other.is_shared = true).count() > 0
    }

    /// All of `box_name` that was accepted from now on may be lost with the disk; called when an older image is put
    /// in, with what the hub has by now.
    pub fn disk_replaced(&mut self, box_name: &str, kept: &BTreeSet<Uuid>) {
        for (id, offered) in &mut self.offered {
            if offered.box_name == box_name && !kept.contains(id) {
                offered.may_be_lost = true;
            }
        }
    }

    /// Nothing more to wait for?
    pub fn is_done(&self, hub: &Hub) -> bool {
        self.lost(hub).next().is_none()
    }

    /// Accepted, and neither in the index nor excused.
    fn lost<'a>(&'a self, hub: &'a Hub) -> impl Iterator<Item = (&'a Uuid, &'a Offered)> {
        let shown: BTreeSet<Uuid> = hub.index.rows().iter().map(|row| row.id).collect();
        self.offered.iter().filter(move |(id, offered)| {
            let is_there = match (offered.is_bad, offered.place) {
                (true, Some((epoch, sequence))) => {
                    hub.index.refused().contains_key(&(offered.box_name.clone(), epoch, sequence, **id))
                }
                _ => shown.contains(id),
            };
            offered.is_accepted && !is_there && !offered.may_be_lost && !offered.is_shared
        })
    }

    /// What is wrong in the end.
    pub fn check(&self, hub: &Hub) -> Result<(), String> {
        if let Some((id, offered)) = self.lost(hub).next() {
            return Err(format!("accepted, and not in the index: {id} {offered:?}"));
        }
        self.check_rows(hub.index.rows())?;
        for (place, count) in hub.index.refused() {
            if *count > 1 {
                return Err(format!("set aside {count} times: {place:?}"));
            }
        }
        self.check_acknowledged(hub)?;
        self.check_excused(hub)?;
        self.check_coverage(hub.index.rows())
    }

    /// Nothing twice, nothing invented, no place taken twice without a word.
    fn check_rows(&self, rows: &[Row]) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        let mut places: BTreeMap<(&str, Epoch, u64), u32> = BTreeMap::new();
        for row in rows {
            // The boot event is the outbox's own.
            let is_boot = row.sequence == 1;
            if !is_boot && !self.offered.contains_key(&row.id) {
                return Err(format!("in the index, and offered by nobody: {row:?}"));
            }
            if !ids.insert(row.id) {
                return Err(format!("in the index twice: {row:?}"));
            }
            let unmarked = places.entry((&row.box_name, row.epoch, row.sequence)).or_default();
            *unmarked += u32::from(!row.conflict);
            if *unmarked > 1 {
                return Err(format!("two events with one place, and none is marked: {row:?}"));
            }
            if row.conflict && !self.shared.contains(&row.box_name) && !self.is_of_an_image(row, rows) {
                return Err(format!("a conflict, and no two boxes shared the place: {row:?}"));
            }
        }
        Ok(())
    }

    /// True if one with this row's place was never accepted: an image of the disk was taken after it was written and
    /// before it was taken back, and the place went to another.
    fn is_of_an_image(&self, row: &Row, rows: &[Row]) -> bool {
        let place = |row: &Row| (row.box_name.clone(), row.epoch, row.sequence);
        let mut others = rows.iter().filter(|other| place(other) == place(row));
        others.any(|other| self.offered.get(&other.id).is_some_and(|offered| !offered.is_accepted))
    }

    /// What the hub acknowledged it has, whoever else had the place.
    fn check_acknowledged(&self, hub: &Hub) -> Result<(), String> {
        let rows = hub.index.rows().iter().map(|row| row.id);
        let kept: BTreeSet<Uuid> = rows.chain(hub.index.refused().keys().map(|aside| aside.3)).collect();
        match self.acknowledged.difference(&kept).next() {
            Some(id) => Err(format!("acknowledged, and not in the index: {id} {:?}", self.offered.get(id))),
            None => Ok(()),
        }
    }

    /// What may be lost is named: no receipt claims to have it.
    fn check_excused(&self, hub: &Hub) -> Result<(), String> {
        let shown: BTreeSet<Uuid> = hub.index.rows().iter().map(|row| row.id).collect();
        for (id, offered) in &self.offered {
            let Some((epoch, sequence)) = offered.place else { continue };
            if !offered.is_accepted || offered.is_shared || offered.is_bad || shown.contains(id) {
                continue;
            }
            let receipt = hub.receipt(&offered.box_name, epoch);
            if receipt.is_some_and(|receipt| receipt.covers(sequence)) {
                return Err(format!("lost with its disk, but a receipt covers it: {id} {offered:?}"));
            }
        }
        Ok(())
    }

    fn has_lost_with_disk(&self, box_name: &str, rows: &[Row]) -> bool {
        let is_lost = |(id, offered): (&Uuid, &Offered)| {
            offered.box_name == box_name
                && offered.may_be_lost
                && offered.is_accepted
                && !rows.iter().any(|row| row.id == *id)
        };
        self.offered.iter().any(is_lost)
    }

    /// From enrolment to the end recorded or gap, without hole or overlap.
    fn check_coverage(&self, rows: &[Row]) -> Result<(), String> {
        for (device, from) in &self.cameras {
            let Some(to) = self.accounted.get(device) else { continue };
            let is_of = |name: &String| device.as_str().ends_with(name.as_str());
            if self.shared.iter().any(is_of) {
                continue;
            }
            // Reports that were lost with a disk are named as missing, and only a later account makes up for them.
            if self.set_back.iter().any(|name| is_of(name) && self.has_lost_with_disk(name, rows)) {
                continue;
            }
            let spans = lay_out(latest_spans(rows, device));
            let mut reached = *from;
            for span in &spans {
                if span.start > reached {
                    return Err(format!("{device}: hole in the account from {reached} to {}", span.start));
                }
                if span.start < reached && span.start > *from {
                    return Err(format!("{device}: overlap in the account at {}", span.start));
                }
                reached = reached.max(span.end);
            }
            if reached < *to {
                return Err(format!("{device}: the account ends at {reached}, not at {to}"));
            }
        }
        Ok(())
    }
}

/// The latest report of each span, as the index keeps it.
fn latest_spans(rows: &[Row], device: &DeviceId) -> Vec<CoverageSpan> {
    let mut latest: BTreeMap<Uuid, (Epoch, u64, &Coverage)> = BTreeMap::new();
    for row in rows {
        let Some((of, coverage)) = &row.coverage else { continue };
        if of != device {
            continue;
        }
        let is_later = latest.get(&coverage.span).is_none_or(|(epoch, sequence, old)| {
            if *epoch == row.epoch {
                row.sequence > *sequence
            } else {
                (coverage.upto, !coverage.open) > (old.upto, !old.open)
            }
        });
        if is_later {
            latest.insert(coverage.span, (row.epoch, row.sequence, coverage));
        }
    }
    let spans = latest.into_values().map(|(_, _, coverage)| CoverageSpan {
        span: Some(coverage.span),
        state: coverage.state,
        start: coverage.start,
        end: coverage.upto,
        open: coverage.open,
        merkle_root: None,
    });
    spans.collect()
}
