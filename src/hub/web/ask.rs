//! What is asked before and beside a search: what is understood, what a name may mean, which cameras, where next.
//!
//! What reveals only the registry (`understand`, `suggest`, `cameras`, as `places`) needs no gate; `follow` passes it,
//! because it begins at a clip.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::api::{Answered, App, Looker, json_body, page_limit, query};
use super::{Problem, Web, blocking};
use crate::hub::access::Action;
use crate::hub::search::answer::{
    FetchView, NameView, PointView, SeesView, SiteView, Understood, ViewView, point_view, site_view,
    view_view,
};
use crate::hub::search::cameras::Found;
use crate::hub::search::follow::{Follow, FollowAsked, Followed};
use crate::hub::search::names::Suggestion;
use crate::hub::search::question::{Asked, Question, check_text, window};
use crate::hub::search::{cameras_of, understood};
use crate::limits::{SUGGESTIONS, SUGGESTIONS_MAX};
use crate::model::{DeviceId, Time};

#[derive(Serialize, ToSchema)]
pub struct UnderstoodAnswer {
    understood: Understood,
}

/// What a question is understood to mean; nothing is searched and nothing recorded.
#[utoipa::path(get, path = "/api/v1/understand", params(Asked),
    responses((status = 200, body = UnderstoodAnswer), (status = 400, body = Problem)))]
pub async fn understand(State(web): App, uri: Uri) -> Answered<UnderstoodAnswer> {
    let (understood, _) = asked(&web, query(&uri)?).await?;
    Ok(Json(UnderstoodAnswer { understood }))
}

#[derive(Serialize, ToSchema)]
pub struct CamerasAnswer {
    understood: Understood,
    cameras: Vec<CameraView>,
}

/// A camera where it stood for some time.
#[derive(Serialize, ToSchema)]
pub struct CameraView {
    device: NameView,
    site: SiteView,
    point: PointView,
    #[serde(skip_serializing_if = "Option::is_none")]
    distance_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bearing_deg: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<ViewView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sees: Option<SeesView>,
    /// Since when it stands so.
    #[schema(value_type = String, format = DateTime)]
    from: Time,
    /// Absent: still.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Time>,
}

/// Cameras that stood in the place within the windows: nearest first, or best placed to see a point.
#[utoipa::path(get, path = "/api/v1/cameras", params(Asked),
    responses((status = 200, body = CamerasAnswer), (status = 400, body = Problem)))]
pub async fn cameras(State(web): App, uri: Uri) -> Answered<CamerasAnswer> {
    let (understood, found) = asked(&web, query(&uri)?).await?;
    let view = |f: &Found| {
        let placement = &f.stand.placement;
        CameraView {
            device: NameView { id: placement.device.id.to_string(), name: placement.device.name.clone() },
            site: site_view(placement),
            point: point_view(placement),
            distance_m: f.shown_distance_m(),
            bearing_deg: f.shown_bearing_deg(),
            view: view_view(placement),
            sees: f.sight.map(SeesView::from),
            from: placement.from,
            until: placement.until,
        }
    };
    Ok(Json(CamerasAnswer { understood, cameras: found.iter().map(view).collect() }))
}

async fn asked(web: &Arc<Web>, asked: Asked) -> Result<(Understood, Vec<Found>), Problem> {
    let atlas = web.atlas().await;
    let found = blocking(move || {
        let question = Question::understand(&asked, &atlas, Time::now())?;
        let found = cameras_of(&question, &atlas)?;
        Ok::<_, crate::hub::search::SearchError>((understood(&question, &found), found))
    });
    Ok(found.await?)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SuggestQuery {
    /// What was typed so far.
    q: String,
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub struct Suggestions {
    suggestions: Vec<Suggestion>,
}

/// Areas, streets, sites, devices and coordinates that a text may mean, best first.
#[utoipa::path(get, path = "/api/v1/suggest", params(SuggestQuery),
    responses((status = 200, body = Suggestions), (status = 400, body = Problem)))]
pub async fn suggest(State(web): App, uri: Uri) -> Answered<Suggestions> {
    let asked: SuggestQuery = query(&uri)?;
    let limit = page_limit(asked.limit, SUGGESTIONS, SUGGESTIONS_MAX)?;
    check_text("q", &asked.q)?;
    let atlas = web.atlas().await;
    let suggestions = blocking(move || atlas.names().suggest(&asked.q, limit)).await;
    Ok(Json(Suggestions { suggestions }))
}

/// Where somebody who was seen may be seen next: cameras with the windows within which to look.
#[utoipa::path(post, path = "/api/v1/follow", request_body = FollowAsked,
    responses((status = 200, body = Followed), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn follow(State(web): App, looker: Looker, body: Body) -> Answered<Followed> {
    let asked: FollowAsked = json_body(body).await?;
    let follow = Follow::understand(&asked)?;
    let pass = looker.pass(&web, Action::Follow, asked.purpose, follow.subject()).await?;
    let atlas = web.atlas().await;
    let followed = blocking(move || web.search().follow(&pass, &follow, &atlas)).await?;
    followed.map(Json).ok_or_else(|| Problem::not_found("there is no such clip"))
}

/// Footage that is on a box and is wanted at the hub.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FootageAsked {
    #[schema(value_type = String)]
    device: DeviceId,
    #[schema(value_type = String, format = DateTime)]
    from: Time,
    #[schema(value_type = String, format = DateTime)]
    to: Time,
}

/// Asks a box for footage. Not possible yet: the answer says where the footage is and what to do.
#[utoipa::path(post, path = "/api/v1/footage-requests", request_body = FootageAsked,
    responses((status = 400, body = Problem), (status = 404, body = Problem), (status = 413, body = Problem),
        (status = 501, body = Problem)))]
pub async fn footage_request(State(web): App, body: Body) -> Problem {
    match refused_footage(&web, body).await {
        Ok(problem) | Err(problem) => problem,
    }
}

async fn refused_footage(web: &Web, body: Body) -> Result<Problem, Problem> {
    let asked: FootageAsked = json_body(body).await?;
    window(Some(asked.from), Some(asked.to), asked.to)?;
    let history = web.registry.history();
    let Some(device) = history.device(&asked.device) else {
        return Err(Problem::not_found(format!("device = {}: there is no such device", asked.device)));
    };
    let why = FetchView::not_yet().why;
    let detail = format!("{} ({}, {}) / {}", why.vi, device.name, device.box_id, why.en);
    Ok(Problem::new(StatusCode::NOT_IMPLEMENTED, detail))
}
