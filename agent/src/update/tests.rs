//! Archives made to do harm, files over power cuts, and versions that misbehave.

mod archive;
mod files;
