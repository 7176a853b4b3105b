//! The contract of the HTTP API, made from the handlers; `config/openapi.json` is its committed copy.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;

use super::{api, ask, copies, events, lamp, places, stac, stream, timeline};

#[derive(OpenApi)]
#[openapi(
    info(title = "camnet", description = "Search footage by place and time."),
    paths(
        api::session,
        places::places,
        api::clips_get,
        api::clips_post,
        api::clip,
        api::clip_video,
        copies::clip_copy,
        api::clip_thumbnail,
        stream::csv,
        stream::geojson,
        timeline::timeline,
        timeline::coverage,
        events::events,
        ask::understand,
        ask::suggest,
        ask::cameras,
        ask::follow,
        ask::footage_request,
        stac::landing,
        stac::conformance,
        stac::description,
        stac::document,
        stac::collections,
        stac::collection,
        stac::items,
        stac::one_item,
        stac::search_get,
        stac::search_post,
        api::boxes,
        lamp::lamp,
        api::refused,
        api::replay,
        api::access,
        api::index,
        api::index_rebuild,
    )
)]
struct Contract;

/// Its media type (OGC API Features 1.0 and STAC API 1.0.0 ask for the version).
pub const MEDIA_TYPE: &str = "application/vnd.oai.openapi+json;version=3.1";

/// The contract as JSON text.
pub fn contract() -> String {
    Contract::openapi().to_pretty_json().expect("the contract is plain data") + "\n"
}

pub async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], contract()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `CAMNET_WRITE_CONTRACTS=1 cargo test openapi` writes the file anew.
    #[test]
    fn the_committed_contract_is_what_the_code_does() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/openapi.json");
        if std::env::var_os("CAMNET_WRITE_CONTRACTS").is_some() {
            std::fs::write(&path, contract()).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == contract(),
            "run CAMNET_WRITE_CONTRACTS=1 cargo test openapi, and look at the diff"
        );
    }
}
