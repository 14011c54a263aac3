//! `calmirror simulate`: runs the simulator alone, for development.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use crate::env::Env;

use super::{Behaviour, Faults, Simulator, SimulatorSettings};

/// The options of `calmirror simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// Address to listen on; port 0 picks a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,
    /// Seed of all random choices; the same seed gives the same organisation
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of people with a mailbox
    #[arg(long, default_value_t = 10)]
    pub people: usize,
    /// Number of rooms with a mailbox
    #[arg(long, default_value_t = 3)]
    pub rooms: usize,
    /// Interval between random changes to calendars; 0s for none
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    pub mutate_every: Duration,
    /// Probability that a request fails, from 0.0 to 1.0
    #[arg(long, value_name = "PROBABILITY", default_value_t = 0.0, value_parser = probability)]
    pub faults: f64,
    /// Variant of Graph's behaviour: calm, nasty, a number, or a name such as
    /// last-tombstones-split-bare
    #[arg(long, value_name = "NAME", default_value = "calm", value_parser = behaviour)]
    pub behaviour: Behaviour,
    /// Maximum latency of a response
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub latency: Duration,
}

fn probability(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|p| (0.0..=1.0).contains(p))
        .ok_or_else(|| "a probability is a number from 0.0 to 1.0".to_owned())
}

fn behaviour(name: &str) -> Result<Behaviour, String> {
    Behaviour::by_name(name).ok_or_else(|| {
        "expected calm, nasty, a number, or {first|last|absent}-{whole|tombstones|changed}-\
         {glued|split}-{full|bare}"
            .to_owned()
    })
}

/// A simulator that is bound to its address, but does not answer yet.
#[derive(Debug)]
pub struct Simulation {
    listener: TcpListener,
    address: SocketAddr,
    mailboxes: Vec<String>,
    mutate_every: Duration,
    simulator: Simulator,
}

impl Simulation {
    /// Binds the address and creates the organisation.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(args: SimulateArgs, env: Env) -> io::Result<Self> {
        let listener = TcpListener::bind(args.listen).await?;
        let address = listener.local_addr()?;
        let settings = SimulatorSettings {
            behaviour: args.behaviour,
            latency: args.latency / 4..args.latency,
            ..SimulatorSettings::new(args.seed, env.clone())
        };
        let simulator = Simulator::new(settings);
        let mailboxes = simulator.organisation(args.people, args.rooms, env.now());
        if args.faults > 0.0 {
            simulator.set_faults(Faults::by_rate(args.faults));
        }
        Ok(Self { listener, address, mailboxes, mutate_every: args.mutate_every, simulator })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The simulator that it serves.
    pub fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// The text to print at the start: the address, and a configuration that mirrors it.
    pub fn banner(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            // It listens on every interface; a client on this machine uses loopback.
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let mut banner = format!(
            "# A simulated Microsoft Graph answers at http://{address}/v1.0\n\
             # Its control plane is at http://{address}/control/ (docs/simulator.md).\n\
             # A configuration that mirrors it (any client secret is accepted):\n\n\
             [graph]\n\
             base_url = \"http://{address}/v1.0\"\n\
             login_url = \"http://{address}\"\n\n\
             [account.simulated]\n\
             tenant = \"00000000-0000-0000-0000-000000000000\"\n\
             client_id = \"11111111-1111-1111-1111-111111111111\"\n\
             client_secret_env = \"SIMULATED_SECRET\"\n"
        );
        for mailbox in &self.mailboxes {
            banner.push_str(&format!(
                "\n[[window]]\naccount = \"simulated\"\nmailbox = \"{mailbox}\"\ninterval = \"10s\"\n"
            ));
        }
        banner
    }

    /// Serves requests and makes random changes until `shutdown` resolves.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, simulator, mutate_every, .. } = self;
        let living = simulator.clone();
        let life = async {
            if mutate_every.is_zero() {
                std::future::pending::<()>().await;
            }
            loop {
                tokio::time::sleep(mutate_every).await;
                if let Some(mutation) = living.mutate_randomly() {
                    let mutation = json!(mutation);
                    tracing::debug!(edit = mutation["edit"].as_str(), "calendar changed");
                }
            }
        };
        tokio::select! {
            () = simulator.serve(listener, shutdown) => {}
            () = life => {}
        }
    }
}
