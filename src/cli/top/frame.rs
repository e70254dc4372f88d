//! What `postrider top` shows at one moment, as lines of a screen. Pure: from what was counted, a width and a height.

use unicode_width::UnicodeWidthStr as _;

use crate::cli::queue::age;
use crate::cli::table::{self, Look};
use crate::kit::text::{printable, utc};
use crate::monitoring::live::Live;
use crate::monitoring::page::{LaneLine, MINUTES, Snapshot};
use crate::queue::admin::MinuteCount;
use crate::queue::{HostSetting, Setting};

/// Columns from which on a lane's held ones and its oldest are shown too.
const WIDE: usize = 64;
/// Heights of a minute in the plot, from nothing to the most.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is known of the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Relay {
    /// No process has the queue.
    NotRunning,
    /// It runs; why it does not say more.
    Running(String),
    /// It runs, and said this.
    Answers(Live),
}

/// What is on the screen.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) hostname: String,
    pub(super) relay: Relay,
    /// None: not counted yet.
    pub(super) snapshot: Option<Snapshot>,
    /// Why nothing newer could be counted.
    pub(super) error: Option<String>,
    pub(super) now: i64,
}

/// How a line is set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Heading,
    Alarm,
}

/// A line of the screen, no wider than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) style: Style,
    pub(super) text: String,
}

/// At most `rows` lines of at most `columns`.
pub(super) fn frame(view: &View, columns: usize, rows: usize) -> Vec<Line> {
    let mut lines = head(view);
    if let Some(snapshot) = &view.snapshot {
        numbers(&mut lines, view, snapshot, columns);
        let room = rows.saturating_sub(lines.len());
        tables(&mut lines, view, snapshot, (columns, room));
    }
    lines.truncate(rows);
    for line in &mut lines {
        line.text = table::cut(&line.text, columns);
    }
    lines
}

fn plain(text: String) -> Line {
    Line { style: Style::Plain, text }
}

fn head(view: &View) -> Vec<Line> {
    let (style, state) = match &view.relay {
        Relay::NotRunning => (Style::Alarm, "relay not running".to_owned()),
        Relay::Running(_) | Relay::Answers(_) => (Style::Heading, "relay running".to_owned()),
    };
    let counted = match &view.snapshot {
        Some(snapshot) if view.now - snapshot.at >= 3 => {
            format!(", counted {} ago", age(view.now - snapshot.at))
        }
        Some(_) => String::new(),
        None => ", the queue is being counted".to_owned(),
    };
    let text = format!("{}: {state}{counted} - {} UTC", shown(&view.hostname), utc(view.now));
    let mut lines = vec![Line { style, text }];
    if let Some(error) = &view.error {
        lines.push(Line {
            style: Style::Alarm,
            text: format!("the queue could not be read: {}", shown(error)),
        });
    }
    lines
}

fn numbers(lines: &mut Vec<Line>, view: &View, snapshot: &Snapshot, columns: usize) {
    let waiting = &snapshot.waiting;
    let oldest = snapshot.oldest.first().map_or_else(|| "-".to_owned(), |line| age(line.age));
    let mut text = format!(
        "waiting {} recipients of {} messages: due {}, backing off {}, held {}",
        waiting.recipients, snapshot.messages, waiting.due, waiting.backing_off, waiting.held
    );
    if waiting.to_fetch > 0 {
        text += &format!(", to fetch {}", waiting.to_fetch);
    }
    lines.push(plain(text + &format!("; oldest {oldest}")));
    lines.push(plain(match &view.relay {
        Relay::Answers(live) => {
            format!("connections: {} to hosts, {} of clients", live.connections, live.sessions)
        }
        Relay::Running(why) => format!("connections: not known ({})", shown(why)),
        Relay::NotRunning => "connections: none".to_owned(),
    }));
    let this = view.now.div_euclid(60);
    let of = |minute: i64| -> MinuteCount {
        snapshot.minutes.iter().find(|found| found.minute == minute).copied().unwrap_or_default()
    };
    let last = of(this - 1);
    lines.push(plain(format!(
        "last minute: accepted {}, delivered {}, deferred {}, refused {}",
        last.accepted, last.delivered, last.deferred, last.failed
    )));
    let delivered: Vec<u64> = (this - MINUTES + 1..=this).map(|minute| of(minute).delivered).collect();
    let label = "delivered, last hour ";
    let room = columns.saturating_sub(label.width()).min(delivered.len());
    if delivered.iter().any(|count| *count > 0) {
        lines.push(plain(format!("{label}{}", plot(&delivered[delivered.len() - room..]))));
    }
}

/// A character a minute.
fn plot(counts: &[u64]) -> String {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let height = |count: &u64| match count {
        0 => ' ',
        // One is seen beside a thousand.
        count => HEIGHTS[usize::try_from((count * 8).div_ceil(most).clamp(1, 8) - 1).unwrap_or(0)],
    };
    counts.iter().map(height).collect::<String>().trim_end().to_owned()
}

