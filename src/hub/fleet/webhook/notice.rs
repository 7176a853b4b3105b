//! What a webhook is told: one message for each change of an incident.
//!
//! Owns the message's form and its words. Pure: a record of the fleet's journal in, a message out.

use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::WebhookConfig;
use crate::hub::fleet::book::{Entry, KnownIncident};
use crate::hub::fleet::cause::{Cause, CauseKind};
use crate::hub::fleet::keeper::Inner;
use crate::hub::fleet::severity::Severity;
use crate::hub::fleet::words;
use crate::hub::search::when::ZONE;
use crate::limits::WEBHOOK_DEVICES_MAX;
use crate::model::{DeviceId, SiteId, Time, Trouble};

/// What happened to an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum NoticeKind {
    #[serde(rename = "camnet.incident.began")]
    Began,
    /// Others suffer from it now, or fewer do, or otherwise.
    #[serde(rename = "camnet.incident.changed")]
    Changed,
    #[serde(rename = "camnet.incident.ended")]
    Ended,
}

/// The body of a webhook's POST. Its id stands in the header `webhook-id` and is the same however often the message comes;
/// `webhook-signature` signs id, `webhook-timestamp` and body as in Standard Webhooks, where the hub has a secret. The
/// messages of one incident come in order: it begins, changes any number of times, and ends.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Notice {
    #[serde(rename = "type")]
    pub kind: NoticeKind,
    /// When the hub wrote it down.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Time,
    pub data: IncidentNotice,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct IncidentNotice {
    pub incident: Uuid,
    /// What is likely to be at fault.
    pub cause: CauseKind,
    /// The id of it in the registry; absent if it is the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What most of the devices suffer from.
    #[schema(value_type = String)]
    pub trouble: Trouble,
    pub severity: Severity,
    #[schema(value_type = String, format = DateTime)]
    pub since: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Time>,
    pub device_count: usize,
    /// Who suffers; of many the first hundred.
    pub devices: Vec<NoticeDevice>,
    pub text: NoticeText,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NoticeDevice {
    #[schema(value_type = String)]
    pub id: DeviceId,
    /// Name and site; absent if it left the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub site: Option<SiteId>,
}

/// The whole in one line, for who shows it as it is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NoticeText {
    pub vi: String,
    pub en: String,
}

/// The incident that a record is about.
pub fn incident_of(entry: &Entry) -> Option<Uuid> {
    match entry {
        Entry::Incident { incident, .. } | Entry::IncidentEnded { incident, .. } => Some(*incident),
        _ => None,
    }
}

/// What is to be said of a record; None if it is not for this webhook. An incident that `is_told` is told to its end,
/// and one that is not begins with the first change that is.
pub fn of(
    entry: &Entry,
    time: Time,
    is_told: bool,
    webhook: &WebhookConfig,
    inner: &Inner,
) -> Option<Notice> {
    let (kind, incident) = match entry {
        Entry::Incident { incident, cause, trouble, since, devices } => {
            let kind = if is_told { NoticeKind::Changed } else { NoticeKind::Began };
            let (cause, devices) = (cause.clone(), devices.clone());
            let known = KnownIncident {
                id: *incident,
                cause,
                trouble: *trouble,
                since: *since,
                devices,
                ended: None,
            };
            (kind, known)
        }
        Entry::IncidentEnded { incident, at } if is_told => {
            let known = inner.book.known.incidents.get(incident)?.clone();
            (NoticeKind::Ended, KnownIncident { ended: Some(*at), ..known })
        }
        _ => return None,
    };
    let is_for = is_told || concerns(webhook, &incident, inner);
    is_for.then(|| Notice { kind, timestamp: time, data: data(kind, incident, inner) })
}

fn concerns(webhook: &WebhookConfig, incident: &KnownIncident, inner: &Inner) -> bool {
    let is_in =
        |device: &DeviceId| webhook.area.as_ref().is_none_or(|area| inner.roster.places.is_in(device, area));
    webhook.causes.contains(&incident.cause.kind())
        && Severity::of(&incident.cause, incident.trouble) >= webhook.severity
        && incident.devices.iter().any(is_in)
}

fn data(kind: NoticeKind, incident: KnownIncident, inner: &Inner) -> IncidentNotice {
    let device = |id: &DeviceId| {
        let member = inner.roster.devices.get(id);
        NoticeDevice {
            id: id.clone(),
            name: member.map(|member| member.device.name.clone()),
            site: member.map(|member| member.device.site.clone()),
        }
    };
    let name = name_of(&incident.cause, inner);
    IncidentNotice {
        incident: incident.id,
        cause: incident.cause.kind(),
        id: Some(incident.cause.id().to_owned()).filter(|id| !id.is_empty()),
        text: text(kind, &incident, name.as_deref()),
        name,
        trouble: incident.trouble,
        severity: Severity::of(&incident.cause, incident.trouble),
        since: incident.since,
        ended: incident.ended,
        device_count: incident.devices.len(),
        devices: incident.devices.iter().take(WEBHOOK_DEVICES_MAX).map(device).collect(),
    }
}

fn name_of(cause: &Cause, inner: &Inner) -> Option<String> {
    match cause {
        Cause::Area(id) => inner.history.area(id).map(|area| area.name.clone()),
        Cause::Site(id) => inner.history.site(id).map(|site| site.name.clone()),
        Cause::Cabinet(id) | Cause::Device(id) => {
            inner.roster.devices.get(id).map(|member| member.device.name.clone())
        }
        Cause::Hub | Cause::Box(_) | Cause::CamerasOf(_) | Cause::GatewayOf(_) => None,
    }
}

fn text(kind: NoticeKind, incident: &KnownIncident, name: Option<&str>) -> NoticeText {
    let (cause, trouble) = (words::of_cause(incident.cause.kind()), words::of_trouble(incident.trouble));
    let (vi, en) = match kind {
        NoticeKind::Began => ("Bắt đầu", "Began"),
        NoticeKind::Changed => ("Thay đổi", "Changed"),
        NoticeKind::Ended => ("Đã hết", "Ended"),
    };
    let what = match (name, incident.cause.id()) {
        (_, "") => String::new(),
        (Some(name), id) => format!(" {name} ({id})"),
        (None, id) => format!(" {id}"),
    };
    let (count, since) = (incident.devices.len(), local(incident.since));
    let until =
        |word: &str| incident.ended.map_or(String::new(), |ended| format!(" {word} {}", local(ended)));
    let devices = if count == 1 { "device" } else { "devices" };
    NoticeText {
        vi: format!("{vi}: {}{what}: {}, {count} thiết bị, từ {since}{}", cause.vi, trouble.vi, until("đến")),
        en: format!(
            "{en}: {}{what}: {}, {count} {devices}, since {since}{}",
            cause.en,
            trouble.en,
            until("until")
        ),
    }
}

/// As people of the wards write a time.
fn local(time: Time) -> String {
    let zone = TimeZone::get(ZONE).unwrap_or(TimeZone::UTC);
    time.to_zoned(zone).strftime("%d/%m/%Y %H:%M:%S").to_string()
}
