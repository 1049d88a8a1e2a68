//! A chart of bars, as SVG.

use anyhow::{Result, anyhow};
use plotters::{
    prelude::{IntoDrawingArea as _, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE},
    style::{Color as _, FontDesc, FontFamily, FontStyle},
};

use super::report::{Part, number};

/// In pixels.
const WIDTH: i32 = 860;
const LINE: i32 = 24;
const TOP: i32 = 40;
/// Where bars start, and how long the longest is.
const BARS: i32 = 330;
const LONGEST: i32 = 440;

const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const OTHERS: RGBColor = RGBColor(0xa9, 0xb4, 0xc0);
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);

/// Draws a part: a bar for each row, its quarters as a line over its end.
pub(super) fn draw(part: &Part) -> Result<String> {
    let height = TOP + LINE * part.rows.len() as i32 + 10;
    let longest =
        part.rows.iter().map(|row| row.figure.high.max(row.figure.median)).fold(f64::MIN_POSITIVE, f64::max);
    let x = |figure: f64| BARS + (figure.max(0.0) / longest * f64::from(LONGEST)) as i32;
    // Where all bars are of op25b, none stands out.
    let compared = part.rows.iter().any(|row| row.name.starts_with("op25b"));
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH as u32, height as u32)).into_drawing_area();
        let drawn =
            |result: std::result::Result<(), _>| result.map_err(|error| anyhow!("cannot draw: {error:?}"));
        let font = |size: f64, style| FontDesc::new(FontFamily::SansSerif, size, style);
        drawn(area.fill(&WHITE))?;
        let title = format!("{}, {}", part.title, part.unit);
        drawn(area.draw(&Text::new(title, (12, 10), font(16.0, FontStyle::Bold).color(&INK))))?;
        for (number_of, row) in part.rows.iter().enumerate() {
            let y = TOP + LINE * number_of as i32;
            let ours = !compared || row.name.starts_with("op25b");
            let colour = if ours { OURS } else { OTHERS };
            let label = font(13.0, FontStyle::Normal).color(&INK);
            drawn(area.draw(&Text::new(row.name.clone(), (12, y + 3), label.clone())))?;
            let end = x(row.figure.median);
            drawn(area.draw(&Rectangle::new([(BARS, y), (end, y + LINE - 6)], colour.filled())))?;
            let (low, high) = (x(row.figure.low), x(row.figure.high));
            let middle = y + (LINE - 6) / 2;
            drawn(area.draw(&PathElement::new(vec![(low, middle), (high, middle)], INK.stroke_width(1))))?;
            let figure = number(row.figure.median);
            drawn(area.draw(&Text::new(figure, (end.max(high) + 6, y + 3), label)))?;
        }
        drawn(area.present())?;
    }
    Ok(text + "\n")
}
