//! What the kernel tells of single frames: read by the daemon, handed to commands and to a collector.

mod clients;
mod decode;
mod listener;
mod syslog;

pub use clients::{Asked, Line, connect};
pub use decode::Event;
pub use listener::Listener;
