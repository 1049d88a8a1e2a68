//! The userspace half of op25b: policy, tables, loading and swapping, counters, and what people see of them. Knows
//! nothing of packet offsets.

pub mod archive;
pub mod attach;
pub mod bulk;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod control;
pub mod counters;
pub mod daemon;
pub mod diff;
pub mod document;
pub mod durable;
pub mod edit;
pub mod events;
pub mod explain;
pub mod generation;
pub mod history;
pub mod instance;
pub mod interface;
pub mod links;
pub mod manifest;
pub mod object;
pub mod outputs;
pub mod policy;
pub mod preflight;
pub mod relays;
pub mod sample;
pub mod situation;
pub mod sources;
pub mod state;
pub mod status;
pub mod tables;
pub mod web;
