//! `/api/v1/sinks` and `/api/v1/notices`.

use std::sync::Arc;

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::{Asked, Given};
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::sink::{
    NoticeList, ReadNotices, SetSink, SinkList, SinkMade, SinkTried, SinkView,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, set))
        .routes(routes!(remove))
        .routes(routes!(test))
        .routes(routes!(notices))
}

/// Sinks with how their deliveries go.
#[utoipa::path(get, path = "/sinks", tag = "notifications",
    responses((status = 200, body = SinkList), Refusals))]
async fn list(who: Who, State(face): State<Arc<Face>>) -> Answer<SinkList> {
    json(face.operations.list_sinks(&who))
}

/// One sink.
#[utoipa::path(get, path = "/sinks/{sink}", tag = "notifications",
    params(("sink" = String, Path, description = "Name")),
    responses((status = 200, body = SinkView), Refusals))]
async fn show(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(sink): Path<String>,
) -> Answer<SinkView> {
    json(face.operations.show_sink(&who, &sink))
}

/// Makes a sink, or changes one. A new one begins with the notices from here on.
#[utoipa::path(put, path = "/sinks/{sink}", tag = "notifications",
    params(("sink" = String, Path, description = "Name")), request_body = SetSink,
    responses((status = 200, body = SinkMade), Refusals))]
async fn set(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(sink): Path<String>,
    Given(given): Given<SetSink>,
) -> Answer<SinkMade> {
    json(face.operations.set_sink(&who, sink, given).await)
}

/// Removes a sink. What waits for it is not delivered.
#[utoipa::path(post, path = "/sinks/{sink}/remove", tag = "notifications",
    params(("sink" = String, Path, description = "Name")),
    responses((status = 200, body = SinkView), Refusals))]
async fn remove(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(sink): Path<String>,
) -> Answer<SinkView> {
    json(face.operations.remove_sink(&who, sink).await)
}

/// Sends a notice of its own to a sink, once, and says what the receiver answered.
#[utoipa::path(post, path = "/sinks/{sink}/test", tag = "notifications",
    params(("sink" = String, Path, description = "Name")),
    responses((status = 200, body = SinkTried), Refusals))]
async fn test(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(sink): Path<String>,
) -> Answer<SinkTried> {
    json(face.operations.test_sink(&who, &sink).await)
}

/// The newest notices.
#[utoipa::path(get, path = "/notices", tag = "notifications", params(ReadNotices),
    responses((status = 200, body = NoticeList), Refusals))]
async fn notices(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<ReadNotices>,
) -> Answer<NoticeList> {
    json(face.operations.list_notices(&who, &asked))
}
