//! `/api/v1/events`: what the boxes said, by time, kind and place.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::api::{Answered, App, Looker, page_limit, query_parts};
use super::{Problem, blocking};
use crate::hub::access::Action;
use crate::hub::catalog::{EventKey, EventRow};
use crate::hub::search::events::EventsWanted;
use crate::hub::search::question::{Asked, Question};
use crate::hub::search::token::{Token, digest_of};
use crate::limits::{EVENT_KINDS_MAX, EVENT_TYPE_BYTES_MAX, PAGE_EVENTS, PAGE_EVENTS_MAX};
use crate::model::{BoxId, DeviceId, Time};

/// Keys of this resource beside those of every question.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventKeys {
    /// For instance `camnet.lamp.v1`; several with commas.
    r#type: Option<String>,
    #[param(value_type = Option<String>)]
    r#box: Option<BoxId>,
}

#[derive(Serialize, ToSchema)]
pub struct Events {
    events: Vec<EventView>,
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct EventView {
    id: Uuid,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    #[schema(value_type = String, format = DateTime)]
    time: Time,
    #[schema(value_type = String, format = DateTime)]
    received: Time,
    /// The recorded time is implausible: the event stands in the list by its arrival.
    by_arrival: bool,
    #[serde(rename = "box")]
    box_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    epoch: String,
    sequence: u64,
    /// Another event came first under the same box, epoch and sequence.
    conflict: bool,
    #[schema(value_type = Object)]
    data: Value,
}

impl From<EventRow> for EventView {
    fn from(row: EventRow) -> Self {
        let body: Value = serde_json::from_slice(&row.json).unwrap_or_default();
        Self {
            id: row.id,
            source: body["source"].as_str().unwrap_or_default().to_owned(),
            kind: row.kind,
            time: row.time,
            received: row.received,
            by_arrival: row.by_arrival,
            box_id: row.box_id.to_string(),
            device: row.device.as_ref().map(DeviceId::to_string),
            epoch: row.epoch.to_string(),
            sequence: row.sequence,
            conflict: row.conflict,
            data: body["data"].clone(),
        }
    }
}

/// What the boxes said, by time; with a place, what devices said that stood there.
#[utoipa::path(get, path = "/api/v1/events", params(EventKeys, Asked),
    responses((status = 200, body = Events), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn events(State(web): App, looker: Looker, uri: Uri) -> Answered<Events> {
    let (keys, asked): (EventKeys, Asked) = query_parts(&uri, &["type", "box"])?;
    let limit = page_limit(asked.limit, PAGE_EVENTS, PAGE_EVENTS_MAX)?;
    let kinds = kinds(keys.r#type.as_deref())?;
    let plain = Asked { page: None, limit: None, purpose: None, ..asked.clone() };
    let digest = digest_of(&(&keys, &plain));
    let token = asked.page.as_deref().map(|text| Token::<EventKey>::read(text, digest)).transpose()?;
    let at = token.as_ref().map_or_else(Time::now, |token| token.at);
    let atlas = web.atlas().await;
    let question = Question::understand(&plain, &atlas, at)?;
    let mut subject = question.subject();
    subject["type"] = json!(keys.r#type);
    subject["box"] = json!(keys.r#box);
    subject["limit"] = json!(limit);
    let pass = looker.pass(&web, Action::Events, asked.purpose, subject).await?;
    let wanted = EventsWanted { kinds, box_id: keys.r#box, after: token.map(|t| t.after), limit };
    let page = blocking(move || web.search().events(&pass, &question, &wanted, &atlas)).await?;
    let next = page.next.map(|after| Token::new(digest, at, after).write());
    Ok(Json(Events { events: page.events.into_iter().map(EventView::from).collect(), next }))
}

fn kinds(text: Option<&str>) -> Result<Vec<String>, Problem> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let kinds: Vec<String> = text.split(',').map(|kind| kind.trim().to_owned()).collect();
    let is_kind = |kind: &String| !kind.is_empty() && kind.len() <= EVENT_TYPE_BYTES_MAX;
    if kinds.len() > EVENT_KINDS_MAX || !kinds.iter().all(is_kind) {
        return Err(Problem::bad_request(format!(
            "type: 1 to {EVENT_KINDS_MAX} types with commas, for instance camnet.lamp.v1,camnet.motion.v1"
        )));
    }
    Ok(kinds)
}
