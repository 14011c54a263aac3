//! Tests the simulator over a real socket. The tests wait for bytes, never for time.

use std::future::pending;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const ALICE: &str = "alice@contoso.example";

/// The bytes received until the connection closes or (for endless bodies) there are `enough`.
async fn exchange(simulator: &Simulator, path: &str, enough: usize) -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = simulator.clone().serve(listener, pending());
    let talking = async {
        let mut socket = TcpStream::connect(address).await?;
        let token = simulator.access_token();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let (mut read, mut piece) = (Vec::new(), [0; 4096]);
        while read.len() < enough {
            match socket.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(length) => read.extend_from_slice(&piece[..length]),
            }
        }
        Ok(String::from_utf8_lossy(&read).into_owned())
    };
    tokio::select! {
        () = serving => Ok(String::new()),
        talked = talking => talked,
    }
}

fn path() -> String {
    format!("/v1.0/users/{ALICE}/calendarView/delta?startDateTime={START}&endDateTime={END}")
}

#[tokio::test]
async fn a_page_over_the_socket_links_to_the_same_address() {
    let env = Env::simulated(1, at("2026-03-02T08:00:00Z"));
    let simulator = Simulator::new(SimulatorSettings::new(1, env));
    simulator.add_mailbox(ALICE);
    let text = exchange(&simulator, &path(), usize::MAX).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let link = body["@odata.deltaLink"].as_str().unwrap();
    assert!(link.starts_with("http://127.0.0.1:"), "{link}");
}

#[tokio::test]
async fn faults_of_the_connection_reach_the_client() {
    let simulator = small(1, Behaviour::calm());
    simulator.plan(PlannedFault::once(Fault::Reset));
    assert_eq!(exchange(&simulator, &path(), usize::MAX).await.unwrap(), "");
    simulator.plan(PlannedFault::once(Fault::Truncated));
    let cut = exchange(&simulator, &path(), usize::MAX).await.unwrap();
    let (head, body) = cut.split_once("\r\n\r\n").unwrap();
    let promised: usize = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap();
    assert!(body.len() < promised, "{} of {promised}", body.len());
    simulator.plan(PlannedFault::once(Fault::EndlessBody));
    assert!(exchange(&simulator, &path(), 1 << 20).await.unwrap().len() >= 1 << 20);
}

#[tokio::test]
async fn a_simulation_shows_its_address_and_ends_on_request() {
    use clap::{Args, FromArgMatches};
    let command = SimulateArgs::augment_args(clap::Command::new("simulate"));
    let matches = command
        .try_get_matches_from(["simulate", "--listen", "127.0.0.1:0", "--behaviour", "nasty"])
        .unwrap();
    let args = SimulateArgs::from_arg_matches(&matches).unwrap();
    let env = Env::simulated(1, at("2026-03-02T08:00:00Z"));
    let simulation = Simulation::start(args, env).await.unwrap();
    let base = format!("base_url = \"http://{}/v1.0\"", simulation.address());
    assert!(simulation.banner().contains(&base));
    assert_eq!(simulation.banner().matches("[[window]]").count(), 13);
    simulation.run(async {}).await;
}
