//! The contract of the HTTP API, made from the handlers; `config/openapi.json` is its committed copy.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::{Modify, OpenApi};

use super::{api, ask, copies, enrol, events, fleet, lamp, lighting, places, stac, stream, timeline};
use crate::hub::fleet::webhook::notice::Notice;

#[derive(OpenApi)]
#[openapi(
    info(title = "camnet", description = "Search footage by place and time."),
    modifiers(&Problems),
    components(schemas(Notice)),
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
        lighting::lighting,
        enrol::enrol,
        enrol::invite,
        enrol::revoke,
        enrol::set_config,
        enrol::config,
        fleet::fleet,
        fleet::rollup::rollup,
        fleet::report,
        fleet::report_csv,
        fleet::device,
        fleet::service,
        fleet::still::still,
        fleet::still::view,
        fleet::orders,
        fleet::open_order,
        fleet::order,
        fleet::act,
        fleet::photo::take,
        fleet::photo::show,
        lamp::lamp,
        api::refused,
        api::replay,
        api::access,
        api::index,
        api::index_rebuild,
    )
)]
struct Contract;

/// Every error is `application/problem+json`, and what can't be recorded (503) may also be refused (403); the attributes
/// of the handlers do not repeat it.
struct Problems;

impl Modify for Problems {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for path in openapi.paths.paths.values_mut() {
            for operation in [&mut path.get, &mut path.post, &mut path.put].into_iter().flatten() {
                let responses = &mut operation.responses.responses;
                for (_, response) in responses.iter_mut().filter(|(status, _)| !status.starts_with('2')) {
                    let RefOr::T(response) = response else { continue };
                    if let Some(content) = response.content.swap_remove("application/json") {
                        response.content.insert("application/problem+json".into(), content);
                    }
                }
                if let Some(refused) = responses.get("503").cloned() {
                    responses.insert("403".into(), refused);
                }
            }
        }
    }
}

/// utoipa writes no webhooks: they stand behind the rest.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    contract: utoipa::openapi::OpenApi,
    webhooks: Value,
}

/// What the hub sends to the receivers of `[[webhook]]`.
fn webhooks() -> Value {
    let header = |name: &str, required: bool, description: &str| {
        json!({ "name": name, "in": "header", "required": required, "description": description,
            "schema": { "type": "string" } })
    };
    json!({ "incident": { "post": {
        "summary": "An incident began, changed or ended.",
        "description": "Comes at least once and in order; the id is the same however often it comes. It is sent again, with \
            pauses, until the answer is 2xx, for a day at most (ten minutes where the answer is 400, 413 or 422).",
        "parameters": [
            header("webhook-id", true, "Names the message: do each once."),
            header("webhook-timestamp", true, "When it was sent, seconds since 1970."),
            header("webhook-signature", false, "`v1,` and, in Base64, the HMAC-SHA-256 of id, `.`, timestamp, `.` and body, \
                as in Standard Webhooks; where the hub has a secret."),
        ],
        "requestBody": { "required": true,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Notice" } } } },
        "responses": { "2XX": { "description": "Taken." }, "default": { "description": "Not taken: it comes again." } },
    } } })
}

/// Its media type (OGC API Features 1.0 and STAC API 1.0.0 ask for the version).
pub const MEDIA_TYPE: &str = "application/vnd.oai.openapi+json;version=3.1";

/// The contract as JSON text.
pub fn contract() -> String {
    let document = Document { contract: Contract::openapi(), webhooks: webhooks() };
    serde_json::to_string_pretty(&document).expect("the contract is plain data") + "\n"
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
