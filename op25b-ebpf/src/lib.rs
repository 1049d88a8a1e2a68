//! The pure core of op25b: frame → flow, flow and policy → verdict, verdict and segment → reply. Knows nothing of aya, maps, files or time.
//!
//! It is built twice, for BPF and for the host, so that a test can hold one against the other. The kernel shell in
//! `main.rs` and the host's tests meet it at two seams: [`packet::Packet`], which reads bytes, and
//! [`policy::Policy`], which looks addresses up.

#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod address;
pub mod cookie;
pub mod found;
pub mod frame;
pub mod layers;
pub mod packet;
pub mod policy;
pub mod reply;
pub mod segment;
pub mod source;
pub mod table;
pub mod verdict;
