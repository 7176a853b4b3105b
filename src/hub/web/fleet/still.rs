//! `POST /api/v1/devices/{id}/still`: what a camera sees now. Passes the gate before the box is asked.
//!
//! The box cuts its newest seconds as a clip and sends them before other clips; this waits until the picture is here. The
//! picture itself is looked at as that of any clip, through the gate again.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;
use uuid::Uuid;

use super::device_id;
use crate::hub::access::Action;
use crate::hub::catalog::ClipRow;
use crate::hub::command::CommandError;
use crate::hub::search::answer::Links;
use crate::hub::web::api::{Answered, App, InPath, Looker, json_body};
use crate::hub::web::{Problem, Web, blocking};
use crate::limits::{
    COMMAND_RESULT_GRACE, PURPOSE_CHARS_MAX, STILL_ARRIVES_MAX, STILL_LOOKS_EVERY, STILL_VALID,
};
use crate::model::{BoxId, DeviceId, DeviceKind, Time};
use crate::wire::{CommandOutcome, CommandResult, StillCommand};

/// Why a camera is looked at.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StillAsked {
    /// For the access log here and the box's own record. The header `camnet-purpose` says it as well.
    purpose: Option<String>,
}

/// A clip of the camera's newest seconds.
#[derive(Debug, Serialize, ToSchema)]
pub struct StillView {
    clip: Uuid,
    /// When its last picture was taken; absent until the hub has the clip's event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    time: Option<Time>,
    /// What the hub has of it. Without a thumbnail the box makes none: look at the video.
    links: Links,
    /// False: it was taken and is on its way; look for the clip later.
    arrived: bool,
}

/// Cameras that a still is taken of, each once.
#[derive(Clone, Default)]
pub struct Taking(Arc<Mutex<BTreeSet<DeviceId>>>);

/// Held while a still is taken; gives its place back however that ends.
struct Place {
    taking: Taking,
    device: DeviceId,
}

impl Taking {
    fn begin(&self, device: &DeviceId) -> Option<Place> {
        let is_first = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(device.clone());
        is_first.then(|| Place { taking: self.clone(), device: device.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taking.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.device);
    }
}

/// What a camera sees now. Waits until the hub has the picture, or some tens of seconds.
#[utoipa::path(post, path = "/api/v1/devices/{id}/still", params(("id" = String, Path)), request_body = StillAsked,
    responses((status = 200, body = StillView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "a still of it is being taken, or the box refuses"),
        (status = 413, body = Problem), (status = 429, body = Problem),
        (status = 502, body = Problem, description = "the box tried and failed"),
        (status = 503, body = Problem, description = "the box is offline"),
        (status = 504, body = Problem, description = "the box did not answer")))]
pub async fn still(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    body: Body,
) -> Answered<StillView> {
    let asked: StillAsked = json_body(body).await?;
    let device = device_id(&id)?;
    let box_id = camera_of(&web, &device)?;
    let purpose = purpose_of(asked, &looker)?;
    let correlation = Uuid::now_v7().to_string();
    let subject = json!({ "device": device, "correlation": correlation });
    looker.pass(&web, Action::Still, purpose.clone(), subject).await?;
    let Some(_place) = web.taking.begin(&device) else {
        let detail = format!("a still of {device} is being taken already; wait for it");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let clip = ask_box(&web, &box_id, device, correlation, purpose).await?;
    Ok(Json(wait_for(&web, clip).await?))
}

/// What a camera sees now is what it is meant to see: somebody turned it on purpose.
#[utoipa::path(post, path = "/api/v1/devices/{id}/view", params(("id" = String, Path)), request_body = StillAsked,
    responses((status = 204), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "the box refuses"),
        (status = 413, body = Problem), (status = 429, body = Problem), (status = 502, body = Problem),
        (status = 503, body = Problem, description = "the box is offline"),
        (status = 504, body = Problem, description = "the box did not answer")))]
