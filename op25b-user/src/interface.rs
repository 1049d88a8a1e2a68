//! What the kernel says of a network interface, over netlink.

use anyhow::{Context as _, Result};
use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_route::{
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
    tc::{TcAttribute, TcFilterBpfOption, TcOption},
};

use crate::commands::No;

/// An interface that exists.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// As `ip link` shows it.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Largest packet, in bytes without the link header.
    pub mtu: u32,
    /// The XDP program on it, by the kernel's number.
    pub xdp: Option<u32>,
    /// Whether its frames start with an Ethernet header; ppp, tun and wireguard have none.
    pub ethernet: bool,
    /// Whether it is a bond: what its members do is not said of it.
    pub bond: bool,
    /// Packets that arrived since it exists.
    pub received: u64,
    /// Packets that left since it exists.
    pub sent: u64,
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
    match answer {
        Ok(message) => Ok(message.map(read)),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -(Errno::ENODEV as i32) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot ask for interface {name}")),
    }
}

/// All interfaces.
///
/// # Errors
///
/// When netlink does not answer.
pub async fn all() -> Result<Vec<Interface>> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    let connection = tokio::spawn(connection);
    let answer: Result<Vec<_>, _> = handle.link().get().execute().try_collect().await;
    connection.abort();
    Ok(answer.context("cannot list the interfaces")?.into_iter().map(read).collect())
}

fn read(message: LinkMessage) -> Interface {
    let ethernet = matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
    let mut interface = Interface { index: message.header.index, ethernet, ..Interface::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
            LinkAttribute::Stats64(stats) => {
                (interface.received, interface.sent) = (stats.rx_packets, stats.tx_packets);
            }
            LinkAttribute::LinkInfo(infos) => {
                interface.bond = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bond)));
            }
            LinkAttribute::Xdp(attributes) => interface.xdp = xdp_program(&attributes),
            _ => {}
        }
    }
    interface
}

/// Asks for an interface that must be there.
///
/// # Errors
///
/// When it is not.
pub async fn require(name: &str) -> Result<Interface> {
    find(name).await?.ok_or_else(|| missing(name))
}

/// Says that there is none of this name.
#[must_use]
pub fn missing(name: &str) -> anyhow::Error {
    No::Input(format!("interface {name} does not exist; `ip link` lists those that do")).into()
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

/// The BPF programs in the clsact qdisc of an interface, by the kernel's number, in the order in which they run.
///
/// # Errors
///
/// When netlink does not answer.
pub async fn classifiers(index: u32, ingress: bool) -> Result<Vec<u32>> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    let connection = tokio::spawn(connection);
    let mut request = handle.traffic_filter(index.cast_signed());
    let request = if ingress { request.get().ingress() } else { request.get().egress() };
    let filters: Vec<_> = request.execute().try_collect().await.context("cannot ask for classifiers")?;
    connection.abort();
    let options =
        filters.iter().flat_map(|filter| &filter.attributes).filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
    Ok(options
        .flatten()
        .filter_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
            _ => None,
        })
        .collect())
}

/// Whether the NIC takes VLAN tags off arriving frames; `None` where it cannot be asked.
pub async fn strips_vlan(name: &str) -> Option<bool> {
    let (connection, mut handle, _) = ethtool::new_connection().ok()?;
    let connection = tokio::spawn(connection);
    let features: Result<Vec<_>, _> = match handle.feature().get(Some(name)).execute().await {
        Ok(messages) => messages.try_collect().await,
        Err(error) => Err(error),
    };
    connection.abort();
    let features = features.ok()?;
    Some(features.iter().flat_map(|message| &message.payload.nlas).any(|attribute| match attribute {
        EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => {
            bits.iter().any(|bit| STRIPPING.contains(&bit.name.as_str()) && bit.value)
        }
        _ => false,
    }))
}

/// What the kernel calls taking tags off, those of 802.1Q and of 802.1ad.
const STRIPPING: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];
