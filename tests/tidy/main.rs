//! Repository rules as tests: what a reviewer would otherwise have to remember.
//!
//! Reads the checkout as text and nothing else, so it says the same on every
//! machine. Each test fails with the places that break its rule, one a line.

mod architecture;
mod layout;
mod source;
mod text;
