//! Hours in which nobody read the accounts. Each holds the last two hours in which its source sent; what it did before
//! them is in the groups' counters, and in no hour.

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};
use rusqlite::{Connection, params};

use super::{
    HOUR,
    moment::{Moment, Span},
    read::{Reader, unreadable},
    schema::unsigned,
};

/// Hours of which not all has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When the hour began in which the accounts were read last.
    pub from: Timestamp,
    /// From when on all is there again.
    pub to: Timestamp,
    /// Frames of all groups that are in no hour, but for what was counted while it was read; none where nobody knows,
    /// since counters have begun anew in between.
    pub packets: Option<u64>,
}

impl Gap {
    /// What is missing, as a sentence.
    #[must_use]
    pub fn sentence(&self, zone: &TimeZone) -> String {
        let [from, to] = [self.from, self.to].map(|at| Moment::new(at, zone));
        let what = match self.packets {
            Some(packets) => format!("about {packets} frames, which the groups' totals have, are in no hour"),
            None => "what is missing is not known, since counters have begun anew".to_owned(),
        };
        format!("the accounts were not read from within the hour of {from} until {to}: {what}")
    }
}

impl Reader {
    /// Hours that touch a span and of which not all has been written, since the daemon was not there.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn gaps(&self, span: Span) -> Result<Vec<Gap>> {
        // All of it is of one moment.
        let transaction = self.connection.unchecked_transaction()?;
        let gaps = all_gaps(&transaction).map_err(|error| unreadable(&error))?;
        Ok(gaps.into_iter().filter(|gap| gap.from < span.to && gap.to > span.from).collect())
    }
}

fn all_gaps(connection: &Connection) -> rusqlite::Result<Vec<Gap>> {
    // Counters that are read for the first time stand for the hour before as well, of which nobody has read anything.
    let mut statement = connection.prepare(
        "SELECT DISTINCT hour FROM readings
         JOIN (SELECT seed, min(hour) AS begun FROM readings GROUP BY seed) USING (seed)
         WHERE hour > begun ORDER BY hour",
    )?;
    let read = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut gaps = Vec::new();
    // Where one follows another, the hour between them has no beginning to count from.
    for hours in read.chunk_by(|one, next| next - one >= 2 * HOUR) {
        let (mut before, mut known) = (hours.first().map_or(0, |first| first - HOUR), 0);
        for (from, to) in hours.iter().zip(hours.iter().skip(1)) {
            let unplaced = unplaced(connection, before, *to)?;
            let packets = unplaced.map(|packets| packets.saturating_sub(known));
            (before, known) = unplaced.map_or((to - HOUR, 0), |packets| (before, packets.max(known)));
            if packets != Some(0) {
                let moment = |second| Timestamp::from_second(second).unwrap_or_default();
                gaps.push(Gap { from: moment(*from), to: moment(to - HOUR), packets });
            }
        }
    }
    Ok(gaps)
}

/// Frames that were counted between the end of one hour and that of another, or what is known of it, and that no row is
/// of.
fn unplaced(connection: &Connection, before: i64, last: i64) -> rusqlite::Result<Option<u64>> {
    let mut statement = connection.prepare(
        "SELECT coalesce((SELECT sum(packets) FROM totals WHERE totals.seed = ends.seed AND hour = ?2), 0)
             - coalesce((SELECT sum(packets) FROM totals WHERE totals.seed = ends.seed AND hour = ?1), 0),
             EXISTS (SELECT 1 FROM readings AS begins WHERE begins.seed = ends.seed AND hour = ?1)
         FROM readings AS ends WHERE hour = ?2",
    )?;
    let mut counted = 0_i64;
    let mut rows = statement.query(params![before, last])?;
    while let Some(row) = rows.next()? {
        if !row.get::<_, bool>(1)? {
            return Ok(None);
        }
        counted = counted.saturating_add(row.get(0)?);
    }
    let written: i64 = connection.query_row(
        "SELECT coalesce(sum(packets), 0) FROM trends WHERE hour > ?1 AND hour <= ?2",
        params![before, last],
        |row| row.get(0),
    )?;
    Ok(Some(unsigned(counted.saturating_sub(written))))
}
