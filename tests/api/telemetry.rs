//! What the binary exports over OTLP, as a real collector gets it, and what it logs.

pub mod collector;
mod exports;
mod lines;
pub mod metrics;
mod over_http;
mod run;
mod variables;
