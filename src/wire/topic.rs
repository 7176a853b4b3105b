//! `camnet/1/<box>/<kind>`.

use std::fmt;
use std::str::FromStr;

use crate::model::BoxId;

/// What a topic carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicKind {
    /// Box → hub: events, single or batch.
    Event,
    /// Box → hub, retained; the last will says offline.
    Status,
    /// Hub → box: what the hub has durably.
    Receipt,
    /// Hub → box.
    Command,
    /// Box → hub: the answer to a command.
    Result,
}

/// A topic of one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub box_id: BoxId,
    pub kind: TopicKind,
}

impl TopicKind {
    pub const ALL: [TopicKind; 5] = [Self::Event, Self::Status, Self::Receipt, Self::Command, Self::Result];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Status => "status",
            Self::Receipt => "receipt",
            Self::Command => "command",
            Self::Result => "result",
        }
    }

    /// True for what a box may publish under its own id; the rest it may only subscribe to.
    pub fn is_from_box(self) -> bool {
        matches!(self, Self::Event | Self::Status | Self::Result)
    }

    /// The filter that matches this kind of every box.
    pub fn of_all_boxes(self) -> String {
        format!("camnet/{}/+/{}", super::VERSION, self.as_str())
    }
}

impl Topic {
    pub fn new(box_id: &BoxId, kind: TopicKind) -> Self {
        Self { box_id: box_id.clone(), kind }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "camnet/{}/{}/{}", super::VERSION, self.box_id, self.kind.as_str())
    }
}

impl FromStr for Topic {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("topic {text:?} is not camnet/1/<box>/<event|status|receipt|command|result>");
        let mut parts = text.split('/');
        let head = (parts.next(), parts.next());
        let (Some(box_id), Some(kind), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad());
        };
        if head != (Some("camnet"), Some(super::VERSION)) {
            return Err(bad());
        }
        let kind = TopicKind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or_else(bad)?;
        let box_id = BoxId::new(box_id).map_err(|e| e.to_string())?;
        Ok(Self { box_id, kind })
    }
}