pub async fn view(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let asked: StillAsked = json_body(body).await?;
    let device = device_id(&id)?;
    let box_id = camera_of(&web, &device)?;
    let purpose = purpose_of(asked, &looker)?;
    let correlation = Uuid::now_v7().to_string();
    let subject = json!({ "device": device, "view": "meant", "correlation": correlation });
    looker.pass(&web, Action::Work, purpose.clone(), subject).await?;
    check_link(&web, &box_id)?;
    let command = command_to(&web, device, correlation, purpose);
    let result = web.commands.view(&box_id, command, STILL_VALID + COMMAND_RESULT_GRACE).await?;
    match result.outcome {
        CommandOutcome::Ok => Ok(StatusCode::NO_CONTENT),
        _ => Err(refusal(&result)),
    }
}

fn purpose_of(asked: StillAsked, looker: &Looker) -> Result<Option<String>, Problem> {
    let purpose = asked.purpose.filter(|purpose| !purpose.trim().is_empty()).or_else(|| looker.purpose());
    if purpose.as_ref().is_some_and(|purpose| purpose.chars().count() > PURPOSE_CHARS_MAX) {
        return Err(Problem::bad_request(format!("purpose: at most {PURPOSE_CHARS_MAX} characters")));
    }
    Ok(purpose)
}

fn check_link(web: &Web, box_id: &BoxId) -> Result<(), Problem> {
    if web.status.online(box_id) == Some(false) {
        let detail = format!("box {box_id} is offline; nothing was sent");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    if !web.status.broker_up.load(Ordering::Acquire) {
        return Err(CommandError::NoLink.into());
    }
    Ok(())
}

fn command_to(web: &Web, device: DeviceId, correlation: String, purpose: Option<String>) -> StillCommand {
    let (actor, issued) = (web.actor.clone(), Time::now());
    StillCommand { correlation, device, actor, purpose, issued, valid_until: issued + STILL_VALID }
}

fn refusal(result: &CommandResult) -> Problem {
    let why = result.why.clone().unwrap_or_default();
    match result.outcome {
        CommandOutcome::Refused => {
            Problem::new(StatusCode::CONFLICT, format!("the box refuses, nothing was done: {why}"))
        }
        _ => Problem::new(StatusCode::BAD_GATEWAY, format!("the box tried and failed: {why}")),
    }
}

fn camera_of(web: &Web, device: &DeviceId) -> Result<BoxId, Problem> {
    let found = web.fleet.look(|inner| {
        let member = inner.roster.devices.get(device)?;
        Some((member.device.kind, member.device.box_id.clone()))
    });
    match found {
        Some((DeviceKind::Camera, box_id)) => Ok(box_id),
        Some(_) => Err(Problem::not_found(format!("{device} is no camera"))),
        None => Err(Problem::not_found(format!("the registry has no device {device}"))),
    }
}

async fn ask_box(
    web: &Web,
    box_id: &BoxId,
    device: DeviceId,
    correlation: String,
    purpose: Option<String>,
) -> Result<Uuid, Problem> {
    check_link(web, box_id)?;
    let command = command_to(web, device, correlation, purpose);
    let result = web.commands.still(box_id, command, STILL_VALID + COMMAND_RESULT_GRACE).await?;
    match (result.outcome, result.clip) {
        (CommandOutcome::Ok, Some(clip)) => Ok(clip),
        _ => Err(refusal(&result)),
    }
}

/// Until the picture is here; the clip itself where the box makes no pictures.
async fn wait_for(web: &Web, clip: Uuid) -> Result<StillView, Problem> {
    let deadline = Instant::now() + STILL_ARRIVES_MAX;
    loop {
        let catalog = web.catalog.clone();
        let row = blocking(move || catalog.clip(clip)).await?;
        let view = view_of(clip, row.as_ref());
        if view.arrived || Instant::now() >= deadline {
            return Ok(view);
        }
        sleep(STILL_LOOKS_EVERY).await;
    }
}

fn view_of(clip: Uuid, row: Option<&ClipRow>) -> StillView {
    let has_still = row.is_some_and(|row| row.thumbnail_stored);
    let has_video = row.is_some_and(|row| row.stored);
    let link = |is_there: bool, name: &str| is_there.then(|| format!("/api/v1/clips/{clip}/{name}"));
    let links = Links {
        video: link(has_video, "video.mp4"),
        copy: None,
        thumbnail: link(has_still, "thumbnail.jpg"),
    };
    let arrived = has_still || has_video;
    let time = row.map(|row| row.thumbnail.as_ref().map_or(row.end, |still| still.time));
    StillView { clip, time, links, arrived }
}
