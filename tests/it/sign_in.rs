//! The ways to sign in, by the real binary against the simulator.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use calmirror::mirror::status::{WindowState, WindowStatus};
use calmirror::mirror::window::{Completion, Edges};
use calmirror::simulator::{Application, ManagedIdentities};
use serde_json::{Value, json};

use crate::compare::{EventsById, assert_same, truth};
use crate::process::{CommandOutput, DaemonFixture, DaemonProcess, eventually};

/// The credential of the fixture's account.
const SECRET: &str = "client_secret_file = \"secret\"\n";

/// The configuration with another credential and one window.
pub(crate) fn configure(fixture: &DaemonFixture, credential: &str, window: &str) {
    let text = fixture.preamble().replace(SECRET, credential);
    fixture.configure(&format!("{text}[[window]]\nname = \"w\"\naccount = \"contoso\"\n{window}"));
}

pub(crate) async fn becomes(fixture: &DaemonFixture, wanted: WindowState) -> WindowStatus {
    eventually("the window has the state", async || {
        let status = fixture.api.window("w").await;
        (status.state == wanted).then_some(status)
    })
    .await
}

/// Compares the settled window with the mailbox.
async fn assert_mirrors(fixture: &DaemonFixture, mailbox: &str) {
    let WindowStatus { start, end, .. } = fixture.settle("w").await;
    let shown = fixture.api.events("w").await;
    assert!(shown.len() > 50, "{}", shown.len());
    assert_same(mailbox, &shown, &real(fixture, mailbox, Edges { start, end }).await);
}

async fn real(fixture: &DaemonFixture, mailbox: &str, edges: Edges) -> EventsById {
    truth(&fixture.simulator, mailbox, None, edges, Completion::Master).await
}

