//! The hub's word about what it has durably, and what else it tells a box.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{DeviceId, Epoch, LampAct, Previous, Ranges, Time};

/// Cumulative word about one epoch of one box: everything up to `upto` is durable at the hub, but
/// for the ranges named in `missing`, which the box sends again, and what stands in `refused`, which
/// the hub set aside and does not want again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub epoch: Epoch,
    pub upto: u64,
    /// Inclusive ranges below `upto`, oldest first, at most [`crate::limits::RECEIPT_MISSING_MAX`].
    #[serde(default)]
    pub missing: Vec<(u64, u64)>,
    /// At most [`crate::limits::RECEIPT_REFUSED_MAX`], newest last. A refused sequence counts as handed over.
    #[serde(default)]
    pub refused: Vec<Refused>,
}

/// One sequence that was set aside, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused(pub u64, pub String);

/// The retained word of a box about itself, and its last will (offline, without a place).
///
/// Its epochs close a hole: a hub that was restored from a backup, or that lost the end of an epoch, learns from them
/// what it lacks of a box that has nothing new to say, and asks for it with a receipt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxStatus {
    pub online: bool,
    /// The outbox can't be written, so nothing else can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskTrouble>,
    /// The box's present epoch and the last sequence in it that it accepted; then the same of those before that it
    /// still has something of, newest first, at most [`crate::limits::STATUS_EPOCHS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<Previous>,
}

/// Why a box's disk takes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskTrouble {
    /// It is full; else it is broken, or read-only.
    pub full: bool,
    pub detail: String,
}

/// What the hub asks a box to do. Carried with response topic and correlation data; `correlation`
/// stands in the body too because some brokers speak MQTT 3.1.1 only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Another life of this box, or another box of this name, uses the same epoch: draw a new one. Its answer is the
    /// first event of that epoch.
    NewEpoch { correlation: String, epoch: Epoch, reason: String },
    /// Switch or dim a lamp circuit; answered by a [`CommandResult`].
    Lamp(LampCommand),
    /// Something is set for this box: it shall ask the hub about itself. Its answer is that question (HTTPS).
    Configure { correlation: String, version: u64 },
    /// Show what a camera sees now; answered by a [`CommandResult`] that names a clip.
    Still(StillCommand),
    /// What a camera sees now is what it is meant to see: somebody turned it on purpose. Answered by a [`CommandResult`].
    View(StillCommand),
}

/// A lamp circuit shall do something. The box does it once for a correlation id, and not at all after `valid_until` or
/// where its own configuration does not allow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LampCommand {
    pub correlation: String,
    pub device: DeviceId,
    pub circuit: u16,
    #[serde(flatten)]
    pub act: LampAct,
    /// Who asks, and why: for the box's own record.
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// When it was asked. A box that started since may have done it in its life before, and refuses.
    pub issued: Time,
    pub valid_until: Time,
}

/// A camera's newest seconds shall become a clip, whose thumbnail and video go to the hub before those that wait. A camera
/// that its owner paused records nothing, so there is nothing to show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillCommand {
    pub correlation: String,
    pub device: DeviceId,
    /// Who asks, and why: for the box's own record.
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    pub issued: Time,
    pub valid_until: Time,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandResult {
    pub correlation: String,
    pub outcome: CommandOutcome,
    /// Why not; absent with `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What the cabinet showed when it was read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim_percent: Option<f64>,
    /// The clip that was cut for a still; its event is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Uuid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandOutcome {
    /// Done, read back, recorded.
    Ok,
    /// Nothing was done.
    Refused,
    /// It was tried; `why` says how far it came.
    Failed,
}

impl Receipt {
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a receipt has no map with odd keys")
    }

    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// True if the receipt says that `sequence` need not be sent again.
    pub fn covers(&self, sequence: u64) -> bool {
        sequence <= self.upto && !self.missing.iter().any(|&(from, to)| (from..=to).contains(&sequence))
    }

    /// All that need not be sent again.
    pub fn covered(&self) -> Ranges {
        let mut covered = Ranges::of(1, self.upto);
        self.missing.iter().for_each(|&(from, to)| covered.remove(from, to));
        covered
    }

    /// All that is to be sent again.
    pub fn asked(&self) -> Ranges {
        let mut asked = Ranges::new();
        self.missing.iter().for_each(|&(from, to)| asked.insert(from, to.min(self.upto)));
        asked
    }
}

impl BoxStatus {
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a status has only text keys")
    }

    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }
}

impl Command {
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a command has no map with odd keys")
    }

    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The correlation id of a command that can't be read further: so that it can be answered.
    pub fn correlation_of(body: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Correlated {
            correlation: String,
        }
        serde_json::from_slice(body).ok().map(|Correlated { correlation }| correlation)
    }
}

impl CommandResult {
    pub fn refused(correlation: impl Into<String>, why: impl Into<String>) -> Self {
        Self::without(correlation.into(), CommandOutcome::Refused, why.into())
    }

    pub fn failed(correlation: impl Into<String>, why: impl Into<String>) -> Self {
        Self::without(correlation.into(), CommandOutcome::Failed, why.into())
    }

    /// The newest seconds of a camera are this clip.
    pub fn still(correlation: impl Into<String>, clip: Uuid) -> Self {
        let (outcome, clip) = (CommandOutcome::Ok, Some(clip));
        Self { correlation: correlation.into(), outcome, why: None, on: None, dim_percent: None, clip }
    }

    /// Done, and nothing more to say.
    pub fn done(correlation: impl Into<String>) -> Self {
        let outcome = CommandOutcome::Ok;
        Self { correlation: correlation.into(), outcome, why: None, on: None, dim_percent: None, clip: None }
    }

    fn without(correlation: String, outcome: CommandOutcome, why: String) -> Self {
        Self { correlation, outcome, why: Some(why), on: None, dim_percent: None, clip: None }
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a result has only text keys")
    }

    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }
}

impl CommandOutcome {
    /// Label of the counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_reads_as_the_design_writes_it() {
        let text = r#"{"epoch":"00000000000000ab","upto":9,"missing":[[3,4],[7,7]],"refused":[[5,"time"]]}"#;
        let receipt = Receipt::from_json(text.as_bytes()).unwrap();
        assert_eq!(receipt.refused, [Refused(5, "time".into())]);
        assert_eq!(String::from_utf8(receipt.to_json()).unwrap(), text);
        let covered: Vec<u64> = (1..=11).filter(|&s| receipt.covers(s)).collect();
        assert_eq!(covered, [1, 2, 5, 6, 8, 9]);
    }
}
