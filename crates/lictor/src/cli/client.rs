//! Reaching an agent: the flags and variables that all commands with a client share, and calls that wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use lictor_api::client::address::{Address, Scheme};
use lictor_api::client::config::{Consistency, TlsFiles};
use lictor_api::client::{Answer, Client, Config, Encrypt, Encrypting, Error, Read, Request, Stream};
use lictor_tls::dialer::{Dialer, Settings, Verify};
use serde::de::DeserializeOwned;

use crate::config::flags::{Flag, Parsed};
use crate::config::report::cause;

/// The flags.
pub(crate) const FLAGS: [Flag; 10] = [
    Flag::text("ca-file", "Certificates to trust when speaking TLS with the agent (CONSUL_CACERT)"),
    Flag::text("ca-path", "Folder of such files (CONSUL_CAPATH)"),
    Flag::text("client-cert", "Own certificate for the agent (CONSUL_CLIENT_CERT)"),
    Flag::text("client-key", "Its key (CONSUL_CLIENT_KEY)"),
    Flag::text("datacenter", "Datacenter of the request; by default the agent's"),
    Flag::text(
        "http-addr",
        "Address of the agent: host:port, http://…, https://… or unix:///path (CONSUL_HTTP_ADDR); by default \
         http://127.0.0.1:8500",
    ),
    Flag::bool("stale", "Let any server answer from what it has"),
    Flag::text("tls-server-name", "Name that the agent's certificate must have (CONSUL_TLS_SERVER_NAME)"),
    Flag::text("token", "ACL token of the request (CONSUL_HTTP_TOKEN); by default the agent's own"),
    Flag::text("token-file", "File that holds the token instead (CONSUL_HTTP_TOKEN_FILE)"),
];

/// Refuses variables that are meant for us and cannot be read: passed over, they would lead to another agent, or to another
/// token's rights. A value may be a secret and is not shown.
pub(crate) fn readable_environment() -> Result<()> {
    for (name, value) in std::env::vars_os() {
        if let Some(name) = name.to_str().filter(|name| name.starts_with("CONSUL_"))
            && value.to_str().is_none()
        {
            bail!("{name}: the value is not UTF-8; set it anew, or unset it");
        }
    }
    Ok(())
}

/// How to reach the agent, by flags over the environment.
pub(crate) fn config(flags: &Parsed) -> Result<Config> {
    readable_environment()?;
    let mut config = Config::from_env(|name| std::env::var(name).ok()).map_err(|error| match error {
        Error::Address(text) => anyhow!("CONSUL_HTTP_ADDR: {}", Error::Address(without_credentials(&text))),
        other => anyhow!(other),
    })?;
    if let Some(text) = flags.text("http-addr").filter(|text| !text.is_empty()) {
        config.address = Address::parse(text, scheme_of(&config.address))
            .map_err(|_| anyhow!("-http-addr: {}", Error::Address(without_credentials(text))))?;
    }
    let path = |name: &str| flags.text(name).map(std::path::PathBuf::from);
    if let Some(token) = flags.text("token") {
        config.token = token.to_owned();
    } else if let Some(file) = token_file(flags.text("token-file"), |name| std::env::var(name).ok()) {
        config.token = read_token(&file)?;
    }
    // Nothing else could be sent in a header; what is pasted or written by a command often has more than the secret.
    if config.token.contains(|sign: char| sign.is_whitespace() || sign.is_control()) {
        bail!(
            "the token has blanks or line ends in it: give its secret alone (-token, -token-file, CONSUL_HTTP_TOKEN, \
             CONSUL_HTTP_TOKEN_FILE)"
        );
    }
    if let Some(datacenter) = flags.text("datacenter") {
        config.datacenter = datacenter.to_owned();
    }
    if flags.is_set("stale") {
        config.consistency = Consistency::Stale;
    }
    let tls = &mut config.tls;
    tls.ca_file = path("ca-file").or(tls.ca_file.take());
    tls.ca_path = path("ca-path").or(tls.ca_path.take());
    tls.client_cert = path("client-cert").or(tls.client_cert.take());
    tls.client_key = path("client-key").or(tls.client_key.take());
    tls.server_name = flags.text("tls-server-name").map(str::to_owned).or(tls.server_name.take());
    encrypt(&mut config)?;
    Ok(config)
}

