//! The userspace half of op25b: policy, tables, loading and swapping, counters, and what people see of them. Knows
//! nothing of packet offsets.

pub mod attach;
pub mod bulk;
pub mod capture;
pub mod cli;
pub mod commands;
pub mod counters;
pub mod document;
pub mod explain;
pub mod instance;
pub mod interface;
pub mod manifest;
pub mod object;
pub mod policy;
pub mod preflight;
pub mod sample;
pub mod situation;
pub mod tables;
