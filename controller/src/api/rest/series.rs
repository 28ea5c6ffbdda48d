//! `/api/v1/series` and the metrics of nodes.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json, stream};
use crate::api::Face;
use crate::api::extract::Asked;
use crate::api::problem::{Refusals, Refused};
use crate::operation::Who;
use crate::operation::view::series::{
    Catalogue, LastValues, QuerySeries, SeriesAnswer, TopAnswer, TopSeries,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(catalogue))
        .routes(routes!(top))
        .routes(routes!(last))
        .routes(routes!(query))
        .routes(routes!(live))
}

/// Every series that exists.
#[utoipa::path(get, path = "/series", tag = "metrics",
    responses((status = 200, body = Catalogue), Refusals))]
async fn catalogue(who: Who, State(face): State<Arc<Face>>) -> Answer<Catalogue> {
    json(face.operations.catalogue(&who))
}

/// Nodes with the highest last value of a series.
#[utoipa::path(get, path = "/series/top", tag = "metrics", params(TopSeries),
    responses((status = 200, body = TopAnswer), Refusals))]
async fn top(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<TopSeries>,
) -> Answer<TopAnswer> {
    json(face.operations.top_series(&who, &asked))
}

/// A node's last values.
#[utoipa::path(get, path = "/nodes/{node}/series/last", tag = "metrics", params(("node" = String, Path, description = "Id or name")),
    responses((status = 200, body = LastValues), Refusals))]
async fn last(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
) -> Answer<LastValues> {
    json(face.operations.last_values(&who, &node))
}

/// A node's series over time. Gaps are null.
#[utoipa::path(get, path = "/nodes/{node}/series", tag = "metrics", params(("node" = String, Path, description = "Id or name"), QuerySeries),
    responses((status = 200, body = SeriesAnswer), Refusals))]
async fn query(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
    Asked(asked): Asked<QuerySeries>,
) -> Answer<SeriesAnswer> {
    json(face.operations.query_series(&who, &node, &asked).await)
}

/// A node's values as they are measured, every second: one JSON object a line.
/// Ends after ten minutes, or when the reader goes.
#[utoipa::path(get, path = "/nodes/{node}/live", tag = "metrics", params(("node" = String, Path, description = "Id or name")),
    responses((status = 200, body = LastValues, content_type = "application/x-ndjson"), Refusals))]
async fn live(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
) -> Result<Response<Body>, Refused> {
    let lines = Arc::clone(&face.operations).live_values(&who, &node)?;
    Ok(stream::lines(lines, face.stop.clone()))
}
