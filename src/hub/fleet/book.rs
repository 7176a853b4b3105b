//! The fleet's journal: how every device was doing, and what people did about it.
//!
//! Owns its records, which never expire, and what they come to: the states of each device over time, incidents, what
//! people decided, and work orders. What it holds is written before it is believed. May not judge.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::tz::{Offset, TimeZone};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::availability::States;
use super::burning::Burnt;
use super::cause::Cause;
use super::core::Told;
use super::standing::Decided;
use super::work::{Act, Orders};
use crate::journal::{Item, Journal, JournalError, Records};
use crate::limits::FLEET_INCIDENT_DEVICES_MAX;
use crate::model::{BoxId, DeviceId, DeviceState, Time, Trouble};

/// Version of the records that are written.
const VERSION: u32 = 1;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// When the hub wrote it.
    time: Time,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Entry {
    /// A device is doing otherwise than before, since then.
    State {
        device: DeviceId,
        state: DeviceState,
        since: Time,
        troubles: Vec<Trouble>,
    },
    BoxState {
        #[serde(rename = "box")]
        box_id: BoxId,
        state: DeviceState,
        since: Time,
        troubles: Vec<Trouble>,
    },
    Incident {
        incident: Uuid,
        cause: Cause,
        trouble: Trouble,
        since: Time,
        devices: Vec<DeviceId>,
    },
    IncidentEnded {
        incident: Uuid,
        at: Time,
    },
    /// Somebody takes a device out of service, or back into it.
    Decided {
        device: DeviceId,
        decided: Decided,
        actor: String,
        why: String,
    },
    Work {
        act: Act,
    },
    /// What lamp circuits did since the last such record.
    Burnt {
        upto: Time,
        of: Vec<(DeviceId, u16, Burnt)>,
    },
}

/// An incident, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KnownIncident {
    pub id: Uuid,
    pub cause: Cause,
    pub trouble: Trouble,
    pub since: Time,
    pub devices: Vec<DeviceId>,
    pub ended: Option<Time>,
}

/// What the records come to.
#[derive(Debug, Default)]
pub struct Known {
    pub states: BTreeMap<DeviceId, States>,
    /// What the newest state of a device comes from.
    pub troubles: BTreeMap<DeviceId, Vec<Trouble>>,
    pub boxes: BTreeMap<BoxId, (DeviceState, Time, Vec<Trouble>)>,
    pub incidents: BTreeMap<Uuid, KnownIncident>,
    /// Those that go on, by their cause.
    pub open: BTreeMap<Cause, Uuid>,
    pub decided: BTreeMap<DeviceId, Decided>,
    pub orders: Orders,
    /// By circuit and month of the ward; see [`month_of`].
    pub burnt: BTreeMap<(DeviceId, u16), BTreeMap<(i16, i8), Burnt>>,
    pub burnt_upto: Time,
}

/// A record of the journal: when the hub wrote it, and what.
pub fn decode(payload: &[u8]) -> Result<(Time, Entry), serde_json::Error> {
    let Record { time, entry, .. } = serde_json::from_slice(payload)?;
    Ok((time, entry))
}

/// What the records come to, for whoever looks.
#[derive(Default)]
pub struct Book {
    pub known: Known,
}

/// The journal, open for writing.
pub struct Pen {
    journal: Journal,
}

impl Pen {
    /// Opens the journal and reads all of it. Blocking.
    pub fn open(dir: &Path) -> Result<(Self, Book), JournalError> {
        let (journal, recovery) = Journal::open(dir)?;
        for damage in &recovery.damage {
            tracing::error!(%damage, "the fleet's journal is damaged");
        }
        let mut book = Book::default();
        for item in journal.read(journal.first()) {
            let Item::Record(record) = item? else { continue };
            match decode(&record.payload) {
                Ok((_, entry)) => book.known.take(entry),
                Err(error) => {
                    tracing::error!(number = record.number, %error, "a record of the fleet is unreadable")
                }
            }
        }
        Ok((Self { journal }, book))
    }

    /// Number that the next record gets.
    pub fn next(&self) -> u64 {
        self.journal.next()
    }

    /// What is durable, for other threads to read; see [`decode`].
    pub fn records(&self) -> Records {
        self.journal.records()
    }

    /// Writes entries; how many of them, from the first on, are durable on return. After a failed write the journal goes
    /// back to what is, and takes the rest another time. Blocking.
    pub fn write(&mut self, time: Time, entries: &[Entry]) -> (usize, Result<(), JournalError>) {
        if entries.is_empty() {
            return (0, Ok(()));
        }
        let before = self.journal.next();
        match self.append(time, entries) {
            Ok(()) => (entries.len(), Ok(())),
            Err(error) => {
                if let Err(again) = self.journal.reopen() {
                    tracing::debug!(error = %again, "the fleet's journal can't be opened anew");
                }
                let kept = usize::try_from(self.journal.next().saturating_sub(before)).unwrap_or(0);
                (kept.min(entries.len()), Err(error))
            }
        }
    }

