//! Charts as SVG: medians with their spread, and how the latencies of each site are distributed.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::log::{LogError, histogram};
use super::published::{Marks, title};
use crate::db::Operation;
use crate::fleet::{Measured, Row, Run};

/// Pixels; SVG can be shown at any size.
const SIZE: (u32, u32) = (1200, 1040);
const BARS_HEIGHT: i32 = 500;
const FONT: &str = "sans-serif";
const READ: RGBColor = RGBColor(46, 134, 171);
const INSERT: RGBColor = RGBColor(241, 143, 1);
const WHISKER: RGBColor = RGBColor(60, 60, 60);
/// One for each site, and from the start again.
const LINES: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(110, 110, 110),
    RGBColor(170, 170, 20),
    RGBColor(23, 170, 190),
];
/// Room above the tallest bar, in its own heights.
const HEADROOM: f64 = 1.15;
/// Steps of a distribution that are drawn at most.
const STEPS: u32 = 200;

/// Why there is no chart.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// The drawing failed.
    #[error("the chart cannot be drawn: {0}")]
    Drawing(String),
    /// The latencies have no histogram.
    #[error(transparent)]
    Log(#[from] LogError),
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Both charts, one above the other, as one SVG document.
///
/// # Errors
/// [`ChartError`].
pub fn chart(run: &Run) -> Result<String, ChartError> {
    let mut text = String::new();
    {
        let whole = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        whole.fill(&WHITE).map_err(drawing)?;
        let (upper, lower) = whole.split_vertically(BARS_HEIGHT);
        bars(&upper, run)?;
        distributions(&lower, run)?;
        whole.present().map_err(drawing)?;
    }
    Ok(text)
}

/// Medians, with a line from the smallest to the largest value.
fn bars(area: &Area<'_>, run: &Run) -> Result<(), ChartError> {
    let measured: Vec<(&Row, &Measured)> = run.rows.iter().filter_map(|row| Some((row, row.measured()?))).collect();
    let summaries = measured.iter().map(|(_, measured)| {
        [Operation::Read, Operation::Insert].map(|operation| measured.sample(operation).summary())
    });
    let summaries: Vec<_> = summaries.collect();
    let highest = summaries.iter().flatten().map(|summary| summary.max).fold(1.0, f64::max) * HEADROOM;
    let count = measured.len().max(1);
    let mut chart = ChartBuilder::on(area)
        .caption(title(run, Marks::Unicode).replace("===", "").trim(), (FONT, 22))
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..float(count), 0.0..highest)
        .map_err(drawing)?;
    let name = |x: &f64| {
        let at = measured.iter().zip(0_u32..).find(|(_, at)| (f64::from(*at) + 0.5 - x).abs() < 0.01);
        at.map(|((row, _), _)| row.site.name.clone()).unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(count * 2 + 1)
        .x_label_formatter(&name)
        .y_label_formatter(&|ms| format!("{ms:.0}"))
        .y_desc("ms, median; line: smallest to largest")
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 14))
        .draw()
        .map_err(drawing)?;
    for (index, colour, label) in [(0_usize, READ, "read"), (1, INSERT, "insert")] {
        let rectangles = summaries.iter().zip(0_u32..).map(|(pair, at)| {
            let left = f64::from(at) + 0.14 + 0.37 * float(index);
            Rectangle::new([(left, 0.0), (left + 0.35, pair[index].middle().unwrap_or(0.0))], colour.filled())
        });
        chart
            .draw_series(rectangles)
            .map_err(drawing)?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 6), (x + 14, y + 6)], colour.filled()));
        let whiskers = summaries.iter().zip(0_u32..).filter(|(pair, _)| pair[index].count > 0).map(|(pair, at)| {
            let middle = f64::from(at) + 0.14 + 0.37 * float(index) + 0.175;
            PathElement::new(vec![(middle, pair[index].min), (middle, pair[index].max)], WHISKER.stroke_width(1))
        });
        chart.draw_series(whiskers).map_err(drawing)?;
        let style = TextStyle::from((FONT, 12)).color(&WHISKER).pos(Pos::new(HPos::Center, VPos::Bottom));
        let values = summaries.iter().zip(0_u32..).filter_map(|(pair, at)| {
            let middle = f64::from(at) + 0.14 + 0.37 * float(index) + 0.175;
            let text = format!("{:.0}", pair[index].middle()?);
            Some(Text::new(text, (middle, pair[index].max + highest * 0.008), style.clone()))
        });
        chart.draw_series(values).map_err(drawing)?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

/// Which part of a site's inserts took no longer than so many ms.
fn distributions(area: &Area<'_>, run: &Run) -> Result<(), ChartError> {
    let mut lines = Vec::new();
    for row in &run.rows {
        let Some(sample) = row.measured().map(|measured| measured.sample(Operation::Insert)) else { continue };
        if sample.count() > 0 {
            let histogram = histogram(&sample)?;
            let at = |step: u32| {
                let part = f64::from(step) / f64::from(STEPS);
                (milliseconds(histogram.value_at_quantile(part)), part)
            };
            lines.push((row.site.name.clone(), (0..=STEPS).map(at).collect::<Vec<_>>()));
        }
    }
    let farthest = lines.iter().flat_map(|(_, line)| line).map(|(x, _)| *x).fold(1.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption("Inserts: which part took no longer than", (FONT, 20))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..farthest, 0.0..1.0_f64)
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .x_desc("ms")
        .y_label_formatter(&|part| format!("{:.0} %", part * 100.0))
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 14))
        .draw()
        .map_err(drawing)?;
    for ((name, line), colour) in lines.into_iter().zip(LINES.into_iter().cycle()) {
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))
            .map_err(drawing)?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight)
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, position: SeriesLabelPosition) -> Result<(), ChartError> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(WHISKER.mix(0.3))
        .label_font((FONT, 14))
        .draw()
        .map_err(drawing)
}

fn drawing(error: impl std::fmt::Display) -> ChartError {
    ChartError::Drawing(error.to_string())
}

#[allow(clippy::cast_precision_loss, reason = "the number of sites is exact in an f64")]
fn float(count: usize) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss, reason = "three digits are kept anyway")]
fn milliseconds(nanos: u64) -> f64 {
    nanos as f64 / 1_000_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::published::tests::example;

    #[test]
    fn every_site_with_figures_is_drawn() {
        let mut run = example();
        run.rows[0].site.name = "a<b>&\"c\"".to_owned();
        let text = chart(&run).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{}", &text[..200]);
        assert!(!text.contains("a<b>"), "what comes from a file is not markup");
        for name in ["lhr", "cdg", "nrt"] {
            assert!(text.contains(&format!("\n{name}\n")), "{name} has no label in\n{text}");
        }
        assert!(!text.contains("\nsyd\n") && !text.contains("NaN"));
    }

    #[test]
    fn nothing_can_be_drawn_as_well() {
        let mut run = example();
        run.rows.retain(|row| row.measured().is_none());
        chart(&run).unwrap();
        run.rows.clear();
        chart(&run).unwrap();
    }
}
