//! The grammar, and what conditions make of samples.

mod grammar;
mod watching;
