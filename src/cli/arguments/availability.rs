//! The arguments of `busy` and `free`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::super::complete;
use super::super::time_range::TimeRange;

/// The windows of a `busy` or `free`.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct WindowPatterns {
    /// Windows, separated by commas; * matches any text.
    #[arg(
        long,
        value_name = "W",
        value_delimiter = ',',
        add = ArgValueCompleter::new(complete::windows)
    )]
    pub windows: Vec<String>,

    /// All windows of a group; may be repeated.
    #[arg(long, value_name = "G")]
    pub group: Vec<String>,
}

/// `busy`.
#[derive(Args, Debug)]
pub struct BusyArgs {
    /// The selected windows.
    #[command(flatten)]
    pub which: WindowPatterns,

    /// The range.
    #[command(flatten)]
    pub range: TimeRange,
}

/// `free`.
#[derive(Args, Debug)]
#[command(
    mut_arg("from", |from| from.help(
        "Start: a time, a date, or relative to today such as +1d [default: now]"
    )),
    mut_arg("zone", |zone| zone.help(
        "Time zone of hours, days and times, by its IANA or Windows name [default: $TZ, else the \
         system's]"
    ))
)]
pub struct FreeArgs {
    /// The selected windows.
    #[command(flatten)]
    pub which: WindowPatterns,

    /// The range.
    #[command(flatten)]
    pub range: TimeRange,

    /// The shortest slot, such as 45m or 1h 30m [default: 30m].
    #[arg(long, value_name = "D")]
    pub duration: Option<String>,

    /// Only slots in these hours, such as 09:00-17:00; 22:00-06:00 ends on the next day.
    #[arg(long, value_name = "HOURS")]
    pub within: Option<String>,

    /// Only slots on these days, such as mon-fri or mon,wed [default: mon-fri with --within, else
    /// every day].
    #[arg(long, value_name = "DAYS")]
    pub days: Option<String>,

    /// How many windows have to be free during the whole slot [default: all].
    #[arg(long, value_name = "N")]
    pub need: Option<usize>,

    /// Free time needed before and after each meeting, such as 10m.
    #[arg(long, value_name = "D")]
    pub buffer: Option<String>,

    /// Whether tentative meetings count as busy or free [default: busy].
    #[arg(long, value_name = "AS", value_parser = ["busy", "free"])]
    pub tentative: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use crate::cli::arguments::Arguments;

    #[test]
    fn a_search_for_free_time_begins_now_and_lists_begin_today() {
        let all = Arguments::command();
        for (command, begins) in [("events", "today"), ("busy", "today"), ("free", "now")] {
            let mut options = all.find_subcommand(command).unwrap().get_arguments();
            let from = options.find(|option| option.get_id() == "from").unwrap();
            let help = from.get_help().unwrap().to_string();
            assert!(help.ends_with(&format!("[default: {begins}]")), "{command}: {help}");
        }
    }
}
