//! What each `sslmode` accepts, in front of a real PostgreSQL.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::config::Host;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;

use super::connect::{TlsMode, parse};
use super::schema_fixture::server;
use super::*;

/// An authority that no system trusts.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// TLS with a certificate for a name, in front of the test server; `None` answers that there is no
/// TLS.
async fn front(tls: Option<(&CertifiedIssuer<'static, KeyPair>, &str)>) -> (u16, JoinSet<()>) {
    let acceptor = tls.map(|(authority, name)| {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], key.into())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    let config: tokio_postgres::Config = server().parse().unwrap();
    let Host::Tcp(host) = config.get_hosts()[0].clone() else { panic!("a TCP server") };
    let target = (host, config.get_ports().first().copied().unwrap_or(5432));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            open.spawn(async move {
                let mut request = [0; 8];
                stream.read_exact(&mut request).await.unwrap();
                let mut upstream = TcpStream::connect(target).await.unwrap();
                match acceptor {
                    // A request for TLS.
                    Some(acceptor) if request[4..] == [4, 210, 22, 47] => {
                        stream.write_all(b"S").await.unwrap();
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        copy_bidirectional(&mut stream, &mut upstream).await.ok();
                    }
                    Some(_) => {}
                    None => {
                        stream.write_all(b"N").await.unwrap();
                        copy_bidirectional(&mut stream, &mut upstream).await.ok();
                    }
                }
            });
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn each_mode_accepts_what_it_says_and_nothing_weaker() {
    with_schema(async |fixture| {
        let known = authority();
        let fronts = [
            ("no TLS", front(None).await),
            ("unknown", front(Some((&authority(), "localhost"))).await),
            ("other name", front(Some((&known, "other.example"))).await),
            ("good", front(Some((&known, "localhost"))).await),
        ];
        let user = server().split_once("//").unwrap().1.split('@').next().unwrap().to_owned();
        let database = server().rsplit('/').next().unwrap().to_owned();
        for (mode, has_authority, accepted) in [
            ("sslmode=prefer", true, "no TLS, unknown, other name, good"),
            ("", true, "no TLS, unknown, other name, good"),
            ("sslmode=require", false, "unknown, other name, good"),
            ("sslmode=require", true, "other name, good"),
            ("sslmode=verify-ca", true, "other name, good"),
            ("sslmode=verify-full", true, "good"),
            ("sslmode=verify-full", false, ""),
            ("sslmode=disable", true, ""),
        ] {
            let mut taken = Vec::new();
            for (name, (port, _)) in &fronts {
                let url = format!("postgres://{user}@localhost:{port}/{database}?{mode}");
                let mut settings = fixture.target_at(&url).settings;
                if has_authority {
                    settings.authorities = [known.der().clone()].into();
                }
                match PostgresTarget::new(&settings).open(None).await {
                    Ok(_) => taken.push(*name),
                    Err(failure) => assert!(
                        matches!(
                            failure.kind,
                            SinkErrorKind::Unreachable | SinkErrorKind::Misconfigured
                        ),
                        "{failure}"
                    ),
                }
            }
            assert_eq!(taken.join(", "), accepted, "{mode} {has_authority}");
        }
    })
    .await;
}

#[test]
fn without_a_mode_only_this_machine_is_trusted() {
    for (url, mode) in [
        ("postgres://u@localhost/d", TlsMode::Prefer),
        ("postgres://u@127.0.0.1,[::1]/d", TlsMode::Prefer),
        ("postgres://u@%2Frun%2Fpostgresql/d", TlsMode::Prefer),
        ("postgresql://u@db.example/d", TlsMode::VerifyFull),
        ("postgres://u@localhost,db.example/d", TlsMode::VerifyFull),
        ("postgres://u@localhost/d?hostaddr=203.0.113.1", TlsMode::VerifyFull),
        ("postgres://u@db.example/d?%73slmode=disable", TlsMode::VerifyFull),
        ("postgres://u@db.example/d?connect_timeout=5&sslmode=require", TlsMode::Require),
    ] {
        assert_eq!(parse(url).map(|(_, mode)| mode), Ok(mode), "{url}");
    }
}

#[test]
fn a_url_that_cannot_be_used_is_named_before_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.url");
    for (url, problem) in [
        ("postgres://canary:canary@db.example/canary", None),
        ("postgres://canary:canary@db.example/?sslmode=canary", Some("sslmode in the URL")),
        ("postgres://canary:canary@db.example/?canary=1", Some("is not valid, or has a parameter")),
        ("postgres://db.example/canary", Some("needs a user and a host")),
        ("mysql://canary:canary@db.example", Some("has to begin with postgres://")),
        ("\n", Some("is empty")),
    ] {
        std::fs::write(&file, url).unwrap();
        for url in [SinkSecret::Inline(url.into()), SinkSecret::File(file.clone())] {
            let schema = "calmirror".into();
            let problems = PostgresSettings { url, schema, authorities: [].into() }.problems();
            let problems: Vec<_> = problems.into_iter().map(|problem| problem.message).collect();
            assert_eq!(problems.len(), usize::from(problem.is_some()), "{problems:?}");
            assert!(problems.iter().all(|found| found.contains(problem.unwrap())), "{problems:?}");
            assert!(!format!("{problems:?}").contains("canary"), "{problems:?}");
        }
    }
}
