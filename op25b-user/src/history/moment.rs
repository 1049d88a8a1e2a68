//! Moments as people of the network read them: local time with its offset, and spans that they type.

use std::fmt;

use anyhow::Result;
use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};
use serde::{Serialize, Serializer};

use crate::{
    commands::No,
    policy::{end, start},
};

/// A moment, written as local time with its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// Seconds east of UTC.
    pub offset: i32,
}

impl Moment {
    /// A moment in a time zone.
    #[must_use]
    pub fn new(at: Timestamp, zone: &TimeZone) -> Self {
        Self { at, offset: zone.to_offset(at).seconds() }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = Offset::from_seconds(self.offset).unwrap_or(Offset::UTC);
        let zoned = self.at.to_zoned_datetime(TimeZone::fixed(offset));
        zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").fmt(formatter)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From a moment on, and before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first moment.
    pub from: Timestamp,
    /// The first moment behind it.
    pub to: Timestamp,
}

impl Span {
    /// All there is.
    pub const ALL: Self = Self { from: Timestamp::MIN, to: Timestamp::MAX };

    /// What somebody typed: days, of which the last is included, or moments with their offset.
    ///
    /// # Errors
    ///
    /// When one is neither.
    pub fn parse(from: Option<&str>, to: Option<&str>, zone: &TimeZone) -> Result<Self> {
        let from = from.map(|text| start(text, zone).map_err(No::Input)).transpose()?;
        let to = to.map(|text| end(text, zone).map_err(No::Input)).transpose()?;
        let span = Self { from: from.unwrap_or(Self::ALL.from), to: to.unwrap_or(Self::ALL.to) };
        if span.to <= span.from {
            return Err(No::Input("the end is before the beginning".to_owned()).into());
        }
        Ok(span)
    }

    /// Around one moment, or a day, an hour before and behind.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn around(text: &str, zone: &TimeZone) -> Result<Self> {
        let span =
            Self { from: start(text, zone).map_err(No::Input)?, to: end(text, zone).map_err(No::Input)? };
        let second = |at: Timestamp, seconds: i64| {
            Timestamp::from_second(at.as_second().saturating_add(seconds)).unwrap_or(at)
        };
        let hour = |at: Timestamp| at.as_second().rem_euclid(super::HOUR);
        Ok(Self {
            from: second(span.from, -super::HOUR - hour(span.from)),
            to: second(span.to, 2 * super::HOUR - hour(span.to)),
        })
    }

    /// Whether something that went on from `first` to `last` touches it.
    #[must_use]
    pub fn touches(&self, first: Timestamp, last: Timestamp) -> bool {
        last >= self.from && first < self.to
    }
}

/// A time zone by its name; UTC where nobody knows it.
#[must_use]
pub fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}
