//! What a node measures, and the bytes that carry it.
//!
//! Owns the catalogue of series, the sample set that is one moment's
//! measurement, the tiers, and the codec of frames (a block of samples).
//!
//! **Invariant:** pure. No clock, no IO; every byte that comes from outside is
//! decoded under the bounds in [`limit`], and anything beyond them is an error,
//! never an allocation.
//!
//! Values are integers everywhere on the wire; [`catalogue::Series::scale`]
//! turns one into the series' unit.

pub mod catalogue;
pub mod frame;
pub mod limit;
mod sample;
mod tier;

pub use sample::{Label, Sample, SampleSet};
pub use tier::Tier;
