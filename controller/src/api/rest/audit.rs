//! `/api/v1/audit`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json, octets};
use crate::api::Face;
use crate::api::extract::Asked;
use crate::api::problem::{Refusals, Refused};
use crate::operation::Who;
use crate::operation::view::audit::{AuditKey, ReadAudit, RecordPage};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(records))
        .routes(routes!(export))
        .routes(routes!(key))
}

/// Records of the audit trail.
#[utoipa::path(get, path = "/audit/records", tag = "audit", params(ReadAudit),
    responses((status = 200, body = RecordPage), Refusals))]
async fn records(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<ReadAudit>,
) -> Answer<RecordPage> {
    json(face.operations.read_audit(&who, &asked))
}

/// The whole trail with its checkpoints, as `flotilla audit verify` reads it.
#[utoipa::path(get, path = "/audit/export", tag = "audit",
    responses((status = 200, content_type = "application/octet-stream"), Refusals))]
async fn export(who: Who, State(face): State<Arc<Face>>) -> Result<Response<Body>, Refused> {
    Ok(octets(face.operations.export_audit(&who)?))
}

/// The public key that verifies the trail.
#[utoipa::path(get, path = "/audit/key", tag = "audit",
    responses((status = 200, body = AuditKey), Refusals))]
async fn key(who: Who, State(face): State<Arc<Face>>) -> Answer<AuditKey> {
    json(face.operations.audit_key(&who))
}
