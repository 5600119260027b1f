//! A report as a chart, and as one page that needs nothing beside itself.

use plotters::prelude::*;

use super::plan::MB;
use super::report::{Report, Setting};

const FONT: &str = "sans-serif";
const BAR: RGBColor = RGBColor(46, 134, 171);
const BEST: RGBColor = RGBColor(241, 143, 1);
const DARK: RGBColor = RGBColor(60, 60, 60);
const WIDTH: u32 = 1200;
const ROW: u32 = 34;
const SERIES: u32 = 360;
/// Room above the highest, in its own heights.
const HEADROOM: f64 = 1.1;

/// One bar a setting from nothing to its median, a line from its slowest to its fastest run; below, the best setting second
/// by second.
///
/// # Errors
///
/// Says why it cannot be drawn.
pub fn chart(report: &Report) -> Result<String, String> {
    let settings: Vec<&Setting> = report.settings.iter().filter(|setting| !setting.runs.is_empty()).collect();
    let bars = ROW * u32::try_from(settings.len()).unwrap_or(1) + 110;
    let mut text = String::new();
    {
        let whole = SVGBackend::with_string(&mut text, (WIDTH, bars + SERIES)).into_drawing_area();
        whole.fill(&WHITE).map_err(told)?;
        let (upper, lower) = whole.split_vertically(bars);
        draw_bars(&upper, report, &settings).map_err(told)?;
        draw_series(&lower, report).map_err(told)?;
        whole.present().map_err(told)?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw_bars<'a>(area: &Area<'a>, report: &Report, settings: &[&Setting]) -> Drawn<'a> {
    let rates = settings.iter().flat_map(|setting| setting.runs.iter().map(|run| run.mb_per_second));
    let most = rates.fold(1.0, f64::max) * HEADROOM;
    let count = settings.len().max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("Uploads to {}, MB/s", report.endpoint), (FONT, 22))
        .margin(12)
        .x_label_area_size(30)
        .build_cartesian_2d(0.0..most, 0.0..count)?;
    chart.configure_mesh().disable_y_axis().disable_y_mesh().x_label_style((FONT, 14)).draw()?;
    let best = report.best().map(|best| (&best.name, &best.place));
    for (row, setting) in settings.iter().enumerate() {
        let low = count - row as f64 - 0.85;
        let median = setting.median_mb_per_second.unwrap_or(0.0);
        let color = if best == Some((&setting.name, &setting.place)) { BEST } else { BAR };
        chart.draw_series([Rectangle::new([(0.0, low), (median, low + 0.7)], color.mix(0.8).filled())])?;
        let rates = || setting.runs.iter().map(|run| run.mb_per_second);
        let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
        chart.draw_series([PathElement::new([(least, low + 0.35), (most, low + 0.35)], DARK.stroke_width(2))])?;
        let label = format!("{} {}: {median:.1}", setting.place, setting.name);
        chart.draw_series([Text::new(label.trim().to_owned(), (0.0, low + 0.5), (FONT, 15).into_font())])?;
    }
    Ok(())
}

fn draw_series<'a>(area: &Area<'a>, report: &Report) -> Drawn<'a> {
    let Some((setting, run)) = report.best().and_then(|best| Some((best, best.typical()?))) else { return Ok(()) };
    let rates: Vec<f64> = run.series.iter().map(|bytes| *bytes as f64 / MB as f64).collect();
    let most = rates.iter().copied().fold(1.0, f64::max) * HEADROOM;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("Second by second, MB: {}", setting.name), (FONT, 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..rates.len().max(1) as f64, 0.0..most)?;
    chart.configure_mesh().label_style((FONT, 14)).draw()?;
    let bars = rates.iter().enumerate().map(|(second, rate)| {
        Rectangle::new([(second as f64 + 0.05, 0.0), (second as f64 + 0.95, *rate)], BEST.mix(0.8).filled())
    });
    chart.draw_series(bars)?;
    Ok(())
}

fn told(error: impl std::fmt::Display) -> String {
    format!("the chart cannot be drawn: {error}")
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}th,td{padding:.25rem .7rem;border-bottom:1px \
solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}svg{max-width:100%;height:auto}";

/// HTML without script, font or picture of elsewhere.
///
/// # Errors
///
/// Those of [`chart`].
pub fn page(report: &Report, columns: &[&str], rows: &[Vec<String>], notes: &[String]) -> Result<String, String> {
    let title = format!("Object storage, {}", escaped(&report.endpoint));
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\
         <body>\n<h1>{title}</h1>\n<p>Begun {}.</p>\n{}\n<table><tr>",
        escaped(&report.started),
        chart(report)?
    );
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
    };
    text.push_str(&cells("th", &mut columns.iter().copied()));
    text.push_str("</tr>\n");
    for row in rows {
        text.push_str(&format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str))));
    }
    text.push_str("</table>\n<ul>\n");
    text.extend(notes.iter().map(|note| format!("<li>{}</li>\n", escaped(note))));
    text.push_str("</ul>\n</body></html>\n");
    Ok(text)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Outcome, Shape};

    #[test]
    fn a_page_holds_its_chart_and_no_markup_of_others() {
        let run = Outcome { mb_per_second: 90.0, series: vec![90_000_000, 80_000_000], ..Outcome::default() };
        let settings = vec![
            Setting::new("<fra>", Shape::PARTS, vec![run.clone(), run], vec![]),
            Setting::new("", Shape::SINGLE, vec![], vec!["down".to_owned()]),
        ];
        let report = Report::new("now".to_owned(), "https://a<b".to_owned(), "auto".to_owned(), settings);
        let page = page(&report, &["setting"], &[vec!["<b>".to_owned()]], &["a & b".to_owned()]).unwrap();
        assert!(page.contains("</svg>") && page.contains("&lt;b&gt;") && page.contains("a &amp; b"));
        assert!(!page.contains("<fra>") && !page.contains("<b>"));
        assert!(chart(&Report::default()).unwrap().contains("</svg>"));
    }
}