/// The file that holds the token: a flag over the environment.
fn token_file(flag: Option<&str>, get: impl Fn(&str) -> Option<String>) -> Option<String> {
    flag.map(str::to_owned).or_else(|| get("CONSUL_HTTP_TOKEN_FILE")).filter(|path| !path.is_empty())
}

fn read_token(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the token file {path} (-token-file, CONSUL_HTTP_TOKEN_FILE)"))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(anyhow!("the token file {path} is empty (-token-file, CONSUL_HTTP_TOKEN_FILE)"));
    }
    Ok(token.to_owned())
}

/// Gives a configuration what an encrypted address needs.
pub(crate) fn encrypt(config: &mut Config) -> Result<()> {
    if scheme_of(&config.address) == Scheme::Https {
        config.encrypt = Some(Arc::new(Https(dialer(&config.tls)?)));
    }
    Ok(())
}

/// What an address without a scheme means: the environment may have chosen encryption.
fn scheme_of(address: &Address) -> Scheme {
    match address {
        Address::Tcp { scheme, .. } => *scheme,
        Address::Unix(_) => Scheme::Http,
    }
}

/// An address as it may be shown: somebody may have written a password into it.
fn without_credentials(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((front, rest)) => {
            let scheme = front.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            format!("{scheme}…@{rest}")
        }
        None => text.to_owned(),
    }
}

fn dialer(files: &TlsFiles) -> Result<Dialer> {
    let certificate = match (&files.client_cert, &files.client_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        _ => return Err(anyhow!("a client certificate needs both -client-cert and -client-key")),
    };
    let settings = Settings {
        ca_file: files.ca_file.clone(),
        ca_path: files.ca_path.clone(),
        certificate,
        server_name: files.server_name.clone(),
        verify: if files.verify { Verify::Server } else { Verify::Nothing },
    };
    Dialer::load(&settings).context("TLS to the agent")
}

/// Encrypts the client's connections.
struct Https(Dialer);

impl Encrypt for Https {
    fn encrypt<'a>(&'a self, stream: tokio::net::TcpStream, host: &'a str) -> Encrypting<'a> {
        Box::pin(async move {
            let stream: Pin<Box<dyn Stream>> = Box::pin(self.0.connect(stream, host).await?);
            Ok(stream)
        })
    }
}

/// An agent that a command talks to: calls wait for their answer.
pub(crate) struct Agent {
    runtime: tokio::runtime::Runtime,
    client: Arc<Client>,
}

impl Agent {
    /// By flags over the environment. Nothing is sent yet.
    pub(crate) fn reach(flags: &Parsed) -> Result<Agent> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        let client = config(flags).context("Error connecting to Consul agent")?;
        Ok(Agent { runtime, client: Arc::new(Client::new(client)) })
    }

    /// Reads a value.
    pub(crate) fn read<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        Ok(self.read_at(request)?.value)
    }

    /// Reads a value and where in the history it stands.
    pub(crate) fn read_at<T: DeserializeOwned>(&self, request: Request) -> Result<Read<T>> {
        self.wait(read(&self.client, request))
    }

    /// Sends a request whose answer has nothing to say but that it worked.
    pub(crate) fn tell(&self, request: Request) -> Result<()> {
        self.call(request).map(drop)
    }

    /// Sends a request; an answer that says no is an error.
    pub(crate) fn call(&self, request: Request) -> Result<Answer> {
        self.wait(call(&self.client, request))
    }

    /// Reads a value that may not be there: 404 is none.
    pub(crate) fn find<T: DeserializeOwned>(&self, request: Request) -> Result<Option<T>> {
        match self.read(request) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for anything.
    pub(crate) fn wait<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(work)
    }

    /// The client, for work that does several things at once.
    pub(crate) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }
}

