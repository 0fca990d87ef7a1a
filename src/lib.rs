#![doc = include_str!("../README.md")]

pub mod domain;
pub mod grpc;
pub mod pb;
pub mod store;
pub mod system;