/// Lanes, refusals and hosts share the room: a table that needs less than its part leaves the rest to the next.
fn tables(lines: &mut Vec<Line>, view: &View, snapshot: &Snapshot, (columns, mut room): (usize, usize)) {
    let is_wide = columns >= WIDE;
    let head: &'static [&'static str] = match is_wide {
        true => &["LANE", "WAITING", "DUE", "HELD", "BUSY", "OLDEST", "WHY"],
        false => &["LANE", "WAITING", "BUSY", "WHY"],
    };
    let lanes: Vec<Vec<String>> =
        snapshot.waiting.lanes.iter().map(|lane| lane_cells(lane, view, is_wide)).collect();
    let total = snapshot.waiting.lanes_total;
    let throttled = snapshot.hosts.iter().filter(|row| row.setting.is_limit());
    let hosts: Vec<Vec<String>> = throttled.map(|row| host_cells(row, view.now)).collect();
    let refusals: Vec<Vec<String>> = snapshot
        .refusals
        .iter()
        .map(|refusal| {
            let local = if refusal.is_remote { "" } else { "(local) " };
            let ago = age(view.now - refusal.at);
            vec![
                ago,
                refusal.mx.clone().unwrap_or_else(|| "-".to_owned()),
                format!("{local}{}", refusal.reply),
            ]
        })
        .collect();
    let parts = [
        Part { head, rows: lanes, total, thirds: 2 },
        Part { head: &["AGO", "REFUSED BY", "REPLY"], rows: refusals, total: 0, thirds: 2 },
        Part { head: &["THROTTLED", "TO", "SINCE", "REPLY"], rows: hosts, total: 0, thirds: 3 },
    ];
    for part in parts {
        room -= part.put(lines, columns, room);
    }
}

/// A table, and what of the room that is left it may have.
struct Part {
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
    /// How many rows there would be, where that is known.
    total: usize,
    thirds: usize,
}

impl Part {
    /// Says how many lines it took: none where there is no room for a blank one, the head and a row.
    fn put(mut self, lines: &mut Vec<Line>, columns: usize, room: usize) -> usize {
        let most = room * self.thirds / 3;
        if self.rows.is_empty() || most < 3 {
            return 0;
        }
        self.rows.truncate(most - 2);
        let more = self.total.saturating_sub(self.rows.len());
        let table = table::table(Look::of_width(columns), self.head, self.rows);
        let mut rows = table.lines();
        let more = if more > 0 { format!("  (and {more} more)") } else { String::new() };
        let text = rows.next().unwrap_or_default().to_owned() + &more;
        let before = lines.len();
        lines.extend([plain(String::new()), Line { style: Style::Heading, text }]);
        lines.extend(rows.map(|row| plain(row.to_owned())));
        lines.len() - before
    }
}

fn lane_cells(lane: &LaneLine, view: &View, is_wide: bool) -> Vec<String> {
    let busy = match &view.relay {
        Relay::Answers(live) => match live.lanes.iter().find(|busy| busy.lane == lane.lane) {
            Some(busy) => format!("{}/{}", busy.busy, busy.limit),
            None => "0".to_owned(),
        },
        Relay::Running(_) => "?".to_owned(),
        Relay::NotRunning => "-".to_owned(),
    };
    let why = match (&lane.backoff, &lane.fetch, lane.next_attempt_at) {
        (Some((until, _, reply)), ..) => format!("backs off for {}: {reply}", age(until - view.now)),
        (None, Some(who), _) => format!("to be fetched: {who}"),
        (None, None, _) if lane.due > 0 => "due".to_owned(),
        (None, None, Some(next)) => format!("next try in {}", age(next - view.now)),
        (None, None, None) if lane.held < lane.waiting => "suspended".to_owned(),
        (None, None, None) => "held".to_owned(),
    };
    let (name, waiting) = (lane.lane.clone(), lane.waiting.to_string());
    match is_wide {
        true => {
            let oldest = age(view.now - lane.oldest);
            vec![name, waiting, lane.due.to_string(), lane.held.to_string(), busy, oldest, why]
        }
        false => vec![name, waiting, busy, why],
    }
}

fn host_cells(row: &HostSetting, now: i64) -> Vec<String> {
    let to = match row.setting {
        Setting::Connections(limit) => format!("{limit} connections"),
        Setting::MessagesPerMinute(limit) => format!("{limit} a minute"),
        setting => format!("{} {}", setting.name(), setting.value()),
    };
    vec![row.mx.clone(), to, age(now - row.changed_at), row.last_reply.clone().unwrap_or_default()]
}

