//! Metrics of nodes.

use protocol::id::NodeId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;

/// A series that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeriesView {
    /// Name, such as `cpu.busy`.
    pub name: String,
    /// Unit.
    pub unit: String,
    /// `gauge` or `counter`.
    pub kind: String,
    /// What it tells.
    pub help: String,
}

/// Every series that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Catalogue {
    /// The series, by name.
    pub series: Vec<SeriesView>,
}

/// A last value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ValueView {
    /// Series.
    pub series: String,
    /// What it is of, such as a device; empty for the host as a whole.
    pub of: String,
    /// Unit.
    pub unit: String,
    /// The value.
    pub value: f64,
    /// When it was measured.
    pub at: Stamp,
}

/// A node's last values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastValues {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The values, by series.
    pub values: Vec<ValueView>,
}

/// What to show over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QuerySeries {
    /// Name of the series.
    pub series: String,
    /// From when, RFC 3339; an hour ago without it.
    #[param(value_type = Option<String>)]
    pub from: Option<Stamp>,
    /// Until when; now without it.
    #[param(value_type = Option<String>)]
    pub to: Option<Stamp>,
    /// Distance of two points in milliseconds; 60 points without it.
    pub step_ms: Option<u64>,
}

/// A series over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesAnswer {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Series.
    pub series: String,
    /// Unit of the values; counters are given as a rate per second.
    pub unit: String,
    /// Distance of two points in milliseconds.
    pub step_ms: u64,
    /// One line for each thing measured, such as a device.
    pub lines: Vec<SeriesLine>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SeriesLine {
    /// What it is of; empty for the host as a whole.
    pub of: String,
    /// The points. Where nothing was measured, the value is null: a gap.
    pub points: Vec<PointView>,
}

/// One point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PointView {
    /// Begin of the step.
    pub at: Stamp,
    /// Mean over the step; none where there is a gap.
    pub value: Option<f64>,
}

/// Whose values are highest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TopSeries {
    /// Name of the series.
    pub series: String,
    /// Most rows, at most 1000; 10 without it.
    pub limit: Option<u32>,
}

/// The nodes with the highest last values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopAnswer {
    /// Series.
    pub series: String,
    /// Unit.
    pub unit: String,
    /// The rows, highest first.
    pub rows: Vec<TopRow>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopRow {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What the value is of; empty for the host as a whole.
    pub of: String,
    /// The value.
    pub value: f64,
    /// When it was measured.
    pub at: Stamp,
}
