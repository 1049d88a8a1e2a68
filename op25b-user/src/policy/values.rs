//! Single values: prefixes, names, dates.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;
use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};

use crate::document::excerpt;

/// Why a text is no prefix.
pub(super) enum NoPrefix<'t> {
    /// Something else.
    Text(&'t str),
    /// Address bits beyond the length.
    HostBits(&'t str, IpNetwork),
}

impl fmt::Display for NoPrefix<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => {
                let text = excerpt(text);
                write!(formatter, "{text:?} is no prefix; write one like 203.0.113.0/24 or 2001:db8::/32")
            }
            Self::HostBits(text, around) => write!(
                formatter,
                "{text} has bits beyond its length; {}/{} is the prefix it lies in",
                around.network(),
                around.prefix()
            ),
        }
    }
}

/// A prefix, or an address, which is one of full length.
pub(super) fn prefix(text: &str) -> Result<IpNetwork, NoPrefix<'_>> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| NoPrefix::Text(text))?;
    let length = match length {
        None => Some(if address.is_ipv4() { 32 } else { 128 }),
        // `+8` is a number, and not a length.
        Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => length.parse().ok(),
        Some(_) => None,
    };
    let prefix =
        length.and_then(|length| IpNetwork::new(address, length).ok()).ok_or(NoPrefix::Text(text))?;
    if prefix.ip() == prefix.network() { Ok(prefix) } else { Err(NoPrefix::HostBits(text, prefix)) }
}

/// A hostname as RFC 1123 has it, without the dot at its end.
pub(super) fn hostname(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let shown = excerpt(text);
    if name.parse::<IpAddr>().is_ok() {
        Err(format!("hostname {shown:?} is an address; write it under `addresses`"))
    } else if name.len() > 253 || !name.split('.').all(label) {
        Err(format!(
            "hostname {shown:?} is none; write one like post.ktarn.or.jp: labels of letters, digits and hyphens, 253 \
             bytes at most"
        ))
    } else {
        Ok(name.to_ascii_lowercase())
    }
}

/// A time zone by its IANA name.
pub(super) fn timezone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name)
        .map_err(|_| format!("timezone {:?} is not known; write an IANA name like Asia/Tokyo", excerpt(name)))
}

/// A moment with its offset.
pub(super) fn moment(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        let written =
            text.parse::<DateTime>().ok().and_then(|local| local.to_zoned_datetime(zone.clone()).ok());
        let example = written.map_or_else(
            || "2008-04-01T00:00:00+09:00".to_owned(),
            |moment| moment.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        );
        format!("{:?} is no moment with its offset; write one like {example}", excerpt(text))
    })
}

/// When something ends that ends with a day, or at a moment with its offset.
pub(crate) fn end(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    let Some(day) = day(text) else {
        return moment(text, zone).map_err(|error| format!("{error}, or the last day like 2027-03-31"));
    };
    // Where clocks skip midnight, the next day begins later.
    day.tomorrow()
        .and_then(|next| next.to_zoned_datetime(zone.clone()))
        .map(|midnight| midnight.timestamp())
        .map_err(|_| format!("{text} is too far away; write a year up to 9999, or leave it out"))
}

/// When something begins that begins with a day, or at a moment with its offset.
pub(crate) fn start(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    let Some(day) = day(text) else {
        return moment(text, zone).map_err(|error| format!("{error}, or a day like 2027-03-31"));
    };
    day.to_zoned_datetime(zone.clone())
        .map(|midnight| midnight.timestamp())
        .map_err(|_| format!("{text} is too far away; write a year up to 9999, or leave it out"))
}

/// A date and nothing else, which jiff would leave out.
fn day(text: &str) -> Option<Date> {
    let written = text.len() == 10 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    written.then(|| text.parse().ok()).flatten()
}
