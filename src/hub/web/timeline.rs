//! Counts per bucket of time, for sliders and charts.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Deserialize;
use utoipa::IntoParams;

use super::api::{Allowed, Answered, App, Looker, query_parts};
use super::{Problem, blocking};
use crate::hub::search::question::Asked;
use crate::hub::search::timeline::{CoverageTimeline, Timeline};

/// Beside the question.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct BucketQuery {
    /// Length of a bucket, seconds; without it some two hundred fill the time.
    bucket_s: Option<u32>,
}

/// How many clips begin when. Takes a question as `/clips` does.
#[utoipa::path(get, path = "/api/v1/timeline", params(Asked, BucketQuery),
    responses((status = 200, body = Timeline), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn timeline(State(web): App, looker: Looker, uri: Uri) -> Answered<Timeline> {
    let (BucketQuery { bucket_s }, asked): (_, Asked) = query_parts(&uri, &["bucket_s"])?;
    let Allowed { pass, question, atlas, .. } = Allowed::of(&web, looker, asked, Some("timeline")).await?;
    Ok(Json(blocking(move || web.search().timeline(&pass, &question, &atlas, bucket_s)).await?))
}

/// How much each camera recorded when. Takes a question as `/clips` does.
#[utoipa::path(get, path = "/api/v1/coverage", params(Asked, BucketQuery),
    responses((status = 200, body = CoverageTimeline), (status = 400, body = Problem),
        (status = 503, body = Problem)))]
pub async fn coverage(State(web): App, looker: Looker, uri: Uri) -> Answered<CoverageTimeline> {
    let (BucketQuery { bucket_s }, asked): (_, Asked) = query_parts(&uri, &["bucket_s"])?;
    let Allowed { pass, question, atlas, now } = Allowed::of(&web, looker, asked, Some("coverage")).await?;
    let told = blocking(move || web.search().coverage_timeline(&pass, &question, &atlas, bucket_s, now));
    Ok(Json(told.await?))
}
