//! Servers with certificates and proxies, on ports of their own. They end with the test.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;

/// Years in which no clock is.
pub(crate) const PAST: (i32, i32) = (2001, 2002);
pub(crate) const FUTURE: (i32, i32) = (2999, 3000);
const ALWAYS: (i32, i32) = (2001, 3000);

/// An authority that no system trusts.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Identity(CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn issue(&self, name: &str) -> Identity {
        self.issue_for(name, ALWAYS)
    }

    /// A certificate for the name that is valid in these years.
    pub(crate) fn issue_for(&self, name: &str, (from, to): (i32, i32)) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity(certificate.into(), key.into())
    }
}

impl Identity {
    fn acceptor(self) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.0], self.1)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What a proxy does with `CONNECT`.
#[derive(Clone, Copy)]
pub(crate) enum ConnectDeed {
    /// Connects to this address, whatever was asked for.
    Tunnel(SocketAddr),
    /// Answers with this status.
    Answer(&'static str),
    /// Closes the connection.
    HangUp,
    /// Never answers.
    Silence,
}

/// A proxy that remembers what it was asked for.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) memory: Arc<ProxyMemory>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
pub(crate) struct ProxyMemory {
    /// `user:password` that is required.
    pub(crate) required: Mutex<Option<String>>,
    heads: Mutex<Vec<String>>,
    pub(crate) open: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn new(deed: ConnectDeed) -> Self {
        Self::serve(deed, None).await
    }

    /// A proxy that speaks TLS itself.
    pub(crate) async fn with_tls(deed: ConnectDeed, identity: Identity) -> Self {
        Self::serve(deed, Some(identity.acceptor())).await
    }

    async fn serve(deed: ConnectDeed, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let memory = Arc::<ProxyMemory>::default();
        let mut tasks = JoinSet::new();
        let shared = memory.clone();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (memory, tls) = (shared.clone(), tls.clone());
                open.spawn(async move {
                    memory.open.fetch_add(1, Ordering::SeqCst);
                    match tls {
                        None => memory.converse(stream, deed).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => memory.converse(stream, deed).await,
                            Err(_) => None,
                        },
                    };
                    memory.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, memory, tasks }
    }

    /// Its address as it is configured.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The hosts that it was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        let heads = self.memory.heads.lock().unwrap();
        let host = |head: &String| head.split(' ').nth(1).unwrap().to_owned();
        heads.iter().map(host).collect()
    }

    /// Ends it, so that nothing listens on its port.
    pub(crate) async fn end(mut self) -> SocketAddr {
        self.tasks.shutdown().await;
        self.address
    }
}

impl ProxyMemory {
    async fn converse<S>(&self, mut stream: S, deed: ConnectDeed) -> Option<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let head = read_head(&mut stream).await?;
        self.heads.lock().unwrap().push(head.clone());
        let required = self.required.lock().unwrap().clone();
        if let Some(required) = required {
            let header = format!("authorization: basic {}", STANDARD.encode(required));
            if !head.to_ascii_lowercase().contains(&header.to_ascii_lowercase()) {
                let refusal = "407 Proxy Authentication Required";
                return write_head(&mut stream, refusal).await;
            }
        }
        match deed {
            ConnectDeed::HangUp => None,
            ConnectDeed::Silence => std::future::pending().await,
            ConnectDeed::Answer(status) => write_head(&mut stream, status).await,
            ConnectDeed::Tunnel(target) => {
                let mut target = TcpStream::connect(target).await.ok()?;
                write_head(&mut stream, "200 OK").await?;
                copy_bidirectional(&mut stream, &mut target).await.ok().map(drop)
            }
        }
    }
}

/// An HTTPS server that answers every request with `body`.
pub(crate) async fn https(identity: Identity, body: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = identity.acceptor();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            open.spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                loop {
                    let head = read_head(&mut stream).await?.to_ascii_lowercase();
                    let length = head.split("content-length: ").nth(1);
                    let length = length.and_then(|rest| rest.split('\r').next()?.parse().ok());
                    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await.ok()?;
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(answer.as_bytes()).await.ok()?;
                }
                #[expect(unreachable_code, reason = "the type of the block")]
                Some(())
            });
        }
    });
    (address, tasks)
}

/// A server that writes this to everybody and hangs up once the client has said something.
pub(crate) async fn blurt(text: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(text.as_bytes()).await.unwrap_or_default();
            let mut hello = [0; 4096];
            stream.read(&mut hello).await.unwrap_or_default();
        }
    });
    (address, tasks)
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn write_head(stream: &mut (impl AsyncWrite + Unpin), status: &str) -> Option<()> {
    let length = if status.starts_with("200") { "" } else { "content-length: 0\r\n" };
    stream.write_all(format!("HTTP/1.1 {status}\r\n{length}\r\n").as_bytes()).await.ok()?;
    stream.flush().await.ok()
}
