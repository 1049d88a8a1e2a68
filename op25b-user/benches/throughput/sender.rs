//! What is sent into a port, and what becomes of it.

use std::time::Duration;

use anyhow::Result;

use crate::{
    SOURCES,
    live::{Live, Mix, Way, link},
    site::{OUTSIDE, Site},
};

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// SYNs to port 25, all of them blocked.
    Blocked,
    /// One in a hundred is for port 25.
    Hundredth,
    /// None is: what an edge router lives on.
    None,
}

impl Load {
    /// What readers call it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Blocked => "All blocked",
            Self::Hundredth => "1 % blocked, the rest forwarded",
            Self::None => "Nothing blocked, all forwarded",
        }
    }

    /// Frames to port 25, of a hundred.
    pub(crate) const fn mail(self) -> u32 {
        match self {
            Self::Blocked => 100,
            Self::Hundredth => 1,
            Self::None => 0,
        }
    }
}

impl Way {
    /// What readers call it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Wire => "over veth",
            Self::Stack => "put into the stack",
        }
    }
}

/// Sends from one CPU into one port.
pub(crate) struct Sender<'a> {
    site: &'a Site,
    port: usize,
    way: Way,
    live: Live<'a>,
}

/// What became of frames.
pub(crate) struct Sent {
    pub(crate) took: Duration,
    /// Came in at the router's port.
    pub(crate) processed: u64,
    /// Came out behind it.
    pub(crate) passed: u64,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(site: &'a Site, port: usize, load: Load, way: Way) -> Result<Self> {
        let (there, here) = (Site::port(port), format!("tx{port}"));
        let router = link(&site.router, &there)?.address;
        let from = match way {
            Way::Wire => (&site.customer, here.as_str()),
            Way::Stack => (&site.router, there.as_str()),
        };
        let mix = Mix { sources: SOURCES, mail: load.mail() };
        Ok(Self { site, port, way, live: Live::new(from, (&router, OUTSIDE), way, &mix)? })
    }

    /// Sends so many frames.
    pub(crate) fn send(&self, count: u32) -> Result<Sent> {
        let received = || -> Result<[u64; 2]> {
            let port = link(&self.site.router, &Site::port(self.port))?.received;
            Ok([port, link(&self.site.world, "wan0")?.received])
        };
        let before = received()?;
        let took = self.live.send(count, self.port)?;
        let after = received()?;
        // Those that are put into the stack have not been received by the port.
        let processed = if self.way == Way::Wire { after[0] - before[0] } else { count.into() };
        Ok(Sent { took, processed, passed: after[1] - before[1] })
    }
}
