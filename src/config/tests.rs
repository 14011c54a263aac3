//! Tests of the whole module: files in, a configuration or its errors out.
mod accounts;
mod certificates;
mod consumers;
mod example;
mod faults;
mod fleets;
mod groups;
mod layers;
mod network;
mod shards;
mod sinks;
mod sizes;
mod warnings;
mod windows;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use jiff::Timestamp;

use super::{Config, Diagnostic, Diagnostics, Sources};

/// The current time of every test.
const NOW: &str = "2026-11-22T10:00:00Z";

/// A valid account, once [`ConfigFixture::new`] has written its secret; five lines.
const ACCOUNT: &str = r#"[account.contoso]
tenant = "contoso.com"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "contoso.secret"

"#;

/// A directory with a configuration.
struct ConfigFixture {
    dir: tempfile::TempDir,
    environment: BTreeMap<String, String>,
}

impl ConfigFixture {
    fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap(), environment: BTreeMap::new() };
        fixture.secret("contoso.secret", "hush", 0o600);
        fixture
    }

    /// A lab with this text as its main file.
    fn with(main: &str) -> Self {
        let fixture = Self::new();
        fixture.write("calmirror.toml", main);
        fixture
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn secret(&self, name: &str, text: &str, mode: u32) {
        self.write(name, text);
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.dir.path().join(name), permissions).unwrap();
    }

    fn set(mut self, variable: &str, value: &str) -> Self {
        self.environment.insert(variable.to_owned(), value.to_owned());
        self
    }

    fn load(&self) -> Result<Config, Diagnostics> {
        let file = self.dir.path().join("calmirror.toml");
        let sources = Sources::find(Some(&file), self.environment.clone());
        Config::load(&sources, NOW.parse::<Timestamp>().unwrap())
    }

    /// Loads a configuration that must be valid.
    fn config(&self) -> Config {
        self.load().unwrap_or_else(|faults| panic!("{faults}"))
    }

    /// The text without the path of the directory.
    fn plain(&self, text: &impl ToString) -> String {
        text.to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }

    /// The errors of a configuration; empty if it is valid.
    fn faults(&self) -> Vec<String> {
        match self.load() {
            Ok(_) => Vec::new(),
            Err(Diagnostics(faults)) => self.shown(&faults),
        }
    }

    /// The warnings of a configuration that must be valid.
    fn warnings(&self) -> Vec<String> {
        self.shown(&self.config().warnings)
    }

    fn shown(&self, faults: &[Diagnostic]) -> Vec<String> {
        faults.iter().map(|fault| self.plain(fault)).collect()
    }
}
