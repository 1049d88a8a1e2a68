//! What the kernel says of a network interface, over netlink.

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

use crate::commands::No;

/// An interface that exists.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Largest packet, in bytes without the link header.
    pub mtu: u32,
    /// The XDP program on it, by the kernel's number.
    pub xdp: Option<u32>,
}

/// Asks for an interface by name; `None` where there is none.
///
/// # Errors
///
/// When netlink does not answer.
pub async fn find(name: &str) -> Result<Option<Interface>> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    let connection = tokio::spawn(connection);
    let answer = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    connection.abort();
    let message = match answer {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(None),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -nix::libc::ENODEV => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot ask for interface {name}")),
    };
    let mut interface = Interface { index: message.header.index, ..Interface::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
            LinkAttribute::Xdp(attributes) => interface.xdp = xdp_program(&attributes),
            _ => {}
        }
    }
    Ok(Some(interface))
}

/// Asks for an interface that must be there.
///
/// # Errors
///
/// When it is not.
pub async fn require(name: &str) -> Result<Interface> {
    find(name).await?.ok_or_else(|| {
        No::Input(format!("interface {name} does not exist; `ip link` lists those that do")).into()
    })
}

fn xdp_program(attributes: &[LinkXdp]) -> Option<u32> {
    let attached =
        attributes.iter().any(|one| matches!(one, LinkXdp::Attached(how) if *how != XdpAttached::None));
    let program = attributes.iter().find_map(|one| match one {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    if attached { program } else { None }
}