/// `calmirror login`, while a person enters the printed code; `None` declines.
pub(crate) async fn login(
    fixture: &DaemonFixture,
    more: &[&str],
    person: Option<&str>,
) -> CommandOutput {
    let out = fixture.path("login");
    let mut command = fixture.command();
    command.args(["login", "contoso"]).args(more);
    let file = fs::File::create(&out).unwrap();
    let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
    let mut login = DaemonProcess::of(child, out.clone());
    let code = eventually("a code is printed", async || {
        let text = fs::read_to_string(&out).unwrap();
        let (_, rest) = text.split_once("enter the code ")?;
        Some(rest.split(';').next()?.to_owned())
    })
    .await;
    match person {
        Some(person) => assert!(fixture.simulator.enter_user_code(&code, person), "{code}"),
        None => assert!(fixture.simulator.decline_user_code(&code), "{code}"),
    }
    let status = login.ended().await;
    let text = fs::read_to_string(&out).unwrap();
    CommandOutput { code: status.code(), out: text, err: String::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_by_device_code() {
    let fixture = DaemonFixture::new(140, &[]).await;
    for name in ["alice", "bob"] {
        fixture.populate(name);
    }
    configure(&fixture, "device_code = true\n", "mailbox = \"me\"\n");
    let daemon = fixture.run().await;
    let waiting = becomes(&fixture, WindowState::SignInRequired).await;
    let message = waiting.last_error.unwrap().message;
    assert!(message.contains("calmirror login contoso"), "{message}");

    let declined = login(&fixture, &[], None).await;
    assert_eq!(declined.code, Some(77), "{declined:?}");
    assert!(declined.out.contains("sign-in failed: the sign-in was declined"), "{declined:?}");
    let signed_in = login(&fixture, &[], Some("alice@contoso.com")).await;
    assert_eq!(signed_in.code, Some(0), "{signed_in:?}");
    assert!(signed_in.out.starts_with("To sign in to account contoso, open http"), "{signed_in:?}");
    assert!(signed_in.out.ends_with("signed in as alice@contoso.com\n"), "{signed_in:?}");
    assert_mirrors(&fixture, "alice@contoso.com").await;

    // The sign-in outlives the process, and each access token.
    daemon.stop().await;
    let daemon = fixture.run().await;
    fixture.simulator.expire_tokens();
    assert_mirrors(&fixture, "alice@contoso.com").await;
    let record = fixture.path("store/accounts/contoso");
    let mode = fs::metadata(&record).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    let refused = login(&fixture, &[], Some("bob@contoso.com")).await;
    assert_eq!(refused.code, Some(77), "{refused:?}");
    assert!(refused.out.contains("use --replace"), "{refused:?}");
    assert_mirrors(&fixture, "alice@contoso.com").await;
    let replaced = login(&fixture, &["--replace"], Some("bob@contoso.com")).await;
    assert_eq!(replaced.code, Some(0), "{replaced:?}");
    assert_mirrors(&fixture, "bob@contoso.com").await;

    let out = fixture.cli(&["logout", "contoso"]).await;
    let said = (out.code, out.out.as_str());
    assert_eq!(said, (Some(0), "signed out bob@contoso.com; its events stay\n"));
    becomes(&fixture, WindowState::SignInRequired).await;
    assert!(!fixture.api.events("w").await.is_empty());
    let log = daemon.log();
    assert!(!log.contains("refresh_token") && !log.contains("eyJ"), "{log}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_calendar_whose_links_are_forbidden_is_listed() {
    let fixture = DaemonFixture::new(141, &[]).await;
    for name in ["alice", "bob"] {
        fixture.populate(name);
    }
    fixture.simulator.share_calendar("bob@contoso.com", "alice@contoso.com", true);
    fixture.simulator.set_shared_links(false);
    configure(&fixture, "device_code = true\n", "mailbox = \"bob@contoso.com\"\n");
    let daemon = fixture.run().await;
    let signed_in = login(&fixture, &[], Some("alice@contoso.com")).await;
    assert_eq!(signed_in.code, Some(0), "{signed_in:?}");
    let WindowStatus { start, end, .. } = fixture.settle("w").await;
    let shown = fixture.api.events("w").await;
    let real = real(&fixture, "bob@contoso.com", Edges { start, end }).await;
    // Masters of private series cannot be fetched (fact 180), so their instances are as listed.
    let subjects = |events: &EventsById| -> Vec<(String, Value)> {
        events.iter().map(|(id, event)| (id.clone(), event["subject"].clone())).collect()
    };
    assert!(shown.len() > 50);
    assert_eq!(subjects(&shown), subjects(&real));
    let window = fixture.api.get("/v1/windows/w").await.json();
    assert_eq!(window["segments"][0]["mode"], "snapshot");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_signs_in_with_its_identity() {
    let fixture = DaemonFixture::new(142, &[]).await;
    let alice = fixture.populate("alice");
    let text = fixture.preamble();
    let base = text.lines().find_map(|line| line.strip_prefix("login_url = \"")).unwrap();
    let base = base.trim_end_matches('"').to_owned();
    let window = format!("mailbox = \"{alice}\"\n");
    let without = "tenant = \"00000000-0000-0000-0000-000000000000\"\nclient_id = \"11111111-1111-1111-1111-111111111111\"\n";
    let system = text.replace(without, "").replace(SECRET, "managed_identity = true\n");
    let window = format!("[[window]]\nname = \"w\"\naccount = \"contoso\"\n{window}");
    fixture.configure(&format!("{system}{window}"));
    let identities = |system_assigned, user: &[&str]| ManagedIdentities {
        system_assigned,
        user_assigned: Some(user.iter().map(|id| (*id).to_owned()).collect()),
        ..ManagedIdentities::default()
    };
    fixture.simulator.set_managed_identities(identities(false, &[]));
    let metadata = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", base.as_str())];
    let daemon = fixture.run_in(&metadata).await;
    let waiting = becomes(&fixture, WindowState::SignInRequired).await;
    let message = waiting.last_error.unwrap().message;
    assert!(message.contains("system-assigned identity"), "{message}");
    fixture.simulator.set_managed_identities(identities(true, &[]));
    assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
    assert_mirrors(&fixture, &alice).await;
    daemon.stop().await;

    let id = "11111111-1111-1111-1111-111111111111";
    fixture.simulator.set_managed_identities(identities(false, &[id]));
    let user = text.replace(without, without.split_once('\n').unwrap().1);
    let user = user.replace(SECRET, "managed_identity = true\n");
    fixture.configure(&format!("{user}{window}"));
    let endpoint = format!("{base}/msi/token");
    let app_service =
        [("IDENTITY_ENDPOINT", &*endpoint), ("IDENTITY_HEADER", "simulated-identity-header")];
    let daemon = fixture.run_in(&app_service).await;
    assert_mirrors(&fixture, &alice).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_prints_the_access_token() {
    let fixture = DaemonFixture::new(143, &[]).await;
    let alice = fixture.populate("alice");
    let token = fixture.path("token");
    let command =
        format!("access_token_command = [\"/bin/sh\", \"-c\", \"cat {}\"]\n", token.display());
    configure(&fixture, &command, &format!("mailbox = \"{alice}\"\n"));
    let daemon = fixture.run().await;
    let waiting = becomes(&fixture, WindowState::SignInRequired).await;
    let message = waiting.last_error.unwrap().message;
    assert!(
        message.contains("access_token_command /bin/sh ended with exit status: 1"),
        "{message}"
    );
    let azure = |token: String| json!({"accessToken": token, "expiresOn": "x"}).to_string();
    fs::write(&token, azure(fixture.simulator.access_token())).unwrap();
    assert_eq!(fixture.cli(&["reload"]).await.code, Some(0));
    assert_mirrors(&fixture, &alice).await;
    // A token that Graph refuses makes the command run again.
    fixture.simulator.expire_tokens();
    fs::write(&token, fixture.simulator.access_token()).unwrap();
    assert_mirrors(&fixture, &alice).await;
    daemon.stop().await;
}

/// `calmirror check --online --json`: the exit code and the only account.
async fn online(fixture: &DaemonFixture) -> (Option<i32>, Value) {
    let checked = fixture.cli(&["check", "--online", "--json"]).await;
    let told: Value = serde_json::from_str(&checked.out).unwrap();
    (checked.code, told["accounts"][0].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_online_says_what_an_administrator_has_to_grant() {
    let fixture = DaemonFixture::new(144, &["alice"]).await;
    let (code, account) = online(&fixture).await;
    assert_eq!((code, &account["ok"]), (Some(0), &json!(true)));
    let text = fixture.cli(&["check", "--online"]).await.out;
    let read = "account contoso: signed in, read a page of alice@contoso.com (default)\n";
    assert!(text.ends_with(read), "{text}");

    fixture.simulator.set_permissions(Some(&["User.Read.All"]));
    let (code, account) = online(&fixture).await;
    assert_eq!((code, &account["fault"]["status"]), (Some(77), &json!(403)));
    let remedy = account["fault"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("application permission Calendars.Read"), "{remedy}");
    fixture.simulator.set_permissions(None);

    let application = Application {
        tenant: "00000000-0000-0000-0000-000000000000".to_owned(),
        client_id: "11111111-1111-1111-1111-111111111111".to_owned(),
        client_secret: Some("another".to_owned()),
        certificate: None,
        federation: None,
    };
    fixture.simulator.set_applications(vec![application]);
    let checked = fixture.cli(&["check", "--online"]).await;
    assert_eq!(checked.code, Some(77));
    let line = checked.out.lines().last().unwrap();
    assert_eq!(
        line,
        "account contoso: sign-in was refused (invalid_client, AADSTS7000215); client_secret_file holds a wrong secret; put the secret's value there, not its id"
    );
}
