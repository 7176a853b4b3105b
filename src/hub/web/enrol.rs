//! `/api/v1/boxes/{id}/…`: enrols and revokes boxes, and sets what they do. Parses, passes the gate, calls, renders.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::api::{Answered, App, InPath, Looker, json_body};
use super::{Problem, Web, blocking};
use crate::hub::access::Action;
use crate::hub::enrol::book::{Certificate, How, KnownBox, Revoked, Serial};
use crate::limits::PAGE_LIST_MAX;
use crate::model::{BoxId, Sha256Hash, Time};
use crate::wire::Command;
use crate::wire::enrol::{ConfigFailed, Enrolment, KeyProof};

/// A certificate of a box.
#[derive(Serialize, ToSchema)]
pub struct CertificateView {
    serial: String,
    #[schema(value_type = String, format = DateTime)]
    issued: Time,
    #[schema(value_type = String, format = DateTime)]
    expires: Time,
    how: How,
    /// When the box first showed it; null: issued, not yet used.
    #[schema(value_type = Option<String>, format = DateTime)]
    first_used: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<Revoked>,
}

/// What is set for a box, and what became of it.
#[derive(Serialize, ToSchema)]
pub struct SettingView {
    /// The newest version that was set.
    wanted: Option<u64>,
    /// The one that the box runs with; null: its own file alone.
    running: Option<u64>,
    /// The last that it gave up.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<FailedView>,
}

#[derive(Serialize, ToSchema)]
pub struct FailedView {
    version: u64,
    why: String,
}

pub fn certificate_view(serial: &Serial, certificate: &Certificate) -> CertificateView {
    CertificateView {
        serial: serial.to_string(),
        issued: certificate.issued,
        expires: certificate.expires,
        how: certificate.how,
        first_used: certificate.first_used,
        revoked: certificate.revoked.clone(),
    }
}

pub fn setting_view(known: &KnownBox) -> SettingView {
    SettingView {
        wanted: known.wanted.as_ref().map(|wanted| wanted.config.version),
        running: known.runs.running,
        failed: known.runs.failed.clone().map(|ConfigFailed { version, why }| FailedView { version, why }),
    }
}

/// Newest first; no more than a page of them.
pub fn certificates_of(web: &Web, box_id: &BoxId) -> (Vec<CertificateView>, Option<SettingView>) {
    web.enrol.look(|known| {
        let Some(of_box) = known.boxes.get(box_id) else { return (Vec::new(), None) };
        let serials = of_box.serials.iter().rev().take(PAGE_LIST_MAX);
        let views =
            serials.filter_map(|serial| Some(certificate_view(serial, known.certificates.get(serial)?)));
        (views.collect(), Some(setting_view(of_box)))
    })
}

/// Asks for a certificate. The private key stays where it was made.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolAsked {
    /// The key that the certificate is for, and the proof that who asks has it.
    #[schema(value_type = Object)]
    pub key: KeyProof,
    /// What stands in the box's configuration beside its identity: `outbox`, `ring`, `camera`, `lamp` (TOML).
    #[serde(default)]
    pub config: String,
    /// Name or address under which the box reaches the hub; else the hub's configuration says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Makes a certificate and a configuration for a box, for a key that was made elsewhere.
#[utoipa::path(post, path = "/api/v1/boxes/{id}/enrol", params(("id" = String, Path)), request_body = EnrolAsked,
    responses((status = 200, body = Object), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
pub async fn enrol(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered<Enrolment> {
    let asked: EnrolAsked = read(&headers, body).await?;
    let box_id = box_id(&id)?;
    let subject = json!({ "box": box_id, "act": "enrol", "config": Sha256Hash::of(asked.config.as_bytes()) });
    looker.pass(&web, Action::Box, None, subject).await?;
    let made = move || {
        let EnrolAsked { key, config, name } = asked;
        web.enrol.enrol(&box_id, &key, &config, name.as_deref(), How::File, &web.actor)
    };
    Ok(Json(blocking(made).await?))
}

/// Asks for an invitation.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteAsked {
    /// As for `enrol`.
    #[serde(default)]
    pub config: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An invitation; told once.
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Invited {
    /// For a QR code. Whoever has it first is the box: it is a secret, works once, and not for long.
    pub invitation: String,
}

/// Invites a box to make its own key and fetch its certificate.
#[utoipa::path(post, path = "/api/v1/boxes/{id}/invitation", params(("id" = String, Path)), request_body = InviteAsked,
    responses((status = 200, body = Invited), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 503, body = Problem)))]
