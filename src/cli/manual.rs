//! `completions` and `man`: completion scripts and manual pages, generated from the definition that
//! also parses the command line.

use std::io::Write;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::arguments::Arguments;
use super::complete::{SHELLS, VARIABLE};
use super::exit::{CliError, DONE, FAILED};

const FILES: &str = r#".SH FILES
.TP
/etc/calmirror/calmirror.toml
The configuration. The installed example lists and explains every key.
.TP
/etc/calmirror/conf.d/*.toml
Further configuration files, read in the order of their names.
.TP
/var/lib/calmirror
The store.
.TP
/run/calmirror/api.sock
The socket of the API.
.SH ENVIRONMENT
.TP
CALMIRROR_CONFIG, CALMIRROR_API
Defaults of \-\-config and \-\-api.
.TP
CALMIRROR_TOKEN
The token for the API over TCP, sent to whatever address \-\-api names.
.TP
CALMIRROR__SECTION__KEY
Sets a key of the configuration and overrides all files, for example CALMIRROR__DEFAULTS__INTERVAL=1m.
.TP
NO_COLOR
Disables colours on any terminal.
.SH SIGNALS
SIGTERM and SIGINT stop the daemon gracefully, a second one at once. SIGHUP reloads the configuration.
"#;

/// The end of a file in zsh's `fpath`. Zsh loads the file as the function `_calmirror` and calls it
/// for the first completion.
const ZSH_AUTOLOAD: &str = r#"
if [ "${funcstack[1]}" = "_calmirror" ]; then _clap_dynamic_completer_calmirror "$@"; fi
"#;

/// Prints the script that makes a shell ask this program for completions.
pub(super) fn completions(shell: Shell, out: &mut impl Write) -> Result<u8, CliError> {
    let Some(completer) = SHELLS.completer(&shell.to_string()) else {
        return Err(CliError::new(FAILED, format!("no completions for {shell}")));
    };
    completer.write_registration(VARIABLE, "calmirror", "calmirror", "calmirror", out)?;
    if shell == Shell::Zsh {
        out.write_all(ZSH_AUTOLOAD.as_bytes())?;
    }
    Ok(DONE)
}

/// Prints the manual page, or writes it and one page per command into a directory.
pub(super) fn man(directory: Option<&Path>, out: &mut impl Write) -> Result<u8, CliError> {
    let Some(directory) = directory else {
        out.write_all(&main_page()?)?;
        return Ok(DONE);
    };
    let write = |name: &str, page: &[u8]| {
        let file = directory.join(format!("{name}.1"));
        std::fs::write(&file, page).map_err(|error| cannot(&file, &error))
    };
    std::fs::create_dir_all(directory).map_err(|error| cannot(directory, &error))?;
    write("calmirror", &main_page()?)?;
    let mut command = Arguments::command();
    command.build();
    for command in command.get_subcommands().filter(|command| listed(command)) {
        let name = format!("calmirror-{}", command.get_name());
        write(&name, &page(command.clone())?)?;
    }
    Ok(DONE)
}

/// The main page: everything except the options of the commands.
fn main_page() -> Result<Vec<u8>, CliError> {
    let mut text = page(Arguments::command())?;
    text.extend_from_slice(FILES.as_bytes());
    Ok(text)
}

fn page(command: Command) -> Result<Vec<u8>, CliError> {
    let version = env!("CARGO_PKG_VERSION");
    let command = command.disable_help_subcommand(true);
    let commands = command.has_subcommands();
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command).source(format!("calmirror {version}")).manual("calmirror");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if commands {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some((_, examples)) = examples.split_once(":\n") {
        // Unchanged, line by line.
        writeln!(text, ".SH EXAMPLES\n.nf\n{}\n.fi", literal(examples))?;
    }
    Ok(text)
}

/// Escapes everything that `man` would interpret.
fn literal(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace("\n.", "\n\\&.").replace("\n'", "\n\\&'")
}

/// Whether the command has a page; `help` has none.
fn listed(command: &Command) -> bool {
    command.get_name() != "help"
}

fn cannot(path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(FAILED, format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_command_has_a_manual_page_and_the_main_page_lists_them() {
        let directory = tempfile::tempdir().unwrap();
        let pages = directory.path().join("man1");
        assert_eq!(man(Some(&pages), &mut Vec::new()), Ok(DONE));
        let main = std::fs::read_to_string(directory.path().join("man1/calmirror.1")).unwrap();
        for command in Arguments::command().get_subcommands() {
            let page = format!("man1/calmirror-{}.1", command.get_name());
            let there = directory.path().join(page).exists();
            assert_eq!(there, listed(command), "{}", command.get_name());
            let told = main.contains(&format!("calmirror\\-{}(1)", command.get_name()));
            assert_eq!(told, listed(command), "{}", command.get_name());
        }
        assert!(main.contains("/etc/calmirror/calmirror.toml"));
        assert!(main.contains("calmirror changes \\-\\-follow"), "examples are unchanged");
    }

    #[test]
    fn every_shell_has_a_completion_script_that_calls_this_program() {
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            completions(*shell, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(VARIABLE), "{shell}: {text}");
            assert!(text.contains(&format!("{shell}")), "{shell}: {text}");
            assert!(text.contains(" calmirror -- ") || text.contains("& calmirror --"), "{text}");
        }
    }
}
