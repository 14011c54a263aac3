//! Accounts: the ways to sign in, and the files of secrets.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

use super::faults::check;
use super::{Config, ConfigFixture, Diagnostics, NOW, Sources};
use crate::mirror::account::{Credential, IdentityEndpoint};
use crate::sign_in_record::{LockedRecord, SignInRecord};

#[test]
fn an_account_signs_in_in_exactly_one_way() {
    let all = "client_secret_file, client_secret_env, certificate_file, federated_token_file, managed_identity, device_code, access_token_file, access_token_command";
    check(
        "[account.a]\ntenant = \"t\"\nclient_id = \"c\"\n",
        &[&format!("calmirror.toml:1: account.a: no way to sign in; write one of {all}")],
    );
    check(
        "[account.a]\ntenant = \"t\"\nclient_id = \"c\"\nclient_secret_file = \"contoso.secret\"\ncertificate_file = \"contoso.secret\"\n",
        &[&format!(
            "calmirror.toml:5: account.a.certificate_file: a second way to sign in beside client_secret_file; keep exactly one of {all}"
        )],
    );
    check(
        "[account.a]\nclient_secret_file = \"contoso.secret\"\n",
        &[
            "calmirror.toml:1: account.a.tenant: missing; write the tenant's id or domain",
            "calmirror.toml:1: account.a.client_id: missing; write the application's (client) id",
        ],
    );
    check(
        "[account.a]\ntenant = \"common\"\nclient_id = \"a b\"\nclient_secret_file = \"contoso.secret\"\n",
        &[
            "calmirror.toml:2: account.a.tenant: a daemon needs a specific tenant; write the tenant's id or domain",
            "calmirror.toml:3: account.a.client_id: neither an id nor a domain; write letters, digits, `-`, `.` and `_` only",
        ],
    );
}