pub async fn invite(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered<Invited> {
    let asked: InviteAsked = read(&headers, body).await?;
    let box_id = box_id(&id)?;
    let subject =
        json!({ "box": box_id, "act": "invite", "config": Sha256Hash::of(asked.config.as_bytes()) });
    looker.pass(&web, Action::Box, None, subject).await?;
    let made = move || web.enrol.invite(&box_id, &asked.config, asked.name.as_deref(), &web.actor);
    Ok(Json(Invited { invitation: blocking(made).await?.to_string() }))
}

/// Why a box is revoked.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeAsked {
    pub why: String,
}

/// Revokes every certificate of a box, at once: open connections are closed, new ones refused.
#[utoipa::path(post, path = "/api/v1/boxes/{id}/revoke", params(("id" = String, Path)), request_body = RevokeAsked,
    responses((status = 204), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 503, body = Problem)))]
pub async fn revoke(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let asked: RevokeAsked = read(&headers, body).await?;
    let box_id = box_id(&id)?;
    let subject =
        json!({ "box": box_id, "act": "revoke", "why": asked.why.chars().take(500).collect::<String>() });
    looker.pass(&web, Action::Box, None, subject).await?;
    blocking(move || web.enrol.revoke(&box_id, &asked.why, &web.actor)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a box shall do from now on.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigAsked {
    /// Some of the tables of the box's configuration: `hub` (`mqtt` and `url` only), `outbox`, `ring`, `camera`, `lamp`.
    /// A table that is not there is as in the box's own file.
    pub toml: String,
    #[serde(default)]
    pub why: String,
}

/// What is set for a box.
#[derive(Deserialize, Serialize, ToSchema)]
pub struct ConfigView {
    pub version: u64,
    pub toml: String,
    pub actor: String,
    pub why: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Time,
}

/// Sets what a box does. The box checks it, tries it, and goes back to what it had if it can't reach the hub with it.
#[utoipa::path(put, path = "/api/v1/boxes/{id}/config", params(("id" = String, Path)), request_body = ConfigAsked,
    responses((status = 202, body = ConfigView), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem), (status = 503, body = Problem)))]
pub async fn set_config(
    State(web): App,
    looker: Looker,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ConfigView>), Problem> {
    let asked: ConfigAsked = read(&headers, body).await?;
    let box_id = box_id(&id)?;
    let subject = json!({ "box": box_id, "act": "config", "sha256": Sha256Hash::of(asked.toml.as_bytes()) });
    looker.pass(&web, Action::Box, Some(asked.why.clone()), subject).await?;
    let (of_box, setter) = (box_id.clone(), web.clone());
    let set = move || setter.enrol.set(&of_box, &asked.toml, &asked.why, &setter.actor);
    let version = blocking(set).await?;
    // A box that does not hear it now asks by itself within minutes.
    let correlation = Uuid::now_v7().to_string();
    web.commands.tell(&box_id, &Command::Configure { correlation, version });
    Ok((StatusCode::ACCEPTED, Json(wanted(&web, &box_id)?)))
}

/// What is set for a box.
#[utoipa::path(get, path = "/api/v1/boxes/{id}/config", params(("id" = String, Path)),
    responses((status = 200, body = ConfigView), (status = 404, body = Problem)))]
pub async fn config(State(web): App, InPath(id): InPath<String>) -> Answered<ConfigView> {
    Ok(Json(wanted(&web, &box_id(&id)?)?))
}

fn wanted(web: &Web, box_id: &BoxId) -> Result<ConfigView, Problem> {
    let wanted = web.enrol.look(|known| known.boxes.get(box_id)?.wanted.clone());
    let wanted = wanted.ok_or_else(|| Problem::not_found(format!("nothing is set for box {box_id}")))?;
    let (version, toml) = (wanted.config.version, wanted.config.toml);
    Ok(ConfigView { version, toml, actor: wanted.actor, why: wanted.why, at: wanted.at })
}

/// Not a type that a page elsewhere could send from an officer's browser without asking first.
async fn read<T: serde::de::DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        let detail = "Content-Type must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    json_body(body).await
}

fn box_id(text: &str) -> Result<BoxId, Problem> {
    BoxId::new(text).map_err(|error| Problem::not_found(format!("there is no such box: {error}")))
}
