//! The typed client of all services.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    caller_token::CallerToken,
    calls::RetryBudget,
    connect::{Destination, Timeouts},
    connection::Connection,
    target::{BadTarget, Target},
    tls::{Authorities, Certificates},
};

mod methods;

/// How long a question about a token may take, unless it is set.
pub const DEFAULT_QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
/// How long any other call may take, unless it is set. The service itself gives up after 10 s,
/// and says more about it than a deadline here.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the revocation of many clients may take at least: the service itself gives up after a
/// minute.
const LEAST_REVOCATION_TIMEOUT: Duration = Duration::from_secs(65);
/// How long a replacement of the whole directory may take, unless it is set.
pub const DEFAULT_REPLACEMENT_TIMEOUT: Duration = Duration::from_mins(2);

/// The longest of all timeouts and intervals: one that is set to be endless is this long, so that
/// it can be added to a time.
pub(crate) const LONGEST: Duration = Duration::from_hours(30 * 24);

/// A connection that is silently dead is found within the two together.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that connecting may take: a question that was sent to a server which cannot be
/// reached has the rest of its time for another one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls the service. It is made for the life of the program, and cheap to clone.
///
/// Each call has a deadline: that of its request ([`tonic::Request::set_timeout`]), or else the
/// client's. Calls that change nothing are repeated, at most twice, if a server is
/// `UNAVAILABLE` or the connection ends; so are [`create_api_client`](Self::create_api_client) and
/// [`rotate_api_client`](Self::rotate_api_client) with a `request_id`. Others are repeated only
/// if they certainly reached no server. A server that names a delay, as one does that is
/// overloaded, is given that time, unless the deadline comes first: then the call fails at once.
///
/// Failed calls are [`tonic::Status`]; [`reason`](crate::reason) says why.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    connection: Connection,
    question_timeout: Duration,
    call_timeout: Duration,
    revocation_timeout: Duration,
    replacement_timeout: Duration,
    budget: RetryBudget,
}

/// Options of a [`Client`]. A timeout is at most 30 days, whatever it is set to.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    addresses: Vec<Result<Target, BadTarget>>,
    token: Option<CallerToken>,
    certificates: Certificates,
    allow_plaintext: bool,
    question_timeout: Duration,
    call_timeout: Duration,
    replacement_timeout: Duration,
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An address cannot be read.
    #[error("the address of the service {0}")]
    Address(#[from] BadTarget),
    /// There is no address.
    #[error("there is no address of the service")]
    NoAddress,
    /// Tokens would be readable on the network.
    #[error(
        "{0} is not encrypted, so that tokens could be read on the network: use https:// or \
         unix:, or ask for it with allow_plaintext"
    )]
    Plaintext(Target),
    /// The service would not know this program.
    #[error(
        "the service would not know this program: it takes the token of a service account, or a \
         certificate"
    )]
    NoCredentials,
}

impl Client {
    /// Begins to make a client of the service at an address: `https://HOST:PORT`, `unix:PATH`
    /// or `http://HOST:PORT`.
    pub fn builder(address: &str) -> ClientBuilder {
        ClientBuilder {
            addresses: vec![address.parse()],
            token: None,
            certificates: Certificates::default(),
            allow_plaintext: false,
            question_timeout: DEFAULT_QUESTION_TIMEOUT,
            call_timeout: DEFAULT_CALL_TIMEOUT,
            replacement_timeout: DEFAULT_REPLACEMENT_TIMEOUT,
        }
    }

    /// What calls are sent over, for the generated clients in [`pb`](crate::pb). Such calls are
    /// authenticated, and have neither this client's deadlines nor its repetitions.
    pub fn connection(&self) -> Connection {
        self.0.connection.clone()
    }

    /// How long a question about a token may take.
    pub(crate) fn question_timeout(&self) -> Duration {
        self.0.question_timeout
    }
}

impl ClientBuilder {
    /// Adds another address. Servers are used in turn, and passed over for a second if they
    /// cannot be reached or are `UNAVAILABLE`.
    #[must_use]
    pub fn address(mut self, address: &str) -> Self {
        self.addresses.push(address.parse());
        self
    }

    /// Authenticates this program by the token of its service account.
    #[must_use]
    pub fn caller_token(mut self, token: CallerToken) -> Self {
        self.token = Some(token);
        self
    }

    /// Trusts the certificate authorities of a PEM file, instead of the system's.
    #[must_use]
    pub fn authorities(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.certificates.authorities = Authorities::File(path.into());
        self
    }

