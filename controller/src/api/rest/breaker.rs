//! `/api/v1/breakers`.

use std::sync::Arc;

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::Given;
use crate::api::problem::Refusals;
use crate::domain::breaker::manage::Hand;
use crate::operation::Who;
use crate::operation::view::breaker::{
    BreakerDefinition, BreakerList, BreakerView, LeaseView, MoveBreaker, OverrideBreaker,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, define))
        .routes(routes!(remove))
        .routes(routes!(trip))
        .routes(routes!(isolate))
        .routes(routes!(reset))
        .routes(routes!(pass))
        .routes(routes!(show_lease, set_lease))
        .routes(routes!(end))
}

/// Breakers with where they stand, overrides, and the number of the policy.
#[utoipa::path(get, path = "/breakers", tag = "breakers",
    responses((status = 200, body = BreakerList), Refusals))]
async fn list(who: Who, State(face): State<Arc<Face>>) -> Answer<BreakerList> {
    json(face.operations.list_breakers(&who))
}

/// One breaker with its last moves.
#[utoipa::path(get, path = "/breakers/{breaker}", tag = "breakers",
    params(("breaker" = String, Path, description = "Name")),
    responses((status = 200, body = BreakerView), Refusals))]
async fn show(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(breaker): Path<String>,
) -> Answer<BreakerView> {
    json(face.operations.show_breaker(&who, &breaker))
}

/// Defines a breaker, or defines it anew; it keeps its state.
#[utoipa::path(put, path = "/breakers/{breaker}", tag = "breakers",
    params(("breaker" = String, Path, description = "Name")), request_body = BreakerDefinition,
    responses((status = 200, body = BreakerView), Refusals))]
async fn define(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(breaker): Path<String>,
    Given(given): Given<BreakerDefinition>,
) -> Answer<BreakerView> {
    json(face.operations.define_breaker(&who, breaker, given).await)
}

/// Removes a breaker that is closed.
#[utoipa::path(post, path = "/breakers/{breaker}/remove", tag = "breakers",
    params(("breaker" = String, Path, description = "Name")),
    responses((status = 200, body = BreakerView), Refusals))]
async fn remove(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(breaker): Path<String>,
) -> Answer<BreakerView> {
    json(face.operations.remove_breaker(&who, breaker).await)
}

/// Opens a breaker, with its cool-down.
#[utoipa::path(post, path = "/breakers/{breaker}/trip", tag = "breakers",
    params(("breaker" = String, Path, description = "Name")), request_body = MoveBreaker,
    responses((status = 200, body = BreakerView), Refusals))]
async fn trip(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(breaker): Path<String>,
    Given(given): Given<MoveBreaker>,
) -> Answer<BreakerView> {
    by_hand(&face, &who, breaker, Hand::Trip, given).await
}

/// Opens a breaker until someone resets it.
#[utoipa::path(post, path = "/breakers/{breaker}/isolate", tag = "breakers",
    params(("breaker" = String, Path, description = "Name")), request_body = MoveBreaker,
    responses((status = 200, body = BreakerView), Refusals))]
async fn isolate(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(breaker): Path<String>,
    Given(given): Given<MoveBreaker>,
) -> Answer<BreakerView> {
    by_hand(&face, &who, breaker, Hand::Isolate, given).await
}

/// Closes a breaker.
#[utoipa::path(post, path = "/breakers/{breaker}/reset", tag = "breakers",
    params(("breaker" = String, Path, description = "Name")), request_body = MoveBreaker,
    responses((status = 200, body = BreakerView), Refusals))]
async fn reset(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(breaker): Path<String>,
    Given(given): Given<MoveBreaker>,
) -> Answer<BreakerView> {
    by_hand(&face, &who, breaker, Hand::Reset, given).await
}

async fn by_hand(
    face: &Face,
    who: &Who,
    breaker: String,
    to: Hand,
    asked: MoveBreaker,
) -> Answer<BreakerView> {
    json(face.operations.move_breaker(who, breaker, to, asked).await)
}

/// Lets some nodes pass a breaker for a while: break-glass.
#[utoipa::path(post, path = "/breakers/{breaker}/override", tag = "breakers",
    params(("breaker" = String, Path, description = "Name")), request_body = OverrideBreaker,
    responses((status = 200, body = BreakerView), Refusals))]
async fn pass(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(breaker): Path<String>,
    Given(given): Given<OverrideBreaker>,
) -> Answer<BreakerView> {
    json(face.operations.override_breaker(&who, breaker, given).await)
}

/// Ends an override before its time.
#[utoipa::path(post, path = "/overrides/{number}/end", tag = "breakers",
    params(("number" = u64, Path, description = "Number")),
    responses((status = 200, body = BreakerView), Refusals))]
async fn end(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(number): Path<u64>,
) -> Answer<BreakerView> {
    json(face.operations.end_override(&who, number).await)
}

/// For how long nodes go on without a word from the controller.
#[utoipa::path(get, path = "/lease", tag = "breakers",
    responses((status = 200, body = LeaseView), Refusals))]
async fn show_lease(who: Who, State(face): State<Arc<Face>>) -> Answer<LeaseView> {
    json(face.operations.show_lease(&who))
}

/// Changes for how long nodes go on without a word from the controller.
#[utoipa::path(put, path = "/lease", tag = "breakers", request_body = LeaseView,
    responses((status = 200, body = LeaseView), Refusals))]
async fn set_lease(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<LeaseView>,
) -> Answer<LeaseView> {
    json(face.operations.set_lease(&who, given).await)
}
