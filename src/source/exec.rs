//! A token that a program prints as JSON (feature `exec`).
//!
//! | program | what [`TokenCommand`] is told |
//! |---|---|
//! | kubectl's credential plugins: `aws eks get-token`, `aws-iam-authenticator`, `gke-gcloud-auth-plugin`, `kubelogin` | nothing |
//! | `az account get-access-token --output json` | `token_at("/accessToken")`, `expires_at("/expires_on")` |
//! | `gcloud config config-helper --format=json` | `token_at("/credential/access_token")`, `expires_at("/credential/token_expiry")` |
//! | one that prints what an OAuth 2 server answers | `token_at("/access_token")`, `lifetime_at("/expires_in")` |

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;

use crate::error::Error;
use crate::secret::Secret;
use crate::source::exec::run::{Output, run};
use crate::source::redact::clean_end;
use crate::source::{FetchContext, TokenSource, answer};
use crate::token::{MAX_LIFETIME, Token};

mod run;

/// A program that prints a token as JSON: by default an `ExecCredential`, as kubectl's credential plugins do.
///
/// It is run for each fetch, so also when an API rejects the token, and never by a shell. It finds its input closed and
/// has nine tenths of the fetch deadline ([`RefreshPolicy::deadline`](crate::RefreshPolicy::deadline)), 27 s by default: a program
/// that asks a person has to be run by hand first. When the time is over, or more than 1 MiB was printed, it is killed,
/// on Unix with those it has started in its process group. The status it ends with must be zero.
///
/// An `ExecCredential` without `expirationTimestamp`, and another answer that tells no end, is kept until an API
/// rejects it. That is kubectl's rule, and the plugins rely on it; [`default_lifetime`](TokenCommand::default_lifetime)
/// is for the programs that are no such plugins.
///
/// A program that keeps its tokens prints the same one again until shortly before its end, which counts as a failed fetch
/// beside requests that go on; a [`RefreshPolicy::margin`](crate::RefreshPolicy::margin) below the program's own avoids that.
///
/// Neither arguments nor what the program prints are shown. Where it fails, the error holds the end of what it wrote to
/// its standard error, 256 characters at most, in which arguments, values of [`env`](TokenCommand::env) and tokens are
/// replaced, other than those of less than 4 characters.
///
/// ```
/// # #[cfg(unix)] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// use tower_bearer::{TokenCache, exec::TokenCommand};
///
/// let plugin = TokenCommand::new("aws").args(["eks", "get-token", "--cluster-name", "prod"]).env("AWS_PROFILE", "ops");
/// let azure = TokenCommand::new("az")
///     .args(["account", "get-access-token", "--output", "json"])
///     .token_at("/accessToken")?
///     .expires_at("/expires_on")?;
///
/// let printed = r#"{"kind": "ExecCredential", "status": {"token": "k8s-aws-v1.aHR0"}}"#;
/// let cache = TokenCache::new(TokenCommand::new("echo").args([printed]));
/// assert_eq!(cache.get().await?.header_value(), "Bearer k8s-aws-v1.aHR0");
/// # Ok(()) }
/// # #[cfg(not(unix))] fn main() {}
/// ```
///
/// It needs a runtime with its I/O driver enabled (`enable_all`), and real time: tokio's paused time does not wait for
/// programs.
pub struct TokenCommand {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, Secret)>,
    /// `None`: where an `ExecCredential` has it, and it has to be one.
    token_at: Option<String>,
    expires_at: String,
    lifetime_at: Option<String>,
    default_lifetime: Duration,
}

/// The ends of an `ExecCredential` (client.authentication.k8s.io/v1).
const TOKEN_AT: &str = "/status/token";
const EXPIRES_AT: &str = "/status/expirationTimestamp";
/// What kubectl tells its plugins: which shape it wants, and that nobody is there to be asked.
const EXEC_INFO: (&str, &str) = (
    "KUBERNETES_EXEC_INFO",
    r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}"#,
);
/// A shorter text is a switch or a number, and replacing it would make the words unreadable.
const SHORTEST_SECRET: usize = 4;

// === impl TokenCommand ===