    /// Shows servers a certificate, which can also authenticate this program: the PEM files of
    /// the certificate and of its key. They are read again for each connection.
    #[must_use]
    pub fn identity(
        mut self,
        certificate: impl Into<std::path::PathBuf>,
        key: impl Into<std::path::PathBuf>,
    ) -> Self {
        self.certificates.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Accepts addresses that begin with `http://`. The caller's token, and every token that
    /// is asked about, can then be read on the network. A Unix socket needs no such thing.
    #[must_use]
    pub const fn allow_plaintext(mut self) -> Self {
        self.allow_plaintext = true;
        self
    }

    /// How long a question about a token may take: [`DEFAULT_QUESTION_TIMEOUT`] if not set.
    #[must_use]
    pub const fn question_timeout(mut self, timeout: Duration) -> Self {
        self.question_timeout = timeout;
        self
    }

    /// How long any other call may take: [`DEFAULT_CALL_TIMEOUT`] if not set. Only
    /// [`revoke_api_clients`](Client::revoke_api_clients) may take 65 s at least.
    #[must_use]
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long a replacement of the whole directory may take:
    /// [`DEFAULT_REPLACEMENT_TIMEOUT`] if not set.
    #[must_use]
    pub const fn replacement_timeout(mut self, timeout: Duration) -> Self {
        self.replacement_timeout = timeout;
        self
    }

    /// Makes the client. It does not wait for a connection.
    ///
    /// # Errors
    /// If the options cannot be used.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn build(self) -> Result<Client, BuildError> {
        let targets = self.addresses.into_iter().collect::<Result<Vec<_>, _>>()?;
        if let Some(readable) = targets.iter().find(|target| target.is_readable())
            && !self.allow_plaintext
        {
            return Err(BuildError::Plaintext(readable.clone()));
        }
        if targets.is_empty() {
            return Err(BuildError::NoAddress);
        }
        let has_certificate =
            self.certificates.identity.is_some() && targets.iter().all(Target::is_encrypted);
        if self.token.is_none() && !has_certificate {
            return Err(BuildError::NoCredentials);
        }
        let certificates = Arc::new(self.certificates);
        // Of whatever is asked first, half of the time is left for another server.
        let shortest = self.question_timeout.min(self.call_timeout);
        let destination = |target| Destination {
            target,
            certificates: Arc::clone(&certificates),
            timeouts: Timeouts {
                connect: CONNECT_TIMEOUT.min(shortest / 2),
                ping_interval: PING_INTERVAL,
                ping: PING_TIMEOUT,
            },
        };
        let destinations = targets.into_iter().map(destination).collect();
        Ok(Client(Arc::new(Shared {
            connection: Connection::new(self.token, destinations),
            question_timeout: self.question_timeout.min(LONGEST),
            call_timeout: self.call_timeout.min(LONGEST),
            revocation_timeout: self.call_timeout.clamp(LEAST_REVOCATION_TIMEOUT, LONGEST),
            replacement_timeout: self.replacement_timeout.min(LONGEST),
            budget: RetryBudget::default(),
        })))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.connection).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> CallerToken {
        CallerToken::new("hks_x").unwrap()
    }

    #[tokio::test]
    async fn what_cannot_work_is_refused_at_once() {
        let build = |address: &str| Client::builder(address).caller_token(token()).build();
        assert!(build("https://auth.example.org:443").is_ok());
        assert!(build("unix:/run/auth.sock").is_ok());
        let refused = |built: Result<Client, BuildError>| built.map(|_| ()).unwrap_err();
        let plain = "http://127.0.0.1:50051";
        assert!(matches!(refused(build(plain)), BuildError::Plaintext(_)));
        let allowed = Client::builder(plain)
            .caller_token(token())
            .allow_plaintext();
        assert!(allowed.build().is_ok());
        assert!(matches!(refused(build("auth:1")), BuildError::Address(_)));
        let nobody = Client::builder("https://auth:1").build();
        assert!(matches!(refused(nobody), BuildError::NoCredentials));
        let certified = Client::builder("https://auth:1").identity("a.pem", "a.key");
        assert!(certified.build().is_ok());
        // It would not be shown.
        let unseen = Client::builder("unix:/a.sock").identity("a.pem", "a.key");
        assert!(matches!(refused(unseen.build()), BuildError::NoCredentials));
    }

    /// Each is added to the present time.
    #[tokio::test]
    async fn no_timeout_is_without_an_end() {
        let endless = Client::builder("unix:/run/auth.sock")
            .caller_token(token())
            .question_timeout(Duration::MAX)
            .call_timeout(Duration::MAX)
            .replacement_timeout(Duration::MAX);
        let client = endless.build().unwrap();
        let Shared {
            question_timeout,
            call_timeout,
            revocation_timeout,
            replacement_timeout,
            ..
        } = &*client.0;
        for timeout in [
            question_timeout,
            call_timeout,
            revocation_timeout,
            replacement_timeout,
        ] {
            assert_eq!(*timeout, LONGEST);
        }
        assert!(tokio::time::Instant::now().checked_add(LONGEST).is_some());
    }

    #[tokio::test]
    async fn connecting_leaves_time_for_another_server() {
        let connect = |question, call| {
            let builder = Client::builder("unix:/run/auth.sock").caller_token(token());
            let builder = builder.question_timeout(Duration::from_secs(question));
            let client = builder.call_timeout(Duration::from_secs(call)).build();
            let connection = client.unwrap().connection();
            let mut timeouts = connection.destinations().map(|to| to.timeouts.connect);
            timeouts.next().unwrap()
        };
        assert_eq!(connect(60, 60), CONNECT_TIMEOUT);
        assert_eq!(connect(2, 60), Duration::from_secs(1));
        assert_eq!(connect(60, 2), Duration::from_secs(1));
    }

    /// The service takes up to a minute.
    #[tokio::test]
    async fn a_revocation_of_many_has_the_time_that_it_takes() {
        let timeout = |builder: ClientBuilder| {
            let client = builder.caller_token(token()).build().unwrap();
            client.0.revocation_timeout
        };
        let builder = || Client::builder("unix:/run/auth.sock");
        assert_eq!(timeout(builder()), LEAST_REVOCATION_TIMEOUT);
        let patient = Duration::from_mins(2);
        assert_eq!(timeout(builder().call_timeout(patient)), patient);
    }
}