    fn append(&mut self, time: Time, entries: &[Entry]) -> Result<(), JournalError> {
        for entry in entries {
            let record = Record { version: VERSION, time, entry: entry.clone() };
            self.journal.append(&serde_json::to_vec(&record).expect("records have only text keys"))?;
        }
        self.journal.sync()
    }
}

impl Book {
    /// What the fleet told, as entries.
    pub fn entries(&self, told: Vec<Told>) -> Vec<Entry> {
        let open = |cause: &Cause| self.known.open.get(cause).copied();
        let mut entries = Vec::new();
        for told in told {
            match told {
                Told::Device { device, change } => entries.push(Entry::State {
                    device,
                    state: change.state,
                    since: change.since,
                    troubles: change.troubles,
                }),
                Told::Box { box_id, change } => entries.push(Entry::BoxState {
                    box_id,
                    state: change.state,
                    since: change.since,
                    troubles: change.troubles,
                }),
                Told::Began(incident) | Told::Changed(incident) => entries.push(Entry::Incident {
                    incident: open(&incident.cause).unwrap_or_else(Uuid::now_v7),
                    cause: incident.cause,
                    trouble: incident.trouble,
                    since: incident.since,
                    devices: incident.devices.into_iter().take(FLEET_INCIDENT_DEVICES_MAX).collect(),
                }),
                Told::Ended { incident, at } => {
                    entries
                        .extend(open(&incident.cause).map(|incident| Entry::IncidentEnded { incident, at }));
                }
            }
        }
        entries
    }
}

impl Known {
    pub fn take(&mut self, entry: Entry) {
        match entry {
            Entry::State { device, state, since, troubles } => {
                let states = self.states.entry(device.clone()).or_default();
                // The same state for another reason begins nothing.
                if states.last().is_none_or(|&(_, last)| last != state) {
                    // A state that was found late ends the one before it where it began.
                    while states.last().is_some_and(|&(last, _)| last >= since) {
                        states.pop();
                    }
                    states.push((since, state));
                }
                self.troubles.insert(device, troubles);
            }
            Entry::BoxState { box_id, state, since, troubles } => {
                self.boxes.insert(box_id, (state, since, troubles));
            }
            Entry::Incident { incident, cause, trouble, since, devices } => {
                self.open.insert(cause.clone(), incident);
                let known = KnownIncident { id: incident, cause, trouble, since, devices, ended: None };
                self.incidents.insert(incident, known);
            }
            Entry::IncidentEnded { incident, at } => {
                if let Some(known) = self.incidents.get_mut(&incident) {
                    known.ended = Some(at);
                    self.open.remove(&known.cause);
                }
            }
            Entry::Decided { device, decided, .. } => {
                self.decided.insert(device, decided);
            }
            Entry::Burnt { upto, of } => {
                let month = month_of(upto);
                for (device, circuit, burnt) in of {
                    self.burnt.entry((device, circuit)).or_default().entry(month).or_default().add(&burnt);
                }
                self.burnt_upto = upto;
            }
            Entry::Work { act } => {
                if let Err(error) = self.orders.take(&act) {
                    tracing::error!(%error, "an act of the fleet's journal can't be done");
                }
            }
        }
    }
}

/// The month of a moment where people of the wards are, seven hours ahead of UTC.
pub fn month_of(at: Time) -> (i16, i8) {
    let date = at.to_zoned(TimeZone::fixed(Offset::constant(7))).date();
    (date.year(), date.month())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::fleet::standing::Change;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn state(seconds: i64, state: DeviceState) -> Told {
        let change = Change { state, since: at(seconds), troubles: Vec::new() };
        Told::Device { device: DeviceId::new("cam-01").unwrap(), change }
    }

    #[test]
    fn what_was_told_is_known_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let cause = Cause::Box("box-01".parse().unwrap());
        let devices = [DeviceId::new("cam-01").unwrap()].into();
        let incident = super::super::cause::Incident {
            cause: cause.clone(),
            since: at(10),
            trouble: Trouble::BoxSilent,
            devices,
        };
        let (mut pen, mut book) = Pen::open(dir.path()).unwrap();
        for told in [
            vec![state(0, DeviceState::Working)],
            vec![state(10, DeviceState::Unreachable), Told::Began(incident.clone())],
            vec![Told::Changed(incident.clone())],
            vec![state(70, DeviceState::Working), Told::Ended { incident, at: at(70) }],
        ] {
            let entries = book.entries(told);
            let (written, result) = pen.write(at(100), &entries);
            assert_eq!(written, entries.len());
            result.unwrap();
            entries.into_iter().for_each(|entry| book.known.take(entry));
        }
        drop(pen);
        let (_, book) = Pen::open(dir.path()).unwrap();
        let states = &book.known.states[&DeviceId::new("cam-01").unwrap()];
        let expected = [
            (at(0), DeviceState::Working),
            (at(10), DeviceState::Unreachable),
            (at(70), DeviceState::Working),
        ];
        assert_eq!(states.as_slice(), expected);
        let incidents: Vec<_> = book.known.incidents.values().collect();
        assert_eq!(incidents.len(), 1, "one from beginning to end: {incidents:?}");
        assert_eq!((incidents[0].ended, &incidents[0].cause), (Some(at(70)), &cause));
    }
}