/// What others said does nothing to the terminal.
fn shown(text: &str) -> String {
    printable(text.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitoring::live::BusyLane;
    use crate::monitoring::page::Waiting;
    use crate::queue::admin::Refusal;

    const NOW: i64 = 1_767_323_045;
    const HOSTILE: &str =
        "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\u{202e}\u{9b}31m \u{65e5}\u{672c}\u{8a9e}\u{65e5}\u{672c}";

    fn view() -> View {
        let lane = |number: i64| LaneLine {
            lane: format!("{HOSTILE}{number}.test"),
            waiting: 1234,
            due: 7,
            backoff: (number % 2 == 0).then(|| (NOW + 300, 3, HOSTILE.to_owned())),
            oldest: NOW - 7200,
            ..LaneLine::default()
        };
        let lanes: Vec<LaneLine> = (0..12).map(lane).collect();
        let busy = BusyLane { lane: lanes[0].lane.clone(), busy: 3, limit: 20 };
        let refusal = Refusal {
            at: NOW - 5,
            mx: Some(HOSTILE.to_owned()),
            reply: HOSTILE.to_owned(),
            is_remote: false,
        };
        let host = HostSetting {
            mx: HOSTILE.to_owned(),
            setting: Setting::Connections(2),
            last_reply: Some(HOSTILE.to_owned()),
            changed_at: NOW - 60,
            retry_at: None,
        };
        let minute = |minute| MinuteCount { minute, delivered: minute as u64 % 50, ..MinuteCount::default() };
        View {
            hostname: "relay.test".to_owned(),
            relay: Relay::Answers(Live { sessions: 4, connections: 9, lanes: vec![busy] }),
            snapshot: Some(Snapshot {
                at: NOW,
                messages: 5,
                waiting: Waiting { recipients: 14_808, lanes, lanes_total: 40, ..Waiting::default() },
                minutes: (NOW / 60 - 59..=NOW / 60).map(minute).collect(),
                refusals: vec![refusal; 12],
                hosts: vec![host; 9],
                ..Snapshot::default()
            }),
            error: Some(HOSTILE.to_owned()),
            now: NOW,
        }
    }

    fn text(view: &View, columns: usize, rows: usize) -> String {
        frame(view, columns, rows).iter().map(|line| line.text.clone() + "\n").collect()
    }

    #[test]
    fn a_frame_fits_its_screen_and_nothing_in_it_moves_the_cursor() {
        let views = [
            view(),
            View { relay: Relay::NotRunning, error: None, ..view() },
            View { relay: Relay::Running(HOSTILE.to_owned()), snapshot: None, ..view() },
            View { snapshot: Some(Snapshot::default()), ..view() },
        ];
        let sizes = [(80, 24), (40, 10), (200, 60), (20, 5), (1, 1), (0, 0), (300, 3)];
        for (view, (columns, rows)) in views.iter().flat_map(|view| sizes.map(|size| (view, size))) {
            let lines = frame(view, columns, rows);
            assert!(lines.len() <= rows, "{} lines of {rows}", lines.len());
            for line in &lines {
                assert!(line.text.width() <= columns.max(1), "{columns}: {line:?}");
                assert!(!line.text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
            }
        }
    }

    #[test]
    fn eighty_by_twenty_four_has_lanes_connections_the_rate_and_refusals() {
        let text = text(&View { error: None, ..view() }, 80, 24);
        for words in [
            "relay.test: relay running - 2026-01-02 03:04:05 UTC",
            "waiting 14808 recipients of 5 messages",
            "connections: 9 to hosts, 4 of clients",
            "last minute: accepted 0, delivered ",
            "delivered, last hour ",
            "▁",
            "LANE",
            " 3/20",
            "backs off",
            " more)",
            "REFUSED BY",
            "(local)",
            "THROTTLED",
            "2 connections",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        assert!(text.lines().count() >= 20, "the screen is used:\n{text}");
    }

    #[test]
    fn small_and_large_screens_show_what_they_have_room_for() {
        let small = text(&View { error: None, ..view() }, 40, 10);
        assert!(small.contains("LANE") && small.contains("WHY") && !small.contains("HELD"), "{small}");
        let large = text(&view(), 200, 60);
        assert!(large.matches(".test ").count() >= 12, "all lanes:\n{large}");
        assert!(large.matches("(local)").count() >= 12, "all refusals:\n{large}");
        assert_eq!(large.matches("2 connections").count(), 9, "all hosts:\n{large}");
    }

    #[test]
    fn without_a_relay_the_queue_is_shown() {
        let text = text(&View { relay: Relay::NotRunning, error: None, ..view() }, 80, 24);
        assert!(text.contains("relay not running") && text.contains("connections: none"), "{text}");
        assert!(text.contains("1234"), "{text}");
        // No lane has connections, and none has an unknown number of them.
        let busy = |line: &str| line.split_whitespace().nth(4).map(str::to_owned);
        let lanes: Vec<_> =
            text.lines().skip_while(|line| !line.starts_with("LANE")).map(busy).take(2).collect();
        assert_eq!(lanes, [Some("BUSY".to_owned()), Some("-".to_owned())], "{text}");
        let nothing = View { snapshot: None, error: None, ..view() };
        assert!(super::tests::text(&nothing, 80, 24).contains("is being counted"));
    }

    #[test]
    fn a_minute_with_one_is_seen_beside_one_with_thousands() {
        assert_eq!(plot(&[0, 1, 8000, 4000, 0]), " ▁█▄");
        assert_eq!(plot(&[0, 0]), "");
    }
}
