//! `/api/v1/rollouts`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json, stream};
use crate::api::Face;
use crate::api::extract::{Asked, Given, id};
use crate::api::problem::{Refusals, Refused};
use crate::operation::Who;
use crate::operation::view::command::ListTargets;
use crate::operation::view::rollout::{
    AbortRollout, ApproveRollout, ListRollouts, PauseRollout, RolloutLine, RolloutList,
    RolloutTargetPage, RolloutView,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(targets))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(approve))
        .routes(routes!(abort))
        .routes(routes!(follow))
}

/// Rollouts, newest first.
#[utoipa::path(get, path = "/rollouts", tag = "rollouts", params(ListRollouts),
    responses((status = 200, body = RolloutList), Refusals))]
async fn list(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<ListRollouts>,
) -> Answer<RolloutList> {
    json(face.operations.list_rollouts(&who, &asked))
}

/// One rollout: its waves, how many targets stand where, what was decided.
#[utoipa::path(get, path = "/rollouts/{rollout}", tag = "rollouts",
    params(("rollout" = String, Path, description = "Id")),
    responses((status = 200, body = RolloutView), Refusals))]
async fn show(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rollout): Path<String>,
) -> Answer<RolloutView> {
    let rollout = id(&rollout)?;
    json(face.operations.show_rollout(&who, rollout))
}

/// Targets of a rollout, in pages.
#[utoipa::path(get, path = "/rollouts/{rollout}/targets", tag = "rollouts",
    params(("rollout" = String, Path, description = "Id"), ListTargets),
    responses((status = 200, body = RolloutTargetPage), Refusals))]
async fn targets(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rollout): Path<String>,
    Asked(asked): Asked<ListTargets>,
) -> Answer<RolloutTargetPage> {
    let rollout = id(&rollout)?;
    json(
        face.operations
            .list_rollout_targets(&who, rollout, asked.after, asked.limit),
    )
}

/// Starts nothing more until someone resumes. What is in progress goes on.
#[utoipa::path(post, path = "/rollouts/{rollout}/pause", tag = "rollouts",
    params(("rollout" = String, Path, description = "Id")), request_body = PauseRollout,
    responses((status = 200, body = RolloutView), Refusals))]
async fn pause(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rollout): Path<String>,
    Given(given): Given<PauseRollout>,
) -> Answer<RolloutView> {
    let rollout = id(&rollout)?;
    json(face.operations.pause_rollout(&who, rollout, given).await)
}

/// Goes on after a pause or a halt. The failures that were seen so far count no
/// more.
#[utoipa::path(post, path = "/rollouts/{rollout}/resume", tag = "rollouts",
    params(("rollout" = String, Path, description = "Id")),
    responses((status = 200, body = RolloutView), Refusals))]
async fn resume(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rollout): Path<String>,
) -> Answer<RolloutView> {
    let rollout = id(&rollout)?;
    json(face.operations.resume_rollout(&who, rollout).await)
}

/// Opens the gate before the next wave.
#[utoipa::path(post, path = "/rollouts/{rollout}/approve", tag = "rollouts",
    params(("rollout" = String, Path, description = "Id")), request_body = ApproveRollout,
    responses((status = 200, body = RolloutView), Refusals))]
async fn approve(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rollout): Path<String>,
    Given(given): Given<ApproveRollout>,
) -> Answer<RolloutView> {
    let rollout = id(&rollout)?;
    json(face.operations.approve_rollout(&who, rollout, given).await)
}

/// Ends a rollout: what is in progress is recalled.
#[utoipa::path(post, path = "/rollouts/{rollout}/abort", tag = "rollouts",
    params(("rollout" = String, Path, description = "Id")), request_body = AbortRollout,
    responses((status = 200, body = RolloutView), Refusals))]
async fn abort(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rollout): Path<String>,
    Given(given): Given<AbortRollout>,
) -> Answer<RolloutView> {
    let rollout = id(&rollout)?;
    json(face.operations.abort_rollout(&who, rollout, given).await)
}

/// Follows a rollout: one JSON object a line whenever something changes, until it
/// has ended.
#[utoipa::path(get, path = "/rollouts/{rollout}/follow", tag = "rollouts",
    params(("rollout" = String, Path, description = "Id")),
    responses((status = 200, body = RolloutLine, content_type = "application/x-ndjson"), Refusals))]
async fn follow(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rollout): Path<String>,
) -> Result<Response<Body>, Refused> {
    let rollout = id(&rollout)?;
    let lines = Arc::clone(&face.operations).follow_rollout(&who, rollout)?;
    Ok(stream::lines(lines, face.stop.clone()))
}
