//! The chart of a run: one panel per case, one bar per peer, as a ratio to a common base.

use std::fmt::Write;

use crate::summary::{CaseSummary, Row, Summary};
use crate::table::figure;

/// The base does the same work as the others: it passes half closes on. The next ones stand in when it was left out.
const BASES: [&str; 4] = ["nginx-half-close", "nginx", "haproxy", "wireguard-go"];

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 28.0;
const LABELS: f64 = 250.0;
/// Two columns to the right of the bars: ratio and figure.
const FIGURES: f64 = 140.0;
const FIGURE: f64 = 72.0;
const BAR: f64 = 16.0;
const ROW: f64 = 25.0;
const PANEL_HEAD: f64 = 58.0;
const PANEL_FOOT: f64 = 22.0;
const HEAD: f64 = 66.0;

const INK: &str = "#1f2933";
const QUIET: &str = "#6b7785";
const OURS: &str = "#0f766e";
const OURS_LOGGED: &str = "#5eaaa3";
const THEIRS: &str = "#b6c0cb";
const THEIRS_LOGGED: &str = "#d5dbe2";

/// `None` when no case has anything to compare.
pub(crate) fn draw(summary: &Summary) -> Option<String> {
    let panels: Vec<Panel> = summary.cases.iter().filter_map(Panel::of).collect();
    if panels.is_empty() {
        return None;
    }
    let height = HEAD + panels.iter().map(Panel::height).sum::<f64>() + 24.0;
    let mut svg = Svg::new(height);
    svg.text(MARGIN, 34.0, "start", 19, INK, "bold", summary.subject.chart);
    let note =
        format!("{}, {}, medians of {} rounds; shorter is better", summary.machine, summary.date, summary.rounds);
    svg.text(MARGIN, 54.0, "start", 12, QUIET, "normal", &note);
    let mut top = HEAD;
    for panel in &panels {
        panel.draw(&mut svg, top);
        top += panel.height();
    }
    Some(svg.finish())
}

struct Panel<'a> {
    case: &'a CaseSummary,
    base: &'a Row,
    bars: Vec<(&'a Row, f64)>,
}

impl<'a> Panel<'a> {
    fn of(case: &'a CaseSummary) -> Option<Self> {
        let has_base = |name: &str| case.rows.iter().any(|row| row.ratios.contains_key(name));
        let name = BASES.into_iter().find(|name| has_base(name))?;
        let base = case.rows.iter().find(|row| row.peer == name)?;
        let bars = case.rows.iter().filter_map(|row| Some((row, *row.ratios.get(name)?))).collect();
        Some(Self { case, base, bars })
    }

    fn height(&self) -> f64 {
        PANEL_HEAD + ROW * self.bars.len() as f64 + PANEL_FOOT
    }

    fn draw(&self, svg: &mut Svg, top: f64) {
        let left = MARGIN + LABELS;
        let longest = self.bars.iter().map(|&(_, ratio)| ratio).fold(1.0, f64::max);
        let scale = (WIDTH - MARGIN - left - FIGURES) / longest;
        let column = self.case.columns.iter().find(|column| column.metric == self.case.primary);
        let heading = column.map_or("", |column| &column.heading);
        svg.line(MARGIN, top, WIDTH - MARGIN, top, "#e4e8ec", "");
        let per_unit = format!("{heading} per {}", self.case.unit);
        let subtitle = if heading.contains('/') { heading.to_owned() } else { per_unit };
        svg.title(MARGIN, top + 26.0, &self.case.title, &subtitle);
        let bars = top + PANEL_HEAD;
        let one = left + scale;
        let bottom = bars + ROW * self.bars.len() as f64 - 4.0;
        svg.line(one, bars - 6.0, one, bottom, QUIET, "3 3");
        svg.text(one, bars - 10.0, "middle", 11, QUIET, "normal", &format!("{} = 1", self.base.label));
        for (place, &(row, ratio)) in self.bars.iter().enumerate() {
            let y = bars + ROW * place as f64;
            let ours = row.peer.starts_with("edgeproxy");
            let colour = match (ours, row.group) {
                (true, crate::peer::Group::Plain) => OURS,
                (true, crate::peer::Group::Logged) => OURS_LOGGED,
                (false, crate::peer::Group::Plain) => THEIRS,
                (false, crate::peer::Group::Logged) => THEIRS_LOGGED,
            };
            let weight = if ours { "bold" } else { "normal" };
            svg.text(left - 12.0, y + 12.5, "end", 13, INK, weight, &row.label);
            svg.bar(left, y, (ratio * scale).max(1.5), colour);
            let decimals = column.map_or(0, |column| column.decimals);
            let value = figure(row.medians.get(&self.case.primary).copied(), decimals);
            let (ratio, right) = (format!("{ratio:.2}×"), WIDTH - MARGIN);
            svg.text(right - FIGURE, y + 12.5, "end", 12, INK, weight, &ratio);
            svg.text(right, y + 12.5, "end", 12, QUIET, weight, &value);
        }
    }
}

struct Svg {
    text: String,
}

impl Svg {
    fn new(height: f64) -> Self {
        let mut svg = Self { text: String::new() };
        svg.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, \
             sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
        ));
        svg
    }

    fn finish(mut self) -> String {
        self.put(format_args!("</svg>"));
        self.text
    }

    fn put(&mut self, line: std::fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    #[allow(clippy::too_many_arguments, reason = "one argument per attribute of the element")]
    fn text(&mut self, x: f64, y: f64, anchor: &str, size: u32, colour: &str, weight: &str, words: &str) {
        let words = escaped(words);
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" font-weight=\"{weight}\" \
             fill=\"{colour}\" xml:space=\"preserve\">{words}</text>"
        ));
    }

    /// A heading, and a quieter remark behind it.
    fn title(&mut self, x: f64, y: f64, words: &str, remark: &str) {
        let (words, remark) = (escaped(words), escaped(remark));
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"15\" font-weight=\"bold\" fill=\"{INK}\">{words}\
             <tspan dx=\"10\" font-size=\"12\" font-weight=\"normal\" fill=\"{QUIET}\">{remark}</tspan></text>"
        ));
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, colour: &str) {
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2.5\" fill=\"{colour}\"/>"
        ));
    }

    fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, colour: &str, dashes: &str) {
        self.put(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" \
             stroke-dasharray=\"{dashes}\"/>"
        ));
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
