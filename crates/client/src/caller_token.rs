//! The token by which the service knows this program.

use std::{
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hitkeep_auth_domain::token::TokenKind;
use http::HeaderValue;
use tokio::{task::spawn_blocking, time::Instant};

/// Longer than any token.
const MAX_FILE_BYTES: u64 = 4096;
/// The scheme of the header.
const BEARER: &str = "Bearer ";
/// How often a file is read again.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// The token of a service account, which authenticates this program. Nothing prints it.
///
/// A token from a file is read again every second while calls are made, so that a replaced one
/// is used without a restart. While the file cannot be read, or holds no token, the one that
/// was read last is used.
#[derive(Clone)]
pub struct CallerToken(Source);

#[derive(Clone)]
enum Source {
    Value(HeaderValue),
    File(Arc<TokenFile>),
}

struct TokenFile {
    path: PathBuf,
    read: Mutex<LastRead>,
}

struct LastRead {
    header: HeaderValue,
    at: Instant,
}

/// The text cannot be the token of a service account. The text is not repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadCallerToken {
    /// There is no text.
    #[error("the caller's token is empty")]
    Empty,
    /// It is another kind of token.
    #[error(
        "the token of an API client is given as the caller's: it takes one of a service account, \
         which begins with hks_"
    )]
    ApiClient,
    /// It cannot be a token.
    #[error("the caller's token has characters that no token has")]
    Characters,
    /// The file cannot be read.
    #[error("the file of the caller's token, {}, cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// The file is too large for a token.
    #[error("the file of the caller's token, {}, is too large for one", .0.display())]
    TooLarge(PathBuf),
}

impl CallerToken {
    /// A token that does not change. White space around it does not matter.
    ///
    /// # Errors
    /// If the text is not the token of a service account.
    pub fn new(token: &str) -> Result<Self, BadCallerToken> {
        header(token).map(|header| Self(Source::Value(header)))
    }

    /// A token from a file that holds nothing else. Blocks on the file system.
    ///
    /// # Errors
    /// If there is no such token in it right now.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, BadCallerToken> {
        let path = path.into();
        let header = read(&path)?;
        let at = Instant::now();
        let read = Mutex::new(LastRead { header, at });
        Ok(Self(Source::File(Arc::new(TokenFile { path, read }))))
    }

    /// The value of `authorization`.
    pub(crate) async fn header(&self) -> HeaderValue {
        let file = match &self.0 {
            Source::Value(header) => return header.clone(),
            Source::File(file) => file,
        };
        let known = {
            let mut last = file.lock();
            if last.at.elapsed() < RELOAD_INTERVAL {
                return last.header.clone();
            }
            // Others go on with what is known in the meantime.
            last.at = Instant::now();
            last.header.clone()
        };
        let again = Arc::clone(file);
        let read = spawn_blocking(move || read(&again.path)).await;
        match read {
            Ok(Ok(header)) => {
                file.lock().header = header.clone();
                header
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the caller's token that was read last is used");
                known
            }
            // The runtime ends.
            Err(_) => known,
        }
    }
}

impl CallerToken {
    /// The token itself, of a file that is read again. Blocks on the file system.
    pub(crate) fn read_again(&self) -> String {
        let header = match &self.0 {
            Source::Value(header) => header.clone(),
            Source::File(file) => {
                let known = || file.lock().header.clone();
                read(&file.path).unwrap_or_else(|_| known())
            }
        };
        let text = header.to_str().unwrap_or_default();
        text.strip_prefix(BEARER).unwrap_or_default().to_owned()
    }
}

impl TokenFile {
    fn lock(&self) -> MutexGuard<'_, LastRead> {
        // No holder panics.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CallerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerToken")
    }
}

fn read(path: &Path) -> Result<HeaderValue, BadCallerToken> {
    let unreadable = |error| BadCallerToken::Unreadable(path.to_owned(), error);
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let bytes = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    if bytes.map_err(unreadable)? as u64 > MAX_FILE_BYTES {
        return Err(BadCallerToken::TooLarge(path.to_owned()));
    }
    header(&text)
}

fn header(token: &str) -> Result<HeaderValue, BadCallerToken> {
    let token = token.trim();
    if token.is_empty() {
        return Err(BadCallerToken::Empty);
    }
    let begins_with = |kind: TokenKind| {
        let rest = token.strip_prefix(kind.as_str());
        rest.is_some_and(|rest| rest.starts_with('_'))
    };
    if begins_with(TokenKind::Personal) || begins_with(TokenKind::Team) {
        return Err(BadCallerToken::ApiClient);
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadCallerToken::Characters);
    }
    let header = HeaderValue::try_from(format!("{BEARER}{token}"));
    let mut header = header.or(Err(BadCallerToken::Characters))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_a_service_accounts_token_is_taken() {
        let taken = |text| CallerToken::new(text).map(|_| ());
        assert!(taken(" hks_secret\n").is_ok());
        assert!(matches!(taken(" \n"), Err(BadCallerToken::Empty)));
        assert!(matches!(taken("hkp_x"), Err(BadCallerToken::ApiClient)));
        assert!(matches!(taken("hkt_x"), Err(BadCallerToken::ApiClient)));
        for odd in ["hks_a b", "hks_é", "hks_\u{7f}"] {
            assert!(matches!(taken(odd), Err(BadCallerToken::Characters)));
        }
    }

    #[tokio::test]
    async fn nothing_prints_it() {
        let token = CallerToken::new("hks_secret").unwrap();
        let header = token.header().await;
        assert_eq!(header, "Bearer hks_secret");
        let shown = format!("{token:?} {header:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[tokio::test]
    async fn a_replaced_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("hitkeep-auth-{}", std::process::id()));
        fs::write(&path, "hks_first\n").unwrap();
        let token = CallerToken::from_file(&path).unwrap();
        fs::write(&path, "hks_second\n").unwrap();
        assert_eq!(token.header().await, "Bearer hks_first");
        tokio::time::pause();
        tokio::time::advance(RELOAD_INTERVAL).await;
        assert_eq!(token.header().await, "Bearer hks_second");
        // What was read last still counts.
        fs::write(&path, "").unwrap();
        tokio::time::advance(RELOAD_INTERVAL).await;
        assert_eq!(token.header().await, "Bearer hks_second");
        fs::remove_file(&path).unwrap();
        tokio::time::advance(RELOAD_INTERVAL).await;
        assert_eq!(token.header().await, "Bearer hks_second");
        assert!(matches!(
            CallerToken::from_file(&path),
            Err(BadCallerToken::Unreadable(..))
        ));
    }
}
