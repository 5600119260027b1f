//! How the demo looks: on a terminal, in a file, and where there are no flags.

use std::io::{self, IsTerminal};
use std::path::Path;

use edgeproxy_world::Inside;

use super::acts::Act;
use super::regions::{COUNT, Comparison, Figures, Region, Regions};
use super::say;
use super::stage::{Stage, Visit, city};

/// What can be shown here.
pub(super) struct Page {
    silent: bool,
    ascii: bool,
    colours: bool,
    progress: bool,
}

const GREEN: &str = "32";
const RED: &str = "31";
const BOLD: &str = "1";
const FAINT: &str = "2";

impl Page {
    pub(super) fn new(silent: bool, ascii: bool) -> Self {
        let on_terminal = io::stdout().is_terminal();
        Self {
            silent,
            ascii: ascii || !speaks_utf8(|name| std::env::var(name).ok()),
            colours: on_terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
            progress: io::stderr().is_terminal() && !silent,
        }
    }

    pub(super) fn progress(&self, text: &str) {
        if self.progress {
            say::aside(self.plain(text));
        }
    }

    pub(super) fn title(&self, pop: &str, visitors: usize) {
        self.line(
            self.styled(BOLD, "edgeproxy sends each client to the nearest backend that is healthy and has room."),
        );
        self.line(format!(
            "Here: ten backends, one POP in {pop} ({}), {visitors} clients. All of it runs on this machine.\n",
            city(pop)
        ));
        let names = self.row("", "client from", "reached", "expected", "", "first byte");
        self.line(self.styled(FAINT, &names));
    }

    pub(super) fn visit(&self, visit: &Visit) {
        let client = format!("{} {}", visit.country, visit.name);
        let reached = format!("{} {}", visit.reached, city(&visit.reached));
        let took = format!("{:.2} ms", visit.first_byte_ms);
        self.line(self.row(
            &flag(visit.country),
            &client,
            &reached,
            &visit.expected_in_words,
            &self.mark(visit.ok),
            &took,
        ));
    }

    pub(super) fn acts(&self) {
        self.line(format!("\n{}", self.styled(BOLD, "Now things happen.")));
    }

    pub(super) fn act(&self, act: &Act) {
        self.line(format!("  {}", act.happened));
        self.line(format!("    {} {}", self.mark(act.ok), act.seen));
    }

    pub(super) fn database(&self) {
        self.line(format!("\n{}", self.styled(BOLD, "Postgres from every region.")));
    }

    /// What cannot be shown here, and why not.
    pub(super) fn missing(&self, why: &str) {
        self.line(format!("  Not shown: {why}"));
    }

    /// Over the same line again and again.
    pub(super) fn measuring(&self, what: &str, done: usize) {
        if self.progress {
            say::progress(self.plain(&format!("measuring {what}: {done} of 10 regions …")));
        }
    }

    pub(super) fn measured_all(&self) {
        if self.progress {
            say::progress("");
        }
    }

    pub(super) fn comparison(&self, seen: &Comparison, inside: &Inside, scale: u32) {
        self.line(
            "Ten services, a hub that publishes the database to them, and a POP in front. Each is behind a WireGuard",
        );
        self.line(
            "tunnel, through a virtual WAN, and as far from the hub as the published read column says, less 0.3 ms for",
        );
        self.line("what its server took. Nothing is subtracted from what is measured here: what this machine and the tunnels take");
        self.line("is in the figures. TCP inside the tunnels is the kernel's, in a user namespace of each process.");
        if let Inside::Netstack { reason } = inside {
            self.line(format!("That cannot be here, and a stack of our own stands in for it: {reason}."));
        }
        self.line(format!(
            "In ms: the mean of the inserts and the least of the reads, as published; of {COUNT} each. Sent as the published"
        ));
        self.line("benchmark does, an insert is two flights; as edgeproxy does, one. Both are measured with the same warm-up, in the");
        self.line("same order, and in turn. Commits wait for no disk here.");
        if scale != 1 {
            self.line(format!("All distances are divided by {scale}: those of the published table are not."));
        }
        let names = figures_row("", ["published", "", "the same here", "", "edgeproxy", "", "round"]);
        self.line(format!("\n{}", self.styled(FAINT, &names)));
        let names = figures_row("", ["insert", "read", "insert", "read", "insert", "read", "trips"]);
        self.line(self.styled(FAINT, &names));
        for region in &seen.regions {
            self.region(region);
        }
        if let Some(off) = seen.pattern_off().filter(|_| scale == 1) {
            self.line(format!(
                "\n  As published, inserts come out within {:.1} % of the published column, but for Los Angeles: its published",
                100.0 * off
            ));
            self.line("  insert holds 9 ms that two of its reads do not explain.");
        }
        self.line("");
        for replica in &seen.replicas {
            self.line(format!(
                "  The replica in {}: a read within the region takes {:.2} ms; a row that is committed in Ireland is seen \
                 {:.1} ms later.",
                city(replica.region),
                replica.read_ms,
                replica.seen_after_ms
            ));
        }
    }

