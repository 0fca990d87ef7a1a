//! A demonstration: everything on one machine with nothing set up.

pub mod demo;
