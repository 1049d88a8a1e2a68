//! The last day as a drawing: attempts an hour, what was blocked and what would have been.

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::view::TREND_HOURS;
use crate::history::Trend;

/// Attempts of one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) hour: Timestamp,
    pub(super) blocked: u64,
    pub(super) would: u64,
}

impl Bar {
    pub(super) const fn sum(&self) -> u64 {
        self.blocked + self.would
    }
}

/// The hours until now, those without anything too. Sources in no group that pass are in neither.
pub(super) fn bars(trend: &[Trend], now: Timestamp) -> Vec<Bar> {
    let this_hour = now.as_second().div_euclid(3600);
    (this_hour - TREND_HOURS + 1..=this_hour)
        .map(|hour| {
            let hour = Timestamp::from_second(hour * 3600).unwrap_or_default();
            let end = hour + SignedDuration::from_hours(1);
            let mut bar = Bar { hour, ..Bar::default() };
            for entry in trend.iter().filter(|entry| (hour..end).contains(&entry.hour)) {
                match entry.reason.as_str() {
                    "blocked" | "quarantined" | "malformed" | "return-path" => bar.blocked += entry.attempts,
                    // Answers to attempts that are counted.
                    "would-return-path" => {}
                    reason if reason.starts_with("would-") => bar.would += entry.attempts,
                    _ => {}
                }
            }
            bar
        })
        .collect()
}

const HEIGHT: u64 = 120;
const STEP: u64 = 26;
const WIDTH: u64 = 20;

/// The drawing; colours come from the style sheet.
pub(super) fn draw(
    bars: &[Bar],
    label: &str,
    hour: impl Fn(Timestamp) -> String,
    tell: impl Fn(&Bar) -> String,
) -> Markup {
    let most = bars.iter().map(Bar::sum).max().unwrap_or(0).max(1);
    // What there is shows, however little.
    let scaled = |value: u64| match value {
        0 => 0,
        value => (u128::from(value) * u128::from(HEIGHT) / u128::from(most)).max(1) as u64,
    };
    let width = STEP * bars.len() as u64;
    html! {
        svg.trend viewBox={ "0 0 " (width) " " (HEIGHT + 18) } role="img" aria-label=(label) {
            line.axis x1="0" y1=(HEIGHT) x2=(width) y2=(HEIGHT) {}
            @for (place, bar) in bars.iter().enumerate() {
                @let x = place as u64 * STEP + (STEP - WIDTH) / 2;
                @let (blocked, would) = (scaled(bar.blocked), scaled(bar.would));
                g {
                    title { (tell(bar)) }
                    rect.hit x=(place as u64 * STEP) y="0" width=(STEP) height=(HEIGHT) {}
                    rect.blocked x=(x) y=(HEIGHT.saturating_sub(blocked)) width=(WIDTH) height=(blocked) {}
                    rect.would x=(x) y=(HEIGHT.saturating_sub(blocked + would)) width=(WIDTH) height=(would) {}
                }
                @if place % 4 == 3 {
                    text x=(x + WIDTH / 2) y=(HEIGHT + 14) text-anchor="middle" { (hour(bar.hour)) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_summed_by_what_happened() {
        let now = Timestamp::from_second(100 * 3600 + 1234).unwrap_or_default();
        let entry = |hour: i64, reason: &str, attempts| Trend {
            hour: Timestamp::from_second(hour * 3600).unwrap_or_default(),
            customer: None,
            reason: reason.to_owned(),
            packets: 1000,
            attempts,
            sources: 1,
        };
        let bars = bars(
            &[
                entry(76, "blocked", 9),
                entry(77, "blocked", 1),
                entry(100, "blocked", 2),
                entry(100, "quarantined", 3),
                entry(100, "would-block", 4),
                entry(100, "relay", 5),
                entry(100, "unknown-source", 6),
            ],
            now,
        );
        assert_eq!(bars.len(), 24);
        assert_eq!(bars.first().map(|bar| (bar.blocked, bar.would)), Some((1, 0)));
        assert_eq!(bars.last().map(|bar| (bar.blocked, bar.would)), Some((5, 4)));
    }

    #[test]
    fn any_number_can_be_drawn() {
        let bars = [Bar { hour: Timestamp::UNIX_EPOCH, blocked: u64::MAX / 2, would: 1 }; 4];
        let drawn = draw(&bars, "<&\">", |_| "<hour>".to_owned(), |_| "<title>".to_owned()).into_string();
        assert!(drawn.contains("&lt;hour&gt;") && drawn.contains("&lt;title&gt;"), "{drawn}");
        assert!(drawn.contains("aria-label=\"&lt;&amp;&quot;&gt;\""), "{drawn}");
    }
}
