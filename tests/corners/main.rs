//! Corners: where two things meet that each alone is harmless.

mod aids;
mod deadlines;
mod ends;
mod limits;
mod probe;
mod turns;
#[path = "../util/mod.rs"]
mod util;
