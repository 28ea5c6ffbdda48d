//! `/api/v1/alerts`, `/api/v1/alert-rules` and `/api/v1/silences`.

use std::sync::Arc;

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::{Asked, Given};
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::alert::{
    AlertHistory, AlertList, AlertRuleDefinition, AlertRuleList, AlertRuleView, CreateSilence,
    ListAlerts, ReadAlertHistory, SilenceList, SilenceView,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(history))
        .routes(routes!(rules))
        .routes(routes!(rule, define))
        .routes(routes!(remove))
        .routes(routes!(silences, silence))
        .routes(routes!(end))
}

/// Alerts that fire, with the time since when and the node's last value.
#[utoipa::path(get, path = "/alerts", tag = "alerts", params(ListAlerts),
    responses((status = 200, body = AlertList), Refusals))]
async fn list(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<ListAlerts>,
) -> Answer<AlertList> {
    json(face.operations.list_alerts(&who, &asked))
}

/// How alerts turned, the newest first.
#[utoipa::path(get, path = "/alerts/history", tag = "alerts", params(ReadAlertHistory),
    responses((status = 200, body = AlertHistory), Refusals))]
async fn history(
    who: Who,
    State(face): State<Arc<Face>>,
    Asked(asked): Asked<ReadAlertHistory>,
) -> Answer<AlertHistory> {
    json(face.operations.read_alert_history(&who, &asked))
}

/// Every alert rule, and how much room the policy has for more.
#[utoipa::path(get, path = "/alert-rules", tag = "alerts",
    responses((status = 200, body = AlertRuleList), Refusals))]
async fn rules(who: Who, State(face): State<Arc<Face>>) -> Answer<AlertRuleList> {
    json(face.operations.list_alert_rules(&who))
}

/// One alert rule.
#[utoipa::path(get, path = "/alert-rules/{rule}", tag = "alerts",
    params(("rule" = String, Path, description = "Name")),
    responses((status = 200, body = AlertRuleView), Refusals))]
async fn rule(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rule): Path<String>,
) -> Answer<AlertRuleView> {
    json(face.operations.show_alert_rule(&who, &rule))
}

/// Defines an alert rule, or defines it anew; what fires goes on until nodes have
/// judged it by the new one.
#[utoipa::path(put, path = "/alert-rules/{rule}", tag = "alerts",
    params(("rule" = String, Path, description = "Name")), request_body = AlertRuleDefinition,
    responses((status = 200, body = AlertRuleView), Refusals))]
async fn define(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rule): Path<String>,
    Given(given): Given<AlertRuleDefinition>,
) -> Answer<AlertRuleView> {
    json(face.operations.define_alert_rule(&who, rule, given).await)
}

/// Removes an alert rule that no breaker or open rollout watches.
#[utoipa::path(post, path = "/alert-rules/{rule}/remove", tag = "alerts",
    params(("rule" = String, Path, description = "Name")),
    responses((status = 200, body = AlertRuleView), Refusals))]
async fn remove(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(rule): Path<String>,
) -> Answer<AlertRuleView> {
    json(face.operations.remove_alert_rule(&who, rule).await)
}

/// Silences that have not ended.
#[utoipa::path(get, path = "/silences", tag = "alerts",
    responses((status = 200, body = SilenceList), Refusals))]
async fn silences(who: Who, State(face): State<Arc<Face>>) -> Answer<SilenceList> {
    json(face.operations.list_silences(&who))
}

/// Keeps alerts of some nodes from being told for a while.
#[utoipa::path(post, path = "/silences", tag = "alerts", request_body = CreateSilence,
    responses((status = 200, body = SilenceView), Refusals))]
async fn silence(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<CreateSilence>,
) -> Answer<SilenceView> {
    json(face.operations.create_silence(&who, given).await)
}

/// Ends a silence before its time.
#[utoipa::path(post, path = "/silences/{number}/end", tag = "alerts",
    params(("number" = u64, Path, description = "Number")),
    responses((status = 200, body = SilenceView), Refusals))]
async fn end(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(number): Path<u64>,
) -> Answer<SilenceView> {
    json(face.operations.end_silence(&who, number).await)
}
