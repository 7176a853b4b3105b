//! Work orders (phiếu sửa chữa): who mends what, and the proof that it is mended.
//!
//! Owns their rules: a cause opens one order, people write what they did, and only a good probe closes it. Pure: acts in,
//! orders out; the fleet's journal keeps the acts, so the orders are what the acts make of them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::cause::Cause;
use crate::limits::{WORK_NOTES_MAX, WORK_TEXT_CHARS_MAX};
use crate::model::{DeviceId, Sha256Hash, Time, Trouble};

/// Something that happened to an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Act {
    pub order: Uuid,
    pub time: Time,
    /// Who did it; the hub itself where nobody did.
    pub actor: String,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum What {
    Open {
        cause: Cause,
        trouble: Trouble,
        devices: Vec<DeviceId>,
        since: Time,
    },
    /// To whom it is given; nobody takes it back.
    Assign {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    Note {
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        photo: Option<Sha256Hash>,
    },
    Part {
        name: String,
        count: u32,
    },
    /// Somebody says that it is mended; the next probe shows.
    Mended,
    /// A good probe after it was mended: the proof.
    Prove {
        device: DeviceId,
        probed: Time,
    },
    /// The probe after it was said to be mended found it wrong again.
    Disprove {
        trouble: Trouble,
    },
    /// It is well again though nobody said that he mended it.
    Recover {
        probed: Time,
    },
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Open,
    Assigned,
    /// Said to be mended; not proved yet.
    Unproved,
    Closed,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Order {
    pub id: Uuid,
    pub cause: Cause,
    pub trouble: Trouble,
    pub devices: BTreeSet<DeviceId>,
    /// Since when it is wrong, and since when there is an order.
    pub since: Time,
    pub opened: Time,
    pub stage: Stage,
    pub assignee: Option<String>,
    pub notes: Vec<Note>,
    pub parts: Vec<(String, u32)>,
    pub mended: Option<Time>,
    pub closed: Option<Time>,
    /// Devices that were probed well since it was mended.
    pub proved: BTreeMap<DeviceId, Time>,
    /// Times that it was said to be mended and was not.
    pub disproved: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Note {
    pub time: Time,
    pub actor: String,
    pub text: String,
    pub photo: Option<Sha256Hash>,
}

/// Why an act can't be done. Each says what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    #[error("there is no work order {0}")]
    Unknown(Uuid),
    #[error("work order {0} is closed; if it is broken again, a new one opens by itself")]
    Closed(Uuid),
    #[error("there is a work order {0} already")]
    Known(Uuid),
    #[error("a note has 1 to {WORK_TEXT_CHARS_MAX} characters")]
    Text,
    #[error("a work order has at most {WORK_NOTES_MAX} notes and parts")]
    Full,
}

/// Every order, by id.
#[derive(Debug, Default)]
pub struct Orders {
    orders: BTreeMap<Uuid, Order>,
    /// Those that are not closed, by what they are about.
    open: BTreeMap<Cause, Uuid>,
}

impl Orders {
    pub fn get(&self, id: Uuid) -> Option<&Order> {
        self.orders.get(&id)
    }

    pub fn all(&self) -> impl Iterator<Item = &Order> {
        self.orders.values()
    }

    /// Every order that is not closed.
    pub fn all_open(&self) -> impl Iterator<Item = &Order> {
        self.open.values().filter_map(|&id| self.get(id))
    }

    /// The order about a cause that is not closed.
    pub fn open_about(&self, cause: &Cause) -> Option<&Order> {
        self.open.get(cause).and_then(|&id| self.get(id))
    }

    /// Does an act, or says why not. The same acts in the same order make the same orders.
    pub fn take(&mut self, act: &Act) -> Result<&Order, WorkError> {
        if let What::Open { cause, trouble, devices, since } = &act.what {
            if self.orders.contains_key(&act.order) {
                return Err(WorkError::Known(act.order));
            }
            let order = Order {
                id: act.order,
                cause: cause.clone(),
                trouble: *trouble,
                devices: devices.iter().cloned().collect(),
                since: *since,
                opened: act.time,
                stage: Stage::Open,
                assignee: None,
                notes: Vec::new(),
                parts: Vec::new(),
                mended: None,
                closed: None,
                proved: BTreeMap::new(),
                disproved: 0,
            };
            self.open.insert(cause.clone(), act.order);
            return Ok(self.orders.entry(act.order).or_insert(order));
        }
        let order = self.orders.get_mut(&act.order).ok_or(WorkError::Unknown(act.order))?;
        order.take(act)?;
        if order.stage == Stage::Closed && self.open.get(&order.cause) == Some(&order.id) {
            self.open.remove(&order.cause);
        }
        Ok(order)
    }
}

impl Order {
    /// Does an act on this order, or says why not; then it is as it was.
    pub fn take(&mut self, act: &Act) -> Result<(), WorkError> {
        // What was learnt may be written down behind the end.
        if self.stage == Stage::Closed && !matches!(act.what, What::Note { .. } | What::Part { .. }) {
            return Err(WorkError::Closed(self.id));
        }
        match &act.what {
            What::Open { .. } => return Err(WorkError::Known(self.id)),
            What::Assign { to } => {
                self.assignee = to.clone();
                if self.stage != Stage::Unproved {
                    self.stage = if to.is_some() { Stage::Assigned } else { Stage::Open };
                }
            }
            What::Note { text, photo } => {
                // A photo may speak for itself.
                let is_told = photo.is_some() && text.trim().is_empty();
                if !is_told {
                    check_text(text)?;
                }
                self.check_room()?;
                let (time, actor) = (act.time, act.actor.clone());
                self.notes.push(Note { time, actor, text: text.clone(), photo: *photo });
            }
            What::Part { name, count } => {
                check_text(name)?;
                self.check_room()?;
                self.parts.push((name.clone(), *count));
            }
            What::Mended => {
                self.stage = Stage::Unproved;
                self.mended = Some(act.time);
                self.proved.clear();
            }
            What::Prove { device, probed } => self.prove(device, *probed, act.time),
            What::Disprove { .. } => {
                self.stage = if self.assignee.is_some() { Stage::Assigned } else { Stage::Open };
                self.disproved += 1;
                self.mended = None;
                self.proved.clear();
            }
            What::Recover { .. } => {
                self.stage = Stage::Closed;
                self.closed = Some(act.time);
            }
        }
        Ok(())
    }

    /// A probe from before it was mended proves nothing, and each device must be proved.
    fn prove(&mut self, device: &DeviceId, probed: Time, at: Time) {
        let counts = self.mended.is_some_and(|mended| probed > mended) && self.devices.contains(device);
        if !counts || self.proved.contains_key(device) {
            return;
        }
        self.proved.insert(device.clone(), probed);
        if self.proved.len() == self.devices.len() {
            self.stage = Stage::Closed;
            self.closed = Some(at);
        }
    }

    fn check_room(&self) -> Result<(), WorkError> {
        if self.notes.len() + self.parts.len() >= WORK_NOTES_MAX { Err(WorkError::Full) } else { Ok(()) }
    }

    /// How long it took, from the trouble's beginning to its end.
    pub fn took(&self) -> Option<SignedDuration> {
        self.closed.map(|closed| closed.duration_since(self.since))
    }
}

fn check_text(text: &str) -> Result<(), WorkError> {
    let characters = text.trim().chars().count();
    if (1..=WORK_TEXT_CHARS_MAX).contains(&characters) { Ok(()) } else { Err(WorkError::Text) }
}

/// Mean time to repair; None if nothing was repaired.
pub fn mean_time_to_repair<'a>(orders: impl Iterator<Item = &'a Order>) -> Option<SignedDuration> {
    let took: Vec<SignedDuration> = orders.filter_map(Order::took).collect();
    let count = i32::try_from(took.len()).ok().filter(|&count| count > 0)?;
    Some(took.into_iter().sum::<SignedDuration>() / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_800_000_000 + seconds).unwrap()
    }

    const ORDER: Uuid = Uuid::from_u128(7);

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    fn act(seconds: i64, what: What) -> Act {
        Act { order: ORDER, time: at(seconds), actor: "Lan".into(), what }
    }

    /// An order about two cameras of a box, after these acts.
    fn after(acts: Vec<What>) -> (Orders, Vec<Result<(), WorkError>>) {
        let devices = vec![device("cam-01"), device("cam-02")];
        let cause = Cause::CamerasOf("box-01".parse().unwrap());
        let open = What::Open { cause, trouble: Trouble::CameraUnreachable, devices, since: at(0) };
        let mut orders = Orders::default();
        let mut said = Vec::new();
        for (n, what) in std::iter::once(open).chain(acts).enumerate() {
            said.push(orders.take(&act(100 * (n as i64 + 1), what)).map(drop));
        }
        (orders, said)
    }

    fn prove(name: &str, probed: i64) -> What {
        What::Prove { device: device(name), probed: at(probed) }
    }

    #[test]
    fn only_good_probes_of_all_devices_after_the_mending_close_an_order() {
        let (orders, said) = after(vec![
            What::Assign { to: Some("Minh".into()) },
            prove("cam-01", 250),
            What::Mended,
            // One from before, and one of a device that is not meant.
            prove("cam-02", 350),
            prove("cam-99", 600),
            prove("cam-01", 700),
        ]);
        assert!(said.iter().all(Result::is_ok), "{said:?}");
        let order = orders.get(ORDER).unwrap();
        assert_eq!((order.stage, order.proved.len()), (Stage::Unproved, 1));
        let (orders, _) = after(vec![What::Mended, prove("cam-01", 700), prove("cam-02", 701)]);
        let order = orders.get(ORDER).unwrap();
        assert_eq!((order.stage, order.closed), (Stage::Closed, Some(at(400))));
        assert_eq!(order.took(), Some(SignedDuration::from_secs(400)));
        assert_eq!(mean_time_to_repair(orders.all()), Some(SignedDuration::from_secs(400)));
        assert!(orders.open_about(&order.cause).is_none());
    }

    #[test]
    fn what_was_not_mended_goes_back_to_whom_it_was_given() {
        let trouble = Trouble::CameraUnreachable;
        let (orders, _) = after(vec![
            What::Assign { to: Some("Minh".into()) },
            What::Mended,
            prove("cam-01", 400),
            What::Disprove { trouble },
        ]);
        let order = orders.get(ORDER).unwrap();
        assert_eq!((order.stage, order.disproved, order.proved.len()), (Stage::Assigned, 1, 0));
        assert_eq!(mean_time_to_repair(orders.all()), None);
    }

    #[test]
    fn what_cannot_be_done_says_why() {
        let photo = None;
        let (_, said) = after(vec![
            What::Note { text: "  ".into(), photo },
            What::Part { name: "nguồn 12 V".into(), count: 1 },
            What::Recover { probed: at(300) },
            What::Note { text: "dây bị chuột cắn".into(), photo },
            What::Mended,
        ]);
        let expected = [Ok(()), Err(WorkError::Text), Ok(()), Ok(()), Ok(()), Err(WorkError::Closed(ORDER))];
        assert_eq!(said, expected);
        let other = Act { order: Uuid::from_u128(8), ..act(0, What::Mended) };
        assert_eq!(Orders::default().take(&other).unwrap_err(), WorkError::Unknown(other.order));
    }

    #[test]
    fn acts_are_kept_as_they_were() {
        let acts = [What::Mended, prove("cam-01", 5), What::Assign { to: None }];
        for what in acts {
            let act = act(1, what);
            let json = serde_json::to_vec(&act).unwrap();
            assert_eq!(serde_json::from_slice::<Act>(&json).unwrap(), act);
        }
    }
}
