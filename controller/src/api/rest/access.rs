//! `/api/v1/access`: roles, principals, grants, keys.

use std::sync::Arc;

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::{Asked, Given, id};
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::access::{
    AddGrant, AddPrincipal, CreateKey, Explain, ExplanationView, GrantList, GrantView, KeyList,
    KeyMade, KeyView, PrincipalList, PrincipalView, RoleList, RoleView, RotateKey, SetRole, Whoami,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list_roles))
        .routes(routes!(set_role, remove_role))
        .routes(routes!(list_principals, add_principal))
        .routes(routes!(disable_principal))
        .routes(routes!(enable_principal))
        .routes(routes!(list_grants, add_grant))
        .routes(routes!(remove_grant))
        .routes(routes!(list_keys, create_key))
        .routes(routes!(rotate_key))
        .routes(routes!(revoke_key))
        .routes(routes!(explain))
        .routes(routes!(whoami))
}

/// Roles.
#[utoipa::path(get, path = "/access/roles", tag = "access",
    responses((status = 200, body = RoleList), Refusals))]
async fn list_roles(who: Who, State(face): State<Arc<Face>>) -> Answer<RoleList> {
    json(face.operations.list_roles(&who))
}

/// Makes or changes a role.
#[utoipa::path(put, path = "/access/roles/{role}", tag = "access", params(("role" = String, Path, description = "Name")),
    request_body = SetRole,
    responses((status = 200, body = RoleView), Refusals))]
async fn set_role(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(role): Path<String>,
    Given(given): Given<SetRole>,
) -> Answer<RoleView> {
    json(face.operations.set_role(&who, &role, given).await)
}

/// Removes a role that nobody has.
#[utoipa::path(delete, path = "/access/roles/{role}", tag = "access", params(("role" = String, Path, description = "Name")),
    responses((status = 200, body = RoleView), Refusals))]
async fn remove_role(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(role): Path<String>,
) -> Answer<RoleView> {
    json(face.operations.remove_role(&who, &role).await)
}

/// People and service accounts.
#[utoipa::path(get, path = "/access/principals", tag = "access",
    responses((status = 200, body = PrincipalList), Refusals))]
async fn list_principals(who: Who, State(face): State<Arc<Face>>) -> Answer<PrincipalList> {
    json(face.operations.list_principals(&who))
}

/// Adds a person or a service account.
#[utoipa::path(post, path = "/access/principals", tag = "access", request_body = AddPrincipal,
    responses((status = 200, body = PrincipalView), Refusals))]
async fn add_principal(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<AddPrincipal>,
) -> Answer<PrincipalView> {
    json(face.operations.add_principal(&who, given).await)
}

/// Takes every permission from a principal, at once.
#[utoipa::path(post, path = "/access/principals/{principal}/disable", tag = "access", params(("principal" = String, Path, description = "Id or name")),
    responses((status = 200, body = PrincipalView), Refusals))]
async fn disable_principal(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(principal): Path<String>,
) -> Answer<PrincipalView> {
    json(face.operations.disable_principal(&who, &principal).await)
}

/// Gives a disabled principal its permissions back.
#[utoipa::path(post, path = "/access/principals/{principal}/enable", tag = "access", params(("principal" = String, Path, description = "Id or name")),
    responses((status = 200, body = PrincipalView), Refusals))]
async fn enable_principal(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(principal): Path<String>,
) -> Answer<PrincipalView> {
    json(face.operations.enable_principal(&who, &principal).await)
}

/// Grants.
#[utoipa::path(get, path = "/access/grants", tag = "access",
    responses((status = 200, body = GrantList), Refusals))]
async fn list_grants(who: Who, State(face): State<Arc<Face>>) -> Answer<GrantList> {
    json(face.operations.list_grants(&who))
}

/// Grants a role.
#[utoipa::path(post, path = "/access/grants", tag = "access", request_body = AddGrant,
    responses((status = 200, body = GrantView), Refusals))]
async fn add_grant(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<AddGrant>,
) -> Answer<GrantView> {
    json(face.operations.add_grant(&who, given).await)
}

/// Takes a grant back.
#[utoipa::path(delete, path = "/access/grants/{grant}", tag = "access", params(("grant" = String, Path, description = "Id")),
    responses((status = 200, body = GrantView), Refusals))]
async fn remove_grant(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(grant): Path<String>,
) -> Answer<GrantView> {
    let grant = id(&grant)?;
    json(face.operations.remove_grant(&who, grant).await)
}

/// API keys, without their secrets.
#[utoipa::path(get, path = "/access/keys", tag = "access",
    responses((status = 200, body = KeyList), Refusals))]
async fn list_keys(who: Who, State(face): State<Arc<Face>>) -> Answer<KeyList> {
    json(face.operations.list_keys(&who))
}

/// Makes an API key. Its text is shown here and never again.
#[utoipa::path(post, path = "/access/keys", tag = "access", request_body = CreateKey,
    responses((status = 200, body = KeyMade), Refusals))]
async fn create_key(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<CreateKey>,
) -> Answer<KeyMade> {
    json(face.operations.create_key(&who, given).await)
}

/// Replaces an API key; the old one works for the overlap.
#[utoipa::path(post, path = "/access/keys/{key}/rotate", tag = "access", params(("key" = String, Path, description = "Serial")),
    request_body = RotateKey,
    responses((status = 200, body = KeyMade), Refusals))]
async fn rotate_key(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(key): Path<String>,
    Given(given): Given<RotateKey>,
) -> Answer<KeyMade> {
    let key = id(&key)?;
    json(face.operations.rotate_key(&who, key, given).await)
}

/// Makes an API key useless at once.
#[utoipa::path(post, path = "/access/keys/{key}/revoke", tag = "access", params(("key" = String, Path, description = "Serial")),
    responses((status = 200, body = KeyView), Refusals))]
async fn revoke_key(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(key): Path<String>,
) -> Answer<KeyView> {
    let key = id(&key)?;
    json(face.operations.revoke_key(&who, key).await)
}

/// Which grant decides, and why.
#[utoipa::path(get, path = "/access/explain", tag = "access", params(Explain),
    responses((status = 200, body = ExplanationView), Refusals))]
async fn explain(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<Explain>,
) -> Answer<ExplanationView> {
    json(face.operations.explain(&who, &asked))
}

/// Who this key belongs to. Needs no permission.
#[utoipa::path(get, path = "/access/whoami", tag = "access",
    responses((status = 200, body = Whoami), Refusals))]
async fn whoami(who: Who, State(face): State<Arc<Face>>) -> Answer<Whoami> {
    json(face.operations.whoami(&who))
}
