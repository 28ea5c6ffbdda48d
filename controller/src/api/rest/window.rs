//! `/api/v1/windows`.

use std::sync::Arc;

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::Given;
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::window::{OpenWindow, WindowDefinition, WindowList, WindowView};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, set))
        .routes(routes!(remove))
        .routes(routes!(open))
        .routes(routes!(shut))
}

/// Every maintenance window.
#[utoipa::path(get, path = "/windows", tag = "windows",
    responses((status = 200, body = WindowList), Refusals))]
async fn list(who: Who, State(face): State<Arc<Face>>) -> Answer<WindowList> {
    json(face.operations.list_windows(&who))
}

/// One maintenance window.
#[utoipa::path(get, path = "/windows/{window}", tag = "windows",
    params(("window" = String, Path, description = "Name")),
    responses((status = 200, body = WindowView), Refusals))]
async fn show(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(window): Path<String>,
) -> Answer<WindowView> {
    json(face.operations.show_window(&who, &window))
}

/// Defines a maintenance window, or defines it anew.
#[utoipa::path(put, path = "/windows/{window}", tag = "windows",
    params(("window" = String, Path, description = "Name")), request_body = WindowDefinition,
    responses((status = 200, body = WindowView), Refusals))]
async fn set(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(window): Path<String>,
    Given(given): Given<WindowDefinition>,
) -> Answer<WindowView> {
    json(face.operations.set_window(&who, window, given).await)
}

/// Removes a maintenance window: what waits for it waits no more.
#[utoipa::path(post, path = "/windows/{window}/remove", tag = "windows",
    params(("window" = String, Path, description = "Name")),
    responses((status = 200, body = WindowView), Refusals))]
async fn remove(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(window): Path<String>,
) -> Answer<WindowView> {
    json(face.operations.remove_window(&who, window).await)
}

/// Opens a maintenance window against its schedule: break-glass.
#[utoipa::path(post, path = "/windows/{window}/open", tag = "windows",
    params(("window" = String, Path, description = "Name")), request_body = OpenWindow,
    responses((status = 200, body = WindowView), Refusals))]
async fn open(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(window): Path<String>,
    Given(given): Given<OpenWindow>,
) -> Answer<WindowView> {
    json(face.operations.open_window(&who, window, given).await)
}

/// Shuts a maintenance window that was opened against its schedule.
#[utoipa::path(post, path = "/windows/{window}/shut", tag = "windows",
    params(("window" = String, Path, description = "Name")),
    responses((status = 200, body = WindowView), Refusals))]
async fn shut(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(window): Path<String>,
) -> Answer<WindowView> {
    json(face.operations.shut_window(&who, window).await)
}
