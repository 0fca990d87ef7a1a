#![doc = include_str!("../README.md")]

pub mod cli;
pub mod config;
pub mod dev;
pub mod domain;
pub mod grpc;
pub mod pb;
pub mod server;
pub mod store;
pub mod system;
pub mod telemetry;