    fn region(&self, seen: &Region) {
        let cells = |figures: Option<Figures>| {
            let cell = |figure: fn(Figures) -> f64| figures.map_or("-".to_owned(), |it| format!("{:.2}", figure(it)));
            [cell(|it| it.insert), cell(|it| it.read)]
        };
        let [published, same, ours] = [Some(seen.published), seen.as_published, seen.ours].map(cells);
        let trips = seen.round_trips.map_or("-".to_owned(), |trips| format!("{trips:.2}"));
        let cells = [&published[0], &published[1], &same[0], &same[1], &ours[0], &ours[1], &trips];
        self.line(figures_row(&format!("{} {}", seen.region, city(seen.region)), cells.map(String::as_str)));
        if let Some(failure) = &seen.failure {
            self.line(format!("    {} {failure}", self.mark(false)));
        }
    }

    pub(super) fn picture(&self, file: &Path) {
        self.line(format!("  The picture: {}", file.display()));
    }

    /// It is not what the demo is about.
    pub(super) fn no_picture(&self, error: &io::Error) {
        self.line(format!("  {error}; another place: --picture FILE"));
    }

    pub(super) fn verdict(&self, ok: bool) {
        let text = match ok {
            true => self.styled(GREEN, "\nEverything as expected."),
            false => self.styled(RED, "\nNot everything was as expected: see the marks above."),
        };
        self.line(text);
    }

    pub(super) fn next_steps(&self) {
        self.line("\nTry next:");
        self.line("  edgeproxy demo --keep               leaves it running, for metrics and your own clients");
        self.line("  edgeproxy demo --region gru         the same world seen from São Paulo");
        self.line("  edgeproxy proxy --help              your own POP");
    }

    pub(super) fn kept(&self, stage: &Stage, regions: Option<&Regions>) {
        let (pop, admin) = (stage.pop.address(), stage.pop.admin());
        self.line("\nAll ten backends are back. It runs until Ctrl-C. In another terminal:");
        self.line(format!("  curl -s http://{admin}/metrics | grep ^edge_"));
        self.line(format!("  edgeproxy route explain 133.11.0.1 --admin {admin}"));
        self.line(format!("  edgeproxy route list --db {}", stage.site.db().display()));
        self.line("A client from Japan:");
        self.line(format!(
            "  printf 'PROXY TCP4 133.11.0.1 127.0.0.1 5555 80\\r\\n' | timeout 1 nc {} {}",
            pop.ip(),
            pop.port()
        ));
        let Some(regions) = regions else { return };
        self.line(format!("The database, and a region that measures it:\n  psql {}", regions.primary.url()));
        if let Some(far) = regions.star.spokes().last() {
            self.line(format!("  curl -s 'http://{}/api/rds/benchmark?iterations=3'", far.front()));
        }
    }

    /// A line of the table. Emoji and marks are aligned by hand: they are wider than they are long.
    fn row(&self, flag: &str, client: &str, reached: &str, expected: &str, mark: &str, took: &str) -> String {
        let flag = match (self.ascii, flag) {
            (true, _) => String::new(),
            (false, "") => "    ".to_owned(),
            (false, flag) => format!("{flag}  "),
        };
        let mark = if mark.is_empty() { " ".repeat(self.mark_width()) } else { mark.to_owned() };
        let row = format!("  {flag}{client:<20} {reached:<16} {expected:<17} {mark} {took:>10}");
        row.trim_end().to_owned()
    }

    fn mark(&self, ok: bool) -> String {
        match (ok, self.ascii) {
            (true, false) => self.styled(GREEN, "✓"),
            (true, true) => self.styled(GREEN, "ok"),
            (false, false) => self.styled(RED, "✗"),
            (false, true) => self.styled(RED, "NO"),
        }
    }

    fn mark_width(&self) -> usize {
        if self.ascii { 2 } else { 1 }
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: impl AsRef<str>) {
        if !self.silent {
            say::line(self.plain(text.as_ref()));
        }
    }

    fn plain(&self, text: &str) -> String {
        if self.ascii { text.replace('ã', "a").replace('…', "...") } else { text.to_owned() }
    }
}

fn figures_row(region: &str, [a, b, c, d, e, f, trips]: [&str; 7]) -> String {
    // Names stand above two columns each.
    format!("  {region:<17} {a:>9} {b:>8}   {c:>13} {d:>8}   {e:>9} {f:>8}   {trips:>6}")
}

/// The country's flag: its two letters as regional indicators.
fn flag(country: &str) -> String {
    let indicator = |letter: u8| char::from_u32(0x1F1E6 + u32::from(letter.saturating_sub(b'A')));
    country.bytes().filter_map(indicator).collect()
}

/// By the variables that set the locale, the first that is set.
fn speaks_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    set.is_some_and(|locale| locale.to_ascii_lowercase().replace('-', "").contains("utf8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_the_letters_of_the_country() {
        assert_eq!(flag("BR"), "🇧🇷");
        assert_eq!(flag("JP"), "🇯🇵");
    }

    #[test]
    fn the_first_locale_variable_that_is_set_decides() {
        let locale = |variables: &'static [(&str, &str)]| {
            speaks_utf8(move |name| {
                variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(locale(&[("LANG", "en_US.UTF-8")]));
        assert!(locale(&[("LANG", "C"), ("LC_ALL", "C.utf8")]));
        assert!(locale(&[("LC_ALL", ""), ("LANG", "pt_BR.UTF-8")]));
        assert!(!locale(&[("LC_ALL", "POSIX"), ("LANG", "en_US.UTF-8")]));
        assert!(!locale(&[]));
    }
}
