//! `/api/v1/commands`.

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
use crate::operation::view::command::{
    CommandList, CommandView, FollowLine, IssueCommand, ListCommands, ListTargets, TargetPage,
    TargetView,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list, issue))
        .routes(routes!(show))
        .routes(routes!(targets))
        .routes(routes!(target))
        .routes(routes!(cancel))
        .routes(routes!(follow))
}

/// Fleet commands, newest first.
#[utoipa::path(get, path = "/commands", tag = "commands", params(ListCommands),
    responses((status = 200, body = CommandList), Refusals))]
async fn list(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<ListCommands>,
) -> Answer<CommandList> {
    json(face.operations.list_commands(&who, &asked))
}

/// Issues a command to the nodes that a selector matches.
#[utoipa::path(post, path = "/commands", tag = "commands", request_body = IssueCommand,
    responses((status = 200, body = CommandView), Refusals))]
async fn issue(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<IssueCommand>,
) -> Answer<CommandView> {
    json(face.operations.issue_command(&who, given).await)
}

/// One command and how many targets stand where.
#[utoipa::path(get, path = "/commands/{command}", tag = "commands", params(("command" = String, Path, description = "Id")),
    responses((status = 200, body = CommandView), Refusals))]
async fn show(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(command): Path<String>,
) -> Answer<CommandView> {
    let command = id(&command)?;
    json(face.operations.show_command(&who, command))
}

/// Targets of a command, in pages.
#[utoipa::path(get, path = "/commands/{command}/targets", tag = "commands", params(("command" = String, Path, description = "Id"), ListTargets),
    responses((status = 200, body = TargetPage), Refusals))]
async fn targets(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(command): Path<String>,
    Asked(asked): Asked<ListTargets>,
) -> Answer<TargetPage> {
    let command = id(&command)?;
    json(face.operations.list_targets(&who, command, &asked))
}

/// One target with its receipt.
#[utoipa::path(get, path = "/commands/{command}/targets/{node}", tag = "commands",
    params(("command" = String, Path, description = "Id"), ("node" = String, Path, description = "Id or name")),
    responses((status = 200, body = TargetView), Refusals))]
async fn target(
    who: Who,
    State(face): State<Arc<Face>>,
    Path((command, node)): Path<(String, String)>,
) -> Answer<TargetView> {
    let command = id(&command)?;
    json(face.operations.show_target(&who, command, &node))
}

/// Cancels a command on every node that has not finished it.
#[utoipa::path(post, path = "/commands/{command}/cancel", tag = "commands", params(("command" = String, Path, description = "Id")),
    responses((status = 200, body = CommandView), Refusals))]
async fn cancel(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(command): Path<String>,
) -> Answer<CommandView> {
    let command = id(&command)?;
    json(face.operations.cancel_command(&who, command).await)
}

/// Follows a command: one JSON object a line, until every target has ended.
/// Progress may be missed by a slow reader, ends of targets never.
#[utoipa::path(get, path = "/commands/{command}/follow", tag = "commands", params(("command" = String, Path, description = "Id")),
    responses((status = 200, body = FollowLine, content_type = "application/x-ndjson"), Refusals))]
async fn follow(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(command): Path<String>,
) -> Result<Response<Body>, Refused> {
    let command = id(&command)?;
    let lines = Arc::clone(&face.operations).follow_command(&who, command)?;
    Ok(stream::lines(lines, face.stop.clone()))
}