/// Reads a value; errors say what was asked, in the words the original's users know.
pub(crate) async fn read<T: DeserializeOwned>(client: &Client, request: Request) -> Result<Read<T>> {
    let answer = call(client, request).await?;
    let value = answer.json().context("cannot read the agent's answer")?;
    Ok(Read { value, index: answer.index, content_hash: answer.content_hash })
}

/// Sends a request; an answer that says no is an error.
pub(crate) async fn call(client: &Client, request: Request) -> Result<Answer> {
    let asked = asked(client, &request);
    client.send(request).await.and_then(Answer::success).map_err(|error| explained(client, &asked, error))
}

/// `Get http://127.0.0.1:8500/v1/agent/self`: a request as errors name it.
pub(crate) fn asked(client: &Client, request: &Request) -> String {
    let (method, target) = request.line();
    let (first, rest) = method.split_at(1);
    let address = match &client.config().address {
        Address::Unix(path) => format!("http+unix://{}", path.display()),
        tcp => tcp.to_string(),
    };
    format!("{first}{} {address}{target}", rest.to_ascii_lowercase())
}

/// Why a request has no usable answer, in the words the original's users know.
#[derive(Debug)]
struct Failed {
    words: String,
    error: Error,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

// Without a source: the words say it all.
impl std::error::Error for Failed {}

/// What to do about a connection that failed with these words; empty where they say it themselves.
pub(crate) fn remedy(why: &str) -> &'static str {
    const KNOWN: [(&str, &str); 6] = [
        ("CaUsedAsEndEntity", CA_AS_SERVER),
        ("UnknownIssuer", ": name the CA of the agent's certificate: -ca-file or CONSUL_CACERT"),
        (
            "CertificateRequired",
            ": the agent wants a client's certificate: -client-cert and -client-key, or CONSUL_CLIENT_CERT and \
             CONSUL_CLIENT_KEY",
        ),
        ("invalid HTTP version", ": if that is a port of HTTPS, write https:// or set CONSUL_HTTP_SSL=true"),
        ("tls handshake eof", NO_TLS),
        ("InvalidContentType", NO_TLS),
    ];
    KNOWN.iter().find(|(words, _)| why.contains(words)).map_or("", |(_, remedy)| remedy)
}

/// What to do where no TLS is spoken: a server ends the connection, or answers in plain text.
const NO_TLS: &str = ": if that is a port of HTTP, write http:// or leave CONSUL_HTTP_SSL out";

/// What to do about a server that shows a certificate of a CA, as `openssl req -x509` makes when nothing else is asked of it.
const CA_AS_SERVER: &str = ": the agent's certificate is that of a CA, which may sign others and not be shown by a server; make \
                            one with `lictor tls cert create -server`, or a self-signed one with `openssl req -x509 … -addext \
                            basicConstraints=critical,CA:FALSE`";

/// An error with what was asked, where the text does not say so by itself.
pub(crate) fn explained(client: &Client, asked: &str, error: Error) -> anyhow::Error {
    let words = match &error {
        Error::Connect { source, .. } => {
            let place = match &client.config().address {
                Address::Tcp { host, port, .. } if host.contains(':') => format!("dial tcp [{host}]:{port}"),
                Address::Tcp { host, port, .. } => format!("dial tcp {host}:{port}"),
                Address::Unix(path) => format!("dial unix {}", path.display()),
            };
            // What the kernel refused is the connection; anything else (a name, a certificate) says what it is.
            let call = if source.raw_os_error().is_some() { "connect: " } else { "" };
            let why = cause(source);
            format!("{asked}: {place}: {call}{why}{}", remedy(&why))
        }
        Error::Transport(_) | Error::Timeout(_) => {
            let why = lictor_agent::error::chain(&error);
            format!("{asked}: {why}{}", remedy(&why))
        }
        _ => lictor_agent::error::chain(&error),
    };
    anyhow!(Failed { words, error })
}

/// Whether an agent answered that there is no such thing.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failed>().is_some_and(|failed| failed.error.is_not_found())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        assert_eq!(without_credentials("http://u:p@host:1"), "http://…@host:1");
        assert_eq!(without_credentials("u:p@host"), "…@host");
        assert_eq!(without_credentials("host:1"), "host:1");
    }
}
