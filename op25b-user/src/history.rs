//! Hourly accounts of sources in a database, so that "who, when" has an answer weeks later.

mod audit;
mod book;
mod failure;
mod gaps;
mod known;
mod moment;
mod read;
mod reading;
mod recorder;
mod schema;
mod stored;
mod sums;

pub use audit::{note_read, note_request, outlives};
pub use book::Book;
pub use failure::{Failure, Kind};
pub use gaps::Gap;
pub use known::Known;
pub use moment::{Moment, Span, zone};
pub use read::{Hourly, Pair, Reader, Submissions, Sum, Trend, anonymous, trend};
pub use reading::{Key, Reading, Row, Visit, lay_over, rows};
pub use recorder::Recorder;

/// Seconds of an hour.
const HOUR: i64 = 3600;
/// Seconds of a day of UTC.
const DAY: i64 = 24 * HOUR;
