//! Shell completion.
//!
//! The shell's script runs this program with `$CALMIRROR_COMPLETE` set and the words of the command
//! line; `clap_complete` prints the candidates. Window names come from the daemon that the command
//! line addresses. If it does not answer within [`ANSWER_TIMEOUT`], none are offered.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};

use super::client::ApiClient;
use super::exit::{DONE, FAILED};
use super::terminal::printable;
use super::{endpoint, suggest};

/// The environment variable that names the shell and requests completion.
pub(super) const VARIABLE: &str = "CALMIRROR_COMPLETE";

/// How long completion waits for the daemon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The supported shells.
pub(super) const SHELLS: Shells<'static> =
    Shells(&[&BashCompleter, &Elvish, &Fish, &Powershell, &Zsh]);

/// Answers a shell's completion request; `None` if there is none and the command is to be run.
/// `command` builds the command line.
pub(super) fn answer(
    command: impl Fn() -> clap::Command,
    arguments: &[OsString],
) -> Option<ExitCode> {
    let completing = CompleteEnv::with_factory(command).var(VARIABLE).shells(SHELLS);
    let here = std::env::current_dir().ok();
    match completing.try_complete(arguments.iter().cloned(), here.as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::from(DONE)),
        // No message: it would appear in the middle of the line that the user types.
        Err(_) => Some(ExitCode::from(FAILED)),
    }
}

/// The windows whose names start with `current`.
pub(super) fn windows(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = current.to_str() else { return Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let names = runtime.block_on(async {
        let client = client()?;
        tokio::time::timeout(ANSWER_TIMEOUT, suggest::names(&client, begun)).await.ok()
    });
    let (names, _) = names.unwrap_or_default();
    names
        .into_iter()
        .filter(|name| name.starts_with(begun) && printable(name) == *name)
        .map(CompletionCandidate::new)
        .collect()
}

/// A client of the daemon that the command line or the configuration names.
fn client() -> Option<ApiClient> {
    let words: Vec<OsString> =
        std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let option = |name: &str| {
        words.iter().enumerate().find_map(|(index, word)| {
            let word = word.to_str()?.strip_prefix(name)?;
            match word.strip_prefix('=') {
                Some(value) => Some(OsString::from(value)),
                None if word.is_empty() => words.get(index + 1).cloned(),
                None => None,
            }
        })
    };
    let (api, config) = (option("--api"), option("--config").map(PathBuf::from));
    let api = api.as_deref().and_then(OsStr::to_str);
    let found = endpoint::find(api, config.as_deref(), &super::environment()).ok()?;
    Some(ApiClient::new(found.endpoint, found.token))
}

/// Bash splits words at `@` and `:`, which addresses contain. The script joins them again and
/// quotes characters of a name that are special to the shell.
struct BashCompleter;

const BASH: &str = r#"_calmirror() {
    local line=${COMP_LINE:0:COMP_POINT} word glued i
    local -a words=() replies=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        glued=
        if ((i > 0)) && [[ $line != [[:space:]]* ]]; then glued=1; fi
        line=${line#"${line%%[![:space:]]*}"}
        word=${COMP_WORDS[i]}
        if ((i == COMP_CWORD)); then word=$line; fi
        line=${line#"$word"}
        if [[ $glued ]]; then words[-1]+=$word; else words+=("$word"); fi
    done
    mapfile -t replies < <(_CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) \
        VARIABLE=bash COMPLETER -- "${words[@]//\\/}" 2>/dev/null)
    word=${words[-1]}
    i=$((${#word} - ${#2}))
    COMPREPLY=()
    for word in "${replies[@]}"; do
        printf -v word %q "$word"
        COMPREPLY+=("${word:i}")
    done
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/] ]]; then compopt -o nospace; fi
}
complete -o bashdefault -o nosort -F _calmirror BIN
"#;

impl EnvCompleter for BashCompleter {
    fn name(&self) -> &'static str {
        "bash"
    }

    fn is(&self, name: &str) -> bool {
        name == "bash"
    }

    fn write_registration(
        &self,
        variable: &str,
        _name: &str,
        bin: &str,
        completer: &str,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let script = BASH.replace("VARIABLE", variable).replace("COMPLETER", completer);
        out.write_all(script.replace("BIN", bin).as_bytes())
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        here: Option<&std::path::Path>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        clap_complete::env::Bash.write_complete(command, words, here, out)
    }
}
