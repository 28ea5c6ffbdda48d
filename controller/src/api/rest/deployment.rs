//! `/api/v1/deployments`.

use std::sync::Arc;

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::{Asked, Given};
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::deployment::{
    ApplyAnswer, ApplyDeployment, DeploymentDetail, DeploymentList, DeploymentView, ListStatus,
    RemoveDeployment, RevisionDetail, RevisionList, RollBackDeployment, StatusPage,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list, apply))
        .routes(routes!(show))
        .routes(routes!(revisions))
        .routes(routes!(revision))
        .routes(routes!(status))
        .routes(routes!(roll_back))
        .routes(routes!(remove))
}

/// Deployments, by name.
#[utoipa::path(get, path = "/deployments", tag = "deployments",
    responses((status = 200, body = DeploymentList), Refusals))]
async fn list(who: Who, State(face): State<Arc<Face>>) -> Answer<DeploymentList> {
    json(face.operations.list_deployments(&who))
}

/// Gives a deployment a revision, its first or another one, and rolls it out; with
/// `dry_run` it only says what would happen. The body may have up to 4 MiB, for the
/// files that the project names.
#[utoipa::path(post, path = "/deployments", tag = "deployments", request_body = ApplyDeployment,
    responses((status = 200, body = ApplyAnswer), Refusals))]
async fn apply(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<ApplyDeployment>,
) -> Answer<ApplyAnswer> {
    json(face.operations.apply_deployment(&who, given).await)
}

/// One deployment with its newest revision.
#[utoipa::path(get, path = "/deployments/{deployment}", tag = "deployments",
    params(("deployment" = String, Path, description = "Name or id")),
    responses((status = 200, body = DeploymentDetail), Refusals))]
async fn show(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(deployment): Path<String>,
) -> Answer<DeploymentDetail> {
    json(face.operations.show_deployment(&who, &deployment))
}

/// The revisions of a deployment that are kept, newest first.
#[utoipa::path(get, path = "/deployments/{deployment}/revisions", tag = "deployments",
    params(("deployment" = String, Path, description = "Name or id")),
    responses((status = 200, body = RevisionList), Refusals))]
async fn revisions(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(deployment): Path<String>,
) -> Answer<RevisionList> {
    json(face.operations.list_revisions(&who, &deployment))
}

/// One revision with what is to run.
#[utoipa::path(get, path = "/deployments/{deployment}/revisions/{revision}", tag = "deployments",
    params(("deployment" = String, Path, description = "Name or id"), ("revision" = u32, Path, description = "Number")),
    responses((status = 200, body = RevisionDetail), Refusals))]
async fn revision(
    who: Who,
    State(face): State<Arc<Face>>,
    Path((deployment, revision)): Path<(String, u32)>,
) -> Answer<RevisionDetail> {
    json(face.operations.show_revision(&who, &deployment, revision))
}

/// How a deployment is on nodes, in pages: what was ordered, and what they say.
#[utoipa::path(get, path = "/deployments/{deployment}/status", tag = "deployments",
    params(("deployment" = String, Path, description = "Name or id"), ListStatus),
    responses((status = 200, body = StatusPage), Refusals))]
async fn status(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(deployment): Path<String>,
    Asked(asked): Asked<ListStatus>,
) -> Answer<StatusPage> {
    json(
        face.operations
            .list_deployment_status(&who, &deployment, &asked),
    )
}

/// Goes back to an earlier revision, which is a rollout like any other; with
/// `dry_run` it only says what would happen.
#[utoipa::path(post, path = "/deployments/{deployment}/rollback", tag = "deployments",
    params(("deployment" = String, Path, description = "Name or id")), request_body = RollBackDeployment,
    responses((status = 200, body = ApplyAnswer), Refusals))]
async fn roll_back(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(deployment): Path<String>,
    Given(given): Given<RollBackDeployment>,
) -> Answer<ApplyAnswer> {
    let answer = face
        .operations
        .roll_back_deployment(&who, &deployment, given)
        .await;
    json(answer)
}

/// Takes a deployment from every node. Its volumes stay.
#[utoipa::path(post, path = "/deployments/{deployment}/remove", tag = "deployments",
    params(("deployment" = String, Path, description = "Name or id")), request_body = RemoveDeployment,
    responses((status = 200, body = DeploymentView), Refusals))]
async fn remove(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(deployment): Path<String>,
    Given(given): Given<RemoveDeployment>,
) -> Answer<DeploymentView> {
    let answer = face
        .operations
        .remove_deployment(&who, &deployment, given)
        .await;
    json(answer)
}
