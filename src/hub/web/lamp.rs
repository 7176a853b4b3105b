//! `POST /api/v1/devices/{id}/lamp`: tells a lamp circuit what to do. Parses, passes the gate, calls, renders.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::api::{InPath, Looker};
use super::{Problem, Web};
use crate::hub::access::Action;
use crate::hub::command::CommandError;
use crate::limits::{
    API_BODY_BYTES_MAX, COMMAND_RESULT_GRACE, LAMP_COMMAND_VALID, LAMP_COMMAND_VALID_MAX, PURPOSE_CHARS_MAX,
};
use crate::model::{Device, DeviceId, DeviceKind, LampAct, Time};
use crate::wire::{CommandOutcome, CommandResult, LampCommand};

/// What a circuit shall do: either `switch` or `dim_percent`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LampAsked {
    pub circuit: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<OnOff>,
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim_percent: Option<u8>,
    /// The box refuses the command when it arrives later than this many seconds from now; 30 if absent, at most 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_s: Option<u64>,
    /// Why; for the access log here and the box's own record. The header `camnet-purpose` says it as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOff {
    On,
    Off,
}

/// It was done, read back from the cabinet, and recorded by the box.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LampDone {
    /// Stands in the box's event too.
    correlation: String,
    on: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dim_percent: Option<f64>,
}

impl LampAsked {
    fn act(&self) -> Result<LampAct, Problem> {
        match (self.switch, self.dim_percent) {
            (Some(switch), None) => Ok(LampAct::Switch { on: switch == OnOff::On }),
            (None, Some(percent @ 0..=100)) => Ok(LampAct::Dim { percent }),
            (None, Some(_)) => Err(Problem::bad_request("dim_percent: 0 to 100")),
            _ => Err(Problem::bad_request("say either switch (on, off) or dim_percent (0 to 100)")),
        }
    }

    fn valid_for(&self) -> Result<Duration, Problem> {
        let valid = self.valid_s.map_or(LAMP_COMMAND_VALID, Duration::from_secs);
        if (Duration::from_secs(1)..=LAMP_COMMAND_VALID_MAX).contains(&valid) {
            return Ok(valid);
        }
        Err(Problem::bad_request(format!("valid_s: 1 to {}", LAMP_COMMAND_VALID_MAX.as_secs())))
    }
}

/// Switches or dims a lamp circuit, if its box allows it. Waits for what became of it.
#[utoipa::path(post, path = "/api/v1/devices/{id}/lamp", params(("id" = String, Path)), request_body = LampAsked,
    responses((status = 200, body = LampDone), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
        (status = 409, body = Problem, description = "the box refuses: nothing was done"),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 429, body = Problem),
        (status = 502, body = Problem, description = "the box tried and failed"),
        (status = 503, body = Problem), (status = 504, body = Problem, description = "the box did not answer")))]
pub async fn lamp(
    State(web): State<Arc<Web>>,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<LampDone>, Problem> {
    let asked = read(&headers, body).await?;
    let (act, valid_for) = (asked.act()?, asked.valid_for()?);
    let device = lamp_device(&web, &id)?;
    let purpose = asked.purpose.filter(|purpose| !purpose.trim().is_empty()).or_else(|| looker.purpose());
    let correlation = Uuid::now_v7().to_string();
    let subject =
        json!({ "device": device.id, "circuit": asked.circuit, "act": act, "correlation": correlation });
    // Recorded before it is sent, as a look is before anything is shown.
    looker.pass(&web, Action::Lamp, purpose.clone(), subject).await?;
    if web.status.online(&device.box_id) == Some(false) {
        let detail = format!("box {} is offline; nothing was sent", device.box_id);
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    if !web.status.broker_up.load(Ordering::Acquire) {
        return Err(CommandError::NoLink.into());
    }
    let issued = Time::now();
    let command = LampCommand {
        correlation,
        device: device.id,
        circuit: asked.circuit,
        act,
        actor: web.actor.clone(),
        purpose,
        issued,
        valid_until: issued + valid_for,
    };
    let result = web.commands.lamp(&device.box_id, command, valid_for + COMMAND_RESULT_GRACE).await?;
    done(result)
}

/// Not a type that a page elsewhere could send from an officer's browser without asking first.
async fn read(headers: &HeaderMap, body: Body) -> Result<LampAsked, Problem> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        let detail = "Content-Type must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let body = to_bytes(body, API_BODY_BYTES_MAX).await.map_err(|_| {
        let detail = format!("a command has at most {API_BODY_BYTES_MAX} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    let asked: LampAsked =
        serde_json::from_slice(&body).map_err(|e| Problem::bad_request(format!("body: {e}")))?;
    if asked.purpose.as_ref().is_some_and(|purpose| purpose.chars().count() > PURPOSE_CHARS_MAX) {
        return Err(Problem::bad_request(format!("purpose: at most {PURPOSE_CHARS_MAX} characters")));
    }
    Ok(asked)
}

fn lamp_device(web: &Web, id: &str) -> Result<Device, Problem> {
    let not_found = |detail: String| Problem::new(StatusCode::NOT_FOUND, detail);
    let id = DeviceId::new(id).map_err(|error| not_found(format!("there is no such device: {error}")))?;
    let devices = web.registry.history().current().devices;
    let device = devices.into_iter().find(|device| device.id == id);
    let device = device.ok_or_else(|| not_found(format!("the registry has no device {id}")))?;
    if device.kind != DeviceKind::Lamp {
        return Err(not_found(format!("{id} is no lamp cabinet")));
    }
    Ok(device)
}

fn done(result: CommandResult) -> Result<Json<LampDone>, Problem> {
    let CommandResult { correlation, outcome, why, on, dim_percent, .. } = result;
    let why = why.unwrap_or_default();
    match outcome {
        CommandOutcome::Ok => Ok(Json(LampDone { correlation, on, dim_percent })),
        CommandOutcome::Refused => {
            Err(Problem::new(StatusCode::CONFLICT, format!("the box refuses, nothing was done: {why}")))
        }
        CommandOutcome::Failed => {
            Err(Problem::new(StatusCode::BAD_GATEWAY, format!("the box tried and failed: {why}")))
        }
    }
}
