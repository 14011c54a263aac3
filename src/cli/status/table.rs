//! Lays out the table of the fleet: one line per window, trouble first, as wide as the terminal.
//!
//! Errors have a column of their own if they fit completely, else each is wrapped below its row.
//! They are not cut, because the end of an error says what to do. A terminal that is too narrow for
//! the other columns shows fewer of them. Without a terminal nothing is cut or wrapped.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::format::{span, style, time, until};
use crate::cli::terminal::{cut, printable, width, wrapped};
use crate::mirror::status::WindowStatus;

const TITLES: [&str; 7] = ["WINDOW", "STATE", "EVENTS", "LAST SUCCESS", "STALE", "DUE", "FAILURES"];
const ERROR: &str = "LAST ERROR";

/// Columns of numbers, which are right-aligned.
const NUMBERS: [usize; 2] = [2, 6];

/// The order in which columns are left out if a terminal is too narrow. Window and state stay.
const EXPENDABLE: [usize; 5] = [6, 3, 2, 5, 4];

/// Columns are left out before names are cut to less than this width.
const NAME: usize = 32;

/// Spaces between two columns.
const GAP: usize = 2;

struct TableRow {
    cells: [(String, Style); 7],
    error: String,
}

/// Which columns are shown, and how wide.
struct TableLayout {
    /// The width of each column; 0 if it is left out.
    widths: [usize; 7],
    /// Whether errors have a column; else they are below their rows.
    inline: bool,
}

/// The lines of the table for a terminal with `columns` columns; `None` means no terminal.
pub(super) fn lines(
    windows: &[WindowStatus],
    now: Timestamp,
    zone: &TimeZone,
    columns: Option<usize>,
) -> Vec<String> {
    if windows.is_empty() {
        return Vec::new();
    }
    let mut windows: Vec<&WindowStatus> = windows.iter().collect();
    windows.sort_by_key(|w| (w.is_healthy(), !w.state.is_trouble(), &w.name));
    let bold = Style::new().bold();
    let head =
        TableRow { cells: TITLES.map(|title| (title.to_owned(), bold)), error: ERROR.to_owned() };
    let rows: Vec<TableRow> = windows.iter().map(|window| row(window, now, zone)).collect();
    let layout = TableLayout::of(&head, &rows, columns);
    let mut lines = vec![layout.line(&head, Some(bold))];
    for row in &rows {
        lines.push(layout.line(row, None));
        if !layout.inline && !row.error.is_empty() {
            lines.extend(wrapped(&format!("  {}", row.error), columns.unwrap_or(0), "  "));
        }
    }
    lines
}

impl TableLayout {
    fn of(head: &TableRow, rows: &[TableRow], columns: Option<usize>) -> Self {
        let mut widths: [usize; 7] = std::array::from_fn(|column| {
            let cells = rows.iter().map(|row| width(&row.cells[column].0));
            cells.max().unwrap_or(0).max(width(&head.cells[column].0))
        });
        let Some(columns) = columns else { return Self { widths, inline: true } };
        let errors = rows.iter().map(|row| width(&row.error)).max().unwrap_or(0);
        let sum = |widths: &[usize; 7]| {
            widths.iter().filter(|width| **width > 0).map(|width| width + GAP).sum::<usize>()
        };
        if errors > 0 && sum(&widths) + errors.max(ERROR.len()) <= columns {
            return Self { widths, inline: true };
        }
        let excess =
            |widths: &[usize; 7], name: usize| sum(widths) - GAP - widths[0] + name > columns;
        for column in EXPENDABLE {
            if excess(&widths, widths[0].min(NAME)) {
                widths[column] = 0;
            }
        }
        let others = sum(&widths) - GAP - widths[0];
        widths[0] = widths[0].min(columns.saturating_sub(others)).max(1);
        Self { widths, inline: false }
    }

    fn line(&self, row: &TableRow, error: Option<Style>) -> String {
        let mut line = String::new();
        for (column, (cell, style)) in row.cells.iter().enumerate() {
            let room = self.widths[column];
            if room == 0 {
                continue;
            }
            if !line.is_empty() {
                line.push_str(&" ".repeat(GAP));
            }
            let cell = cut(cell, room);
            let padding = " ".repeat(room - width(&cell).min(room));
            let cell = format!("{style}{cell}{style:#}");
            let (first, second) =
                if NUMBERS.contains(&column) { (padding, cell) } else { (cell, padding) };
            line.push_str(&first);
            line.push_str(&second);
        }
        if self.inline && !row.error.is_empty() {
            let style = error.unwrap_or_default();
            line.push_str(&format!("{}{style}{}{style:#}", " ".repeat(GAP), row.error));
        }
        line.truncate(line.trim_end_matches(' ').len());
        line
    }
}

fn row(window: &WindowStatus, now: Timestamp, zone: &TimeZone) -> TableRow {
    let plain = Style::new();
    let error = window.last_error.as_ref();
    let error = error.map_or(String::new(), |error| {
        printable(&format!("{}: {}", error.kind.as_str(), error.message))
    });
    let stale_style = if window.state.is_trouble() || window.is_healthy() {
        plain
    } else {
        AnsiColor::Yellow.on_default()
    };
    let cells = [
        (printable(&window.name), plain),
        (window.state.as_str().to_owned(), style(window.state)),
        (window.events.to_string(), plain),
        (window.last_success.map_or("never".into(), |at| time(at, now, zone)), plain),
        (window.stale_s.map_or("-".into(), span), stale_style),
        (window.next_due.map_or("-".into(), |due| until(due.max(now), now)), plain),
        (window.failures.to_string(), plain),
    ];
    TableRow { cells, error }
}