#[test]
fn azures_workload_identity_is_in_the_environment() {
    let text = "[account.a]\nfederated_token_file = \"env\"\n[[window]]\naccount = \"a\"\nmailbox = \"m@contoso.com\"\n";
    let fixture = ConfigFixture::with(text);
    let missing = |name: &str, instead: &str| {
        format!(
            "calmirror.toml:2: account.a.federated_token_file: the environment has no {name}; write {instead}, or run where Azure's workload identity sets it"
        )
    };
    let client = missing("AZURE_CLIENT_ID", "client_id");
    let tenant = missing("AZURE_TENANT_ID", "tenant");
    let path = missing("AZURE_FEDERATED_TOKEN_FILE", "a path");
    assert_eq!(fixture.faults(), [path, tenant.clone(), client.clone()]);
    fixture.secret("token", "eyJ.eyJ.c2ln", 0o600);
    let file = fixture.dir.path().join("token");
    let fixture = fixture.set("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap());
    assert_eq!(fixture.faults(), [tenant, client.clone()]);
    let fixture = fixture.set("AZURE_TENANT_ID", "a/b").set("AZURE_CLIENT_ID", " ");
    let shape = "calmirror.toml:2: account.a.federated_token_file: AZURE_TENANT_ID is neither an id nor a domain; write letters, digits, `-`, `.` and `_` only";
    assert_eq!(fixture.faults(), [shape.to_owned(), client]);
    let tenant = "00000000-0000-0000-0000-000000000001";
    let fixture = fixture.set("AZURE_TENANT_ID", tenant).set("AZURE_CLIENT_ID", tenant);
    let account = &fixture.config().accounts["a"];
    assert_eq!((&*account.tenant, account.client_id.as_str()), (tenant, tenant));
    assert_eq!(account.credential, Credential::FederatedTokenFile(file));
    // What is written takes precedence.
    fixture.write("calmirror.toml", &text.replacen("\n", "\ntenant = \"contoso.com\"\n", 1));
    assert_eq!(&*fixture.config().accounts["a"].tenant, "contoso.com");
}

#[test]
fn a_workload_identity_of_another_cloud_is_a_warning() {
    let id = "00000000-0000-0000-0000-000000000001";
    let text = "[graph]\n#\n[account.a]\nfederated_token_file = \"env\"\n[[window]]\naccount = \"a\"\nmailbox = \"m@contoso.com\"\n";
    let mut fixture =
        ConfigFixture::with(text).set("AZURE_TENANT_ID", id).set("AZURE_CLIENT_ID", id);
    fixture.secret("token", "eyJ.eyJ.c2ln", 0o600);
    let file = fixture.dir.path().join("token").to_str().unwrap().to_owned();
    fixture = fixture.set("AZURE_FEDERATED_TOKEN_FILE", &file);
    let global = "cloud = \"global\"";
    for (cloud, authority, remedy) in [
        (global, "", None),
        (global, "https://login.microsoftonline.com/", None),
        (global, "HTTPS://login.microsoft.com", None),
        ("cloud = \"us-gov-l5\"", "login.microsoftonline.us", None),
        ("cloud = \"china\"", "https://login.chinacloudapi.cn/", None),
        ("login_url = \"https://login.example\"", "https://login.example/", None),
        (global, "https://login.microsoftonline.us/", Some(r#""us-gov-l4" or "us-gov-l5""#)),
        (global, "https://login.chinacloudapi.cn/", Some(r#""china""#)),
        (global, "https://canary@login.microsoftonline.com/", Some("the cloud of that sign-in")),
    ] {
        fixture.write("calmirror.toml", &text.replace('#', cloud));
        fixture = fixture.set("AZURE_AUTHORITY_HOST", authority);
        let said = remedy.map(|remedy| format!(
            "calmirror.toml:4: account.a.federated_token_file: AZURE_AUTHORITY_HOST names the sign-in of another cloud than \"global\"; set graph.cloud to {remedy}, unless the tenant is in \"global\""
        ));
        assert_eq!(fixture.warnings(), Vec::from_iter(said), "{cloud} {authority}");
    }
    // Another file has nothing to do with that variable.
    fixture.write(
        "calmirror.toml",
        &text.replace("\"env\"", &format!("{file:?}\ntenant = {id:?}\nclient_id = {id:?}")),
    );
    assert_eq!(fixture.warnings(), [""; 0]);
}

#[test]
fn secrets_are_private_files_and_never_shown() {
    let fixture = ConfigFixture::with(
        "[account.a]\naccess_token_file = \"open\"\n[account.b]\naccess_token_file = \"empty\"\n[account.c]\naccess_token_file = \"none\"\n[account.d]\naccess_token_file = \"dir\"\n[account.e]\naccess_token_file = \"group\"\n[account.f]\naccess_token_file = \"blank\"\n[account.g]\naccess_token_file = \"long\"\n",
    );
    fixture.secret("open", "s3cret", 0o644);
    fixture.secret("group", "s3cret", 0o640);
    fixture.secret("empty", " \n", 0o600);
    fixture.secret("blank", "\u{b}\u{a0}\n", 0o600);
    // The daemon would not read it either.
    fixture.secret("long", &"s".repeat(256 * 1024 + 1), 0o600);
    std::fs::create_dir(fixture.dir.path().join("dir")).unwrap();
    assert_eq!(
        fixture.faults(),
        [
            "calmirror.toml:2: account.a.access_token_file: open can be read by others (mode 0644); chmod 0600 open",
            "calmirror.toml:4: account.b.access_token_file: empty is empty; write the secret into it",
            "calmirror.toml:6: account.c.access_token_file: none cannot be read: No such file or directory (os error 2); write the secret into that file, with mode 0600",
            "calmirror.toml:8: account.d.access_token_file: dir is not a file; name the file itself",
            "calmirror.toml:10: account.e.access_token_file: group can be read by others (mode 0640); chmod 0600 group",
            "calmirror.toml:12: account.f.access_token_file: blank is empty; write the secret into it",
            "calmirror.toml:14: account.g.access_token_file: long is too large for a secret; name the file that holds only the secret",
        ]
    );
    // Systemd sets the modes of its credentials itself.
    let folder = fixture.dir.path().to_str().unwrap().to_owned();
    let faults = fixture.set("CREDENTIALS_DIRECTORY", &folder).faults();
    assert_eq!(faults.len(), 5, "{faults:?}");

    let pasted = "[account.a]\ntenant = \"t\"\nclient_id = \"c\"\n";
    for (key, fault) in [
        (
            "client_secret",
            "account.a.client_secret: secrets do not belong in the configuration; put it into a file of mode 0600 and name that with client_secret_file",
        ),
        (
            "client_secret_env",
            "account.a.client_secret_env: there is no environment variable of that name; write the variable's name here, and set it in the daemon's environment",
        ),
    ] {
        check(&format!("{pasted}{key} = \"hunter2\"\n"), &[&format!("calmirror.toml:4: {fault}")]);
    }
    let fixture =
        ConfigFixture::with(&format!("{pasted}client_secret_env = \"SECRET\"\n")).set("SECRET", "");
    assert_eq!(
        fixture.faults(),
        [
            "calmirror.toml:4: account.a.client_secret_env: the variable it names is empty; put the secret into it"
        ]
    );
    let fixture = fixture.set("SECRET", "hunter2");
    let shown = format!("{:?} {:?}", fixture.config(), fixture.config().explained);
    assert!(shown.contains("SECRET") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_managed_identity_needs_neither_tenant_nor_application() {
    let text = "[account.a]\nmanaged_identity = true\n[[window]]\naccount = \"a\"\nmailbox = \"m@contoso.com\"\n";
    let fixture = ConfigFixture::with(text);
    let account = &fixture.config().accounts["a"];
    assert_eq!((&*account.tenant, account.client_id.as_str()), ("", ""));
    let metadata = IdentityEndpoint::MachineMetadata("http://169.254.169.254".to_owned());
    assert_eq!(account.credential, Credential::ManagedIdentity(metadata));
    let id = "00000000-0000-0000-0000-000000000001";
    fixture.write("calmirror.toml", &text.replacen('\n', &format!("\nclient_id = \"{id}\"\n"), 1));
    assert_eq!(fixture.config().accounts["a"].client_id, id);
    fixture.write("calmirror.toml", &text.replace("true", "false"));
    assert_eq!(
        fixture.faults(),
        ["calmirror.toml:2: account.a.managed_identity: false; write true, or remove the line"]
    );
}

#[test]
fn a_command_comes_from_a_file_that_nobody_else_can_change() {
    let text = "[account.a]\naccess_token_command = [\"/bin/sh\", \"-c\", \"echo token\"]\n[[window]]\naccount = \"a\"\nmailbox = \"m@contoso.com\"\n";
    let fixture = ConfigFixture::with(text);
    let command = ["/bin/sh", "-c", "echo token"].map(str::to_owned);
    let account = &fixture.config().accounts["a"];
    assert_eq!(account.credential, Credential::AccessTokenCommand(command.into()));
    // A name without a path is looked up.
    fixture.write("calmirror.toml", &text.replace("/bin/sh", "sh"));
    let fixture = fixture.set("PATH", "/no/such/directory:/bin");
    fixture.config();
    fixture.write("calmirror.toml", text);
    let at = "calmirror.toml:2: account.a.access_token_command:";
    for (from, to, said) in [
        (
            "\"/bin/sh\"",
            "\"/etc/passwd\"",
            "its program is not found, or cannot be run; write its absolute path, and make the file executable",
        ),
        (
            "\"/bin/sh\"",
            "\"no-such-program\"",
            "its program is not found, or cannot be run; write its absolute path, and make the file executable",
        ),
        (
            "\"/bin/sh\"",
            "\"\"",
            "no program; write the program and its arguments, like [\"az\", \"account\", …]",
        ),
        (
            "[\"/bin/sh\", \"-c\", \"echo token\"]",
            "\"sh\"",
            "not a list of strings; write it like [\"one\", \"another\"]",
        ),
    ] {
        fixture.write("calmirror.toml", &text.replace(from, to));
        assert_eq!(fixture.faults(), [format!("{at} {said}")]);
    }
    fixture.secret("calmirror.toml", text, 0o664);
    let said =
        "a command, but others can change calmirror.toml (mode 0664); chmod go-w calmirror.toml";
    assert_eq!(fixture.faults(), [format!("{at} {said}")]);
    fixture.secret("calmirror.toml", text, 0o644);
    let folder = fixture.dir.path();
    for (mode, allowed) in [(0o777, false), (0o1777, true), (0o755, true)] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(fixture.load().is_ok(), allowed, "{mode:o}");
    }
    fixture.write(
        "calmirror.toml",
        &text.replace("access_token_command = [\"/bin/sh\", \"-c\", \"echo token\"]\n", ""),
    );
    let fixture = fixture.set("CALMIRROR__ACCOUNT__A__ACCESS_TOKEN_COMMAND", "sh");
    assert_eq!(
        fixture.faults(),
        [
            "CALMIRROR__ACCOUNT__A__ACCESS_TOKEN_COMMAND: a command outside a configuration file; write it into a configuration file that only its owner can change"
        ]
    );
}

#[test]
fn others_can_change_nothing_on_the_way_to_a_command() {
    let fixture = ConfigFixture::with("");
    let folder = fixture.dir.path();
    let at = |place: &str| folder.join(place);
    for place in ["etc", "home", "usr/lib/bin", "links"] {
        std::fs::create_dir_all(at(place)).unwrap();
    }
    fixture.secret("usr/lib/bin/token", "#!/bin/sh\n", 0o755);
    // links/token -> ../home/token -> {folder}/bin/token, and bin -> usr/lib/bin
    symlink("../home/token", at("links/token")).unwrap();
    symlink(at("bin/token"), at("home/token")).unwrap();
    symlink("usr/lib/bin", at("bin")).unwrap();
    symlink("turn", at("turn")).unwrap();
    let load = |program: &str| {
        let shown = at(program).display().to_string();
        let text = format!(
            "[account.a]\naccess_token_command = [\"{shown}\"]\n[[window]]\naccount = \"a\"\nmailbox = \"m@contoso.com\"\n"
        );
        fixture.write("etc/calmirror.toml", &text);
        let sources = Sources::find(Some(&at("etc/calmirror.toml")), BTreeMap::new());
        match Config::load(&sources, NOW.parse().unwrap()) {
            Ok(_) => String::new(),
            Err(Diagnostics(faults)) => fixture.plain(&faults[0].problem),
        }
    };
    let chmod = |place: &str, mode: u32| {
        std::fs::set_permissions(at(place), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for place in ["etc", "links", "home", "usr", "usr/lib", "usr/lib/bin", "usr/lib/bin/token"] {
        chmod(place, 0o777);
        let said = format!("a command, but others can change {place} (mode 0777)");
        assert_eq!(load("links/token"), said);
        let direct = if ["links", "home"].contains(&place) { "" } else { &said };
        assert_eq!(load("links/../bin/token"), if place == "links" { &said } else { direct });
        assert_eq!(load("usr/lib/bin/token"), direct, "{place}");
        chmod(place, 0o755);
    }
    assert_eq!(load("links/token"), "");
    assert_eq!(load("turn"), "its program is not found, or cannot be run");
    // Only root can give a file away. Root and the owner of the configuration file are trusted.
    if chown(at("home"), Some(12345), None).is_ok() {
        let said = |place: &str| format!("a command, but others can change {place} (owner 12345)");
        assert_eq!(load("links/token"), said("home"));
        chown(at("etc/calmirror.toml"), Some(12345), None).unwrap();
        assert_eq!(load("links/token"), "");
        chown(at("home"), Some(0), None).unwrap();
        chown(at("etc/calmirror.toml"), Some(0), None).unwrap();
        lchown(at("home/token"), Some(12345), None).unwrap();
        assert_eq!(load("links/token"), said("home/token"));
    }
}

#[test]
fn others_can_change_no_directory_above_a_command_or_its_file() {
    let fixture = ConfigFixture::with("");
    let folder = fixture.dir.path();
    let program = folder.join("tools/bin/token");
    fixture.secret("tools/bin/token", "#!/bin/sh\n", 0o755);
    let shown = program.display();
    let text = format!(
        "[account.a]\naccess_token_command = [\"{shown}\"]\n[[window]]\naccount = \"a\"\nmailbox = \"m@contoso.com\"\n"
    );
    fixture.write("etc/conf/calmirror.toml", &text);
    std::fs::create_dir(folder.join("links")).unwrap();
    let link = folder.join("links/calmirror.toml");
    symlink(folder.join("etc/conf/calmirror.toml"), &link).unwrap();
    let load = |file: &str| {
        let sources = Sources::find(Some(&folder.join(file)), BTreeMap::new());
        let faults = match Config::load(&sources, NOW.parse().unwrap()) {
            Ok(_) => return String::new(),
            Err(Diagnostics(faults)) => faults,
        };
        assert_eq!(faults.len(), 1, "{faults:?}");
        fixture.plain(&faults[0].problem)
    };
    let chmod = |place: &str, mode: u32| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.join(place), mode).unwrap();
    };
    for place in ["etc", "etc/conf", "links", "tools", "tools/bin", "tools/bin/token"] {
        let said = format!("a command, but others can change {place} (mode 0777)");
        chmod(place, 0o777);
        assert_eq!(load("links/calmirror.toml"), said);
        assert_eq!(load("etc/conf/calmirror.toml"), if place == "links" { "" } else { &said });
        // Only the owner of an entry of a sticky directory can replace the entry.
        if place != "tools/bin/token" {
            chmod(place, 0o1777);
            assert_eq!(load("links/calmirror.toml"), "", "{place}");
        }
        chmod(place, 0o755);
    }
    // Only root can give a directory away.
    if chown(folder.join("etc"), Some(12345), None).is_ok() {
        chmod("", 0o1777);
        assert_eq!(
            load("etc/conf/calmirror.toml"),
            "a command, but others can change etc (owner 12345)"
        );
    }
}

#[test]
fn an_account_that_a_person_signs_in_to_knows_who_it_was() {
    let text = "[store]\npath = \"store\"\n[account.a]\ntenant = \"contoso.com\"\nclient_id = \"00000000-0000-0000-0000-000000000001\"\ndevice_code = true\n[[window]]\naccount = \"a\"\nmailbox = \"me\"\n";
    let fixture = ConfigFixture::with(text);
    let file = fixture.dir.path().join("store/accounts/a");
    let warned = |fixture: &ConfigFixture| {
        let warnings = fixture.config().warnings;
        warnings.iter().map(|warning| warning.problem.clone()).collect::<Vec<_>>()
    };
    assert_eq!(warned(&fixture), ["no person has signed in yet"]);
    let config = fixture.config();
    assert_eq!(config.accounts["a"].credential, Credential::DeviceCode(file.clone()));
    assert_eq!(config.identity(&config.windows[0]).tenant, "contoso.com".into());
    let mut record = SignInRecord {
        tenant: "contoso.com".to_owned(),
        client_id: "00000000-0000-0000-0000-000000000001".to_owned(),
        user_id: "oid".to_owned(),
        user_name: "alice@contoso.com".to_owned(),
        at: jiff::Timestamp::UNIX_EPOCH,
        reads_groups: false,
        refresh_token: Some("r".into()),
    };
    LockedRecord::try_open(&file).unwrap().write(&record).unwrap();
    assert!(warned(&fixture).is_empty());
    // Another person is another stream of events.
    let config = fixture.config();
    assert_eq!(config.identity(&config.windows[0]).tenant, "contoso.com/oid".into());
    record.refresh_token = None;
    LockedRecord::try_open(&file).unwrap().write(&record).unwrap();
    assert_eq!(warned(&fixture), ["no person is signed in"]);
    assert_eq!(fixture.config().accounts["a"].user.as_deref(), Some("oid"));
    record.client_id = "other".to_owned();
    LockedRecord::try_open(&file).unwrap().write(&record).unwrap();
    assert_eq!(warned(&fixture), ["the sign-in was made for another tenant or application"]);
    assert_eq!(fixture.config().accounts["a"].user, None);
}