impl TokenCommand {
    /// The program of this name, looked for in the `PATH`, or at this path. On Windows a script needs its ending:
    /// `az.cmd`.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            token_at: None,
            expires_at: EXPIRES_AT.into(),
            lifetime_at: None,
            default_lifetime: MAX_LIFETIME,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment, which is otherwise that of this process. It may be a secret.
    ///
    /// `KUBERNETES_EXEC_INFO` is set as kubectl sets it, for `client.authentication.k8s.io/v1`, unless
    /// [`token_at`](TokenCommand::token_at) asks for another shape; a value given here wins.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<Secret>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Where in another shape than an `ExecCredential` the token lies: a JSON pointer (RFC 6901).
    ///
    /// # Errors
    /// Not a JSON pointer.
    pub fn token_at(self, pointer: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { token_at: Some(answer::pointer("token_at", pointer)?), ..self })
    }

    /// Where it says when the token ends, as a date (RFC 3339) or in seconds since 1970, a number or a text: a JSON
    /// pointer (RFC 6901). Default: `/status/expirationTimestamp`.
    ///
    /// # Errors
    /// Not a JSON pointer.
    pub fn expires_at(self, pointer: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { expires_at: answer::pointer("expires_at", pointer)?, ..self })
    }

    /// Where it says how long the token lives, in seconds from now, for what does not say when it ends: a JSON pointer
    /// (RFC 6901).
    ///
    /// # Errors
    /// Not a JSON pointer.
    pub fn lifetime_at(self, pointer: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { lifetime_at: Some(answer::pointer("lifetime_at", pointer)?), ..self })
    }

    /// The lifetime of a token that nothing is said about. Default: [`MAX_LIFETIME`], which is until an API rejects it.
    ///
    /// # Errors
    /// Zero.
    pub fn default_lifetime(self, lifetime: Duration) -> Result<Self, Error> {
        Ok(Self { default_lifetime: answer::default_lifetime(lifetime)?, ..self })
    }

    /// The token it printed; `now` is the time before it was started.
    fn token(&self, output: &Output, now: SystemTime) -> Result<Token, String> {
        if !output.status.success() {
            return Err(format!("it ended with {}", output.status));
        }
        let printed: Value = serde_json::from_slice(&output.stdout).map_err(|_| "it printed no JSON")?;
        if self.token_at.is_none() && printed["kind"] != "ExecCredential" {
            return Err(
                "it printed no ExecCredential; where the token is in another shape lies is said by `token_at`".into()
            );
        }
        let at = self.token_at.as_deref().unwrap_or(TOKEN_AT);
        let text = match printed.pointer(at) {
            Some(Value::String(text)) => text,
            Some(Value::Null) | None => return Err(format!("it printed no token at {at}")),
            Some(_) => return Err(format!("what it printed at {at} is no text")),
        };
        let lifetime = match printed.pointer(&self.expires_at) {
            Some(Value::Null) | None => {
                let seconds = self.lifetime_at.as_deref().and_then(|at| printed.pointer(at));
                answer::lifetime(seconds, self.default_lifetime)
            }
            Some(end) => lifetime(end, now).map_err(|problem| format!("{problem} (at {})", self.expires_at))?,
        };
        Ok(Token::parse(text)?.with_lifetime(lifetime))
    }

    /// An error that names the program, with what it said of it.
    fn failed(&self, problem: &str, output: &Output, context: &FetchContext) -> Error {
        let said = clean_end(&String::from_utf8_lossy(&output.stderr), &self.secrets(output, context));
        let said = if said.is_empty() { "it gave no reason".into() } else { format!("it said: {said}") };
        self.unusable(format!("{problem}; {said}; run it by hand to see all of it"))
    }

    fn unusable(&self, problem: String) -> Error {
        Error::unusable(Some(self.name()), problem)
    }

    /// What its words must not repeat.
    fn secrets(&self, output: &Output, context: &FetchContext) -> Vec<Secret> {
        // What is not where a token should be may be one all the same.
        let mut secrets: Vec<_> = answer::replaced_secrets(context).collect();
        match serde_json::from_slice(&output.stdout) {
            Ok(printed) => answer::collect_strings(&printed, &mut secrets),
            Err(_) => secrets.push(String::from_utf8_lossy(&output.stdout).trim().into()),
        }
        let args = self.args.iter().map(|arg| arg.to_string_lossy());
        // `--password=secret` is repeated in parts; `--verbose` is no secret.
        secrets.extend(args.filter_map(|arg| match arg.strip_prefix("--") {
            Some(option) => option.split_once('=').map(|(_, value)| Secret::from(value)),
            None => Some(Secret::from(arg)),
        }));
        secrets.extend(self.env.iter().map(|(_, value)| value.clone()));
        secrets.retain(|secret| secret.expose().len() >= SHORTEST_SECRET);
        secrets
    }

    fn name(&self) -> Arc<str> {
        self.program.to_string_lossy().into()
    }
}

impl TokenSource for TokenCommand {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        command.envs(self.token_at.is_none().then_some(EXEC_INFO));
        command.envs(self.env.iter().map(|(name, value)| (name, value.expose())));
        let now = context.now();
        let limit = context.response_timeout();
        match tokio::time::timeout(limit, run(&mut command)).await {
            Ok(Ok(output)) => self.token(&output, now).map_err(|problem| self.failed(&problem, &output, &context)),
            Ok(Err(problem)) => Err(self.unusable(problem)),
            Err(_) => Err(Error::silent(self.name(), limit)),
        }
    }

    /// The program alone, because arguments may be secrets.
    fn identity(&self) -> Vec<String> {
        vec!["exec".to_owned(), self.program.to_string_lossy().into_owned()]
    }
}

/// Arguments may be secrets.
impl fmt::Debug for TokenCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCommand").field("program", &self.program).finish_non_exhaustive()
    }
}

/// How long it is until this date or time.
fn lifetime(end: &Value, now: SystemTime) -> Result<Duration, String> {
    let date = || {
        let date = OffsetDateTime::parse(end.as_str()?.trim(), &Rfc3339).ok()?;
        Some(Duration::new(date.unix_timestamp().try_into().unwrap_or(0), date.nanosecond()))
    };
    let end = answer::seconds(end).or_else(date);
    let end = end.ok_or("when its token ends is neither a date (RFC 3339) nor a number of seconds since 1970")?;
    answer::until(end, now).map_err(|ago| {
        format!("its token ended {} s ago: it hands out an old one, or this machine's clock is wrong", ago.as_secs())
    })
}
