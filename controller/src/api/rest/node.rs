//! `/api/v1/nodes`.

use std::sync::Arc;

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::{Asked, Given};
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::node::{
    CordonNodes, DecommissionNodes, DrainNodes, ListNodes, NodeDetail, NodeList, NodeView,
    RelabelNode, RenameNode, ReplaceNode, ResolveNode, RevokeNode,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(rename))
        .routes(routes!(relabel))
        .routes(routes!(approve))
        .routes(routes!(revoke))
        .routes(routes!(replace))
        .routes(routes!(resolve))
        .routes(routes!(cordon))
        .routes(routes!(uncordon))
        .routes(routes!(drain))
        .routes(routes!(decommission))
}

/// Nodes that a selector matches.
#[utoipa::path(get, path = "/nodes", tag = "nodes", params(ListNodes),
    responses((status = 200, body = NodeList), Refusals))]
async fn list(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<ListNodes>,
) -> Answer<NodeList> {
    json(face.operations.list_nodes(&who, &asked))
}

/// One node, by id or name.
#[utoipa::path(get, path = "/nodes/{node}", tag = "nodes", params(("node" = String, Path, description = "Id or name")),
    responses((status = 200, body = NodeDetail), Refusals))]
async fn show(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
) -> Answer<NodeDetail> {
    json(face.operations.show_node(&who, &node))
}

/// Gives a node another name.
#[utoipa::path(post, path = "/nodes/{node}/rename", tag = "nodes", params(("node" = String, Path, description = "Id or name")),
    request_body = RenameNode,
    responses((status = 200, body = NodeView), Refusals))]
async fn rename(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
    Given(given): Given<RenameNode>,
) -> Answer<NodeView> {
    json(face.operations.rename_node(&who, &node, given).await)
}

/// Sets and removes labels.
#[utoipa::path(post, path = "/nodes/{node}/relabel", tag = "nodes", params(("node" = String, Path, description = "Id or name")),
    request_body = RelabelNode,
    responses((status = 200, body = NodeView), Refusals))]
async fn relabel(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
    Given(given): Given<RelabelNode>,
) -> Answer<NodeView> {
    json(face.operations.relabel_node(&who, &node, given).await)
}

/// Lets a node in that waits for approval.
#[utoipa::path(post, path = "/nodes/{node}/approve", tag = "nodes", params(("node" = String, Path, description = "Id or name")),
    responses((status = 200, body = NodeView), Refusals))]
async fn approve(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
) -> Answer<NodeView> {
    json(face.operations.approve_node(&who, &node).await)
}

/// Cuts a node off for ever.
#[utoipa::path(post, path = "/nodes/{node}/revoke", tag = "nodes", params(("node" = String, Path, description = "Id or name")),
    request_body = RevokeNode,
    responses((status = 200, body = NodeView), Refusals))]
async fn revoke(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
    Given(given): Given<RevokeNode>,
) -> Answer<NodeView> {
    json(face.operations.revoke_node(&who, &node, given).await)
}

/// Lets another node take over this one's name, labels and duties.
#[utoipa::path(post, path = "/nodes/{node}/replace", tag = "nodes", params(("node" = String, Path, description = "Id or name")),
    request_body = ReplaceNode,
    responses((status = 200, body = NodeView), Refusals))]
async fn replace(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
    Given(given): Given<ReplaceNode>,
) -> Answer<NodeView> {
    json(face.operations.replace_node(&who, &node, given).await)
}

/// Decides about an identity that was seen twice.
#[utoipa::path(post, path = "/nodes/{node}/resolve", tag = "nodes", params(("node" = String, Path, description = "Id or name")),
    request_body = ResolveNode,
    responses((status = 200, body = NodeView), Refusals))]
async fn resolve(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
    Given(given): Given<ResolveNode>,
) -> Answer<NodeView> {
    json(face.operations.resolve_node(&who, &node, given).await)
}

/// Takes nodes out of service: they get nothing that they do not have.
#[utoipa::path(post, path = "/service/cordon", tag = "nodes", request_body = CordonNodes,
    responses((status = 200, body = NodeList), Refusals))]
async fn cordon(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<CordonNodes>,
) -> Answer<NodeList> {
    json(face.operations.cordon_nodes(&who, given).await)
}

/// Puts nodes into service again.
#[utoipa::path(post, path = "/service/uncordon", tag = "nodes", request_body = CordonNodes,
    responses((status = 200, body = NodeList), Refusals))]
async fn uncordon(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<CordonNodes>,
) -> Answer<NodeList> {
    json(face.operations.uncordon_nodes(&who, given).await)
}

/// Takes the workloads of nodes away. The answer comes when that has begun.
#[utoipa::path(post, path = "/service/drain", tag = "nodes", request_body = DrainNodes,
    responses((status = 200, body = NodeList), Refusals))]
async fn drain(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<DrainNodes>,
) -> Answer<NodeList> {
    json(face.operations.drain_nodes(&who, given).await)
}

/// Lets nodes leave the fleet, once they are drained or at once.
#[utoipa::path(post, path = "/service/decommission", tag = "nodes", request_body = DecommissionNodes,
    responses((status = 200, body = NodeList), Refusals))]
async fn decommission(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<DecommissionNodes>,
) -> Answer<NodeList> {
    json(face.operations.decommission_nodes(&who, given).await)
}
