//! A token that a program prints (feature `exec`).
//!
//! | program | what [`TokenCommand`] is told |
//! |---|---|
//! | kubectl's credential plugins: `aws eks get-token`, `aws-iam-authenticator`, `gke-gcloud-auth-plugin`, `kubelogin` | nothing |
//! | `az account get-access-token --output json` | `token_at("/accessToken")`, `expires_at("/expires_on")` |
//! | `gcloud config config-helper --format=json` | `token_at("/credential/access_token")`, `expires_at("/credential/token_expiry")` |
//! | one that prints what an OAuth 2 server answers | `token_at("/access_token")` |
//! | `gcloud auth print-access-token`, `gh auth token`, `az .. --query accessToken --output tsv` | `bare_token()` |
//! | `git credential fill` | `stdin("protocol=https\nhost=git.example.com\n\n")`, `token_at("/password")` |
//! | Docker's credential helpers: `docker-credential-pass get` | `stdin("https://registry.example.com")`, `token_at("/Secret")` |

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tokio::process::Command;

use crate::error::Error;
use crate::secret::Secret;
use crate::source::answer::lifetime::{Expiry, Issued};
use crate::source::answer::settings::expiry_settings;
use crate::source::answer::{self, decode};
use crate::source::exec::run::{Output, run};
use crate::source::redact::clean_end;
use crate::source::{FetchContext, TokenSource};
use crate::token::{MAX_LIFETIME, Token};

mod run;

/// A program that prints a token: by default as an `ExecCredential`, as kubectl's credential plugins do.
///
/// It is run for each fetch, so also when an API rejects the token, and never by a shell. It finds its standard input closed
/// unless [`stdin`](TokenCommandBuilder::stdin) says what to write there. It has nine tenths of the fetch deadline
/// ([`RefreshPolicy::deadline`](crate::RefreshPolicy::deadline)), 27 s by default: a program that asks a person has to be run
/// by hand first. When the time is over, or more than 1 MiB was printed, it is killed, on Unix with those it has started in
/// its process group. The status it ends with must be zero.
///
/// An `ExecCredential` without `expirationTimestamp`, and another answer that tells no end, is kept until an API
/// rejects it. That is kubectl's rule, and the plugins rely on it; [`default_lifetime`](TokenCommandBuilder::default_lifetime)
/// is for the programs that are no such plugins.
///
/// A program that keeps its tokens prints the same one again until shortly before its end, which counts as a failed fetch
/// beside requests that go on; a [`RefreshPolicy::margin`](crate::RefreshPolicy::margin) below the program's own avoids that.
///
/// Neither arguments nor input nor what the program prints are shown. Where it fails, the error holds the end of what it
/// wrote to its standard error, 256 characters at most, in which arguments, values of [`env`](TokenCommandBuilder::env), the
/// lines of the input and tokens are replaced, other than those of less than 4 characters: of `key=value`, `--key=value` and
/// `-kvalue` the value as well.
///
/// ```
/// # #[cfg(unix)] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
/// use tower_bearer::{TokenCache, exec::TokenCommand};
///
/// let plugin = TokenCommand::builder("aws")
///     .args(["eks", "get-token", "--cluster-name", "prod"])
///     .env("AWS_PROFILE", "ops")
///     .build()?;
/// let azure = TokenCommand::builder("az")
///     .args(["account", "get-access-token", "--output", "json"])
///     .token_at("/accessToken")
///     .expires_at("/expires_on")
///     .build()?;
///
/// let printed = r#"{"kind": "ExecCredential", "status": {"token": "k8s-aws-v1.aHR0"}}"#;
/// let cache = TokenCache::new(TokenCommand::builder("echo").args([printed]).build()?);
/// assert_eq!(cache.get().await?.header_value(), "Bearer k8s-aws-v1.aHR0");
/// # Ok(()) }
/// # #[cfg(not(unix))] fn main() {}
/// ```
///
/// It needs a runtime with its I/O driver enabled (`enable_all`), and real time: tokio's paused time does not wait for
/// programs.
#[derive(Clone)]
pub struct TokenCommand {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, Secret)>,
    /// What is written to its standard input.
    stdin: Option<Secret>,
    place: Place,
    expiry: Expiry,
}

/// The settings of a [`TokenCommand`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenCommandBuilder {
    command: TokenCommand,
}

/// Where in what the program prints the token lies.
#[derive(Clone)]
enum Place {
    /// Where an `ExecCredential` has it, and it has to be one.
    ExecCredential,
    At(String),
    /// It is all there is.
    Bare,
}

expiry_settings!(TokenCommandBuilder, command.expiry, "Default: [`MAX_LIFETIME`], which is until an API rejects it.");

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
    pub fn builder(program: impl Into<OsString>) -> TokenCommandBuilder {
        let command = Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            place: Place::ExecCredential,
            expiry: Expiry::new().expires_at(EXPIRES_AT),
        };
        TokenCommandBuilder { command }
    }

    /// The token it printed; `now` is the time before it was started.
    fn token(&self, output: &Output, now: SystemTime) -> Result<Token, String> {
        if !output.status.success() {
            return Err(format!("it ended with {}", output.status));
        }
        let (printed, at, token) = match &self.place {
            Place::Bare => (Value::Null, "", answer::bare_token(&output.stdout)?),
            place => {
                let lines = || lines(&output.stdout).filter(|_| matches!(place, Place::At(_)));
                let printed = decode::json(&output.stdout)
                    .or_else(lines)
                    .ok_or("it printed no JSON; one that prints a bare token is told by `bare_token`")?;
                let at = match place {
                    Place::At(place) => place,
                    _ if printed["kind"] == "ExecCredential" => TOKEN_AT,
                    _ => {
                        let remedy = "where the token is in another shape lies is said by `token_at`";
                        return Err(format!("it printed no ExecCredential; {remedy}"));
                    }
                };
                let token = match printed.pointer(at) {
                    Some(Value::String(text)) => Token::parse(text)?,
                    Some(Value::Null) | None => return Err(format!("it printed no token at {at}")),
                    Some(_) => return Err(format!("what it printed at {at} is no text")),
                };
                (printed, at, token)
            }
        };
        let beside = answer::parent(&printed, at);
        let issued = Issued { answer: &printed, beside, token: token.access_token(), at: now, now };
        let lifetime = self.expiry.read(&issued, MAX_LIFETIME);
        Ok(token.with_lifetime(lifetime.map_err(|problem| problem.describe("it hands out an old one"))?))
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
        match decode::json(&output.stdout).or_else(|| lines(&output.stdout)) {
            Some(printed) => answer::collect_strings(&printed, &mut secrets),
            None => secrets.push(decode::text(&output.stdout).trim().into()),
        }
        if let Some(input) = self.stdin.as_ref().map(Secret::expose) {
            decode::json(input.as_bytes()).iter().for_each(|input| answer::collect_strings(input, &mut secrets));
            for line in input.lines() {
                secrets.push(line.trim().into());
                secrets.extend(line.split_once(['=', ':']).map(|(_, value)| Secret::from(value.trim())));
            }
        }
        self.args.iter().for_each(|arg| argument_secrets(&arg.to_string_lossy(), &mut secrets));
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
        command.envs(matches!(self.place, Place::ExecCredential).then_some(EXEC_INFO));
        command.envs(self.env.iter().map(|(name, value)| (name, value.expose())));
        let now = context.now();
        let limit = context.response_timeout();
        match tokio::time::timeout(limit, run(&mut command, self.stdin.as_ref().map(Secret::expose))).await {
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

// === impl TokenCommandBuilder ===

impl TokenCommandBuilder {
    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment, which is otherwise that of this process. It may be a secret.
    ///
    /// `KUBERNETES_EXEC_INFO` is set as kubectl sets it, for `client.authentication.k8s.io/v1`, unless
    /// [`token_at`](TokenCommandBuilder::token_at) asks for another shape; a value given here wins.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<Secret>) -> Self {
        self.command.env.push((name.into(), value.into()));
        self
    }

    /// Writes this text to the program's standard input, and closes it: the question to a program that is asked so, as
    /// credential helpers are. It may be a secret. A program that reads lines wants a line break at its end.
    ///
    /// ```
    /// # #[cfg(unix)] #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_bearer::Error> {
    /// use tower_bearer::{TokenCache, exec::TokenCommand};
    ///
    /// let git = TokenCommand::builder("git")
    ///     .args(["credential", "fill"])
    ///     .env("GIT_TERMINAL_PROMPT", "0")
    ///     .stdin("protocol=https\nhost=git.example.com\n\n")
    ///     .token_at("/password")
    ///     .expires_at("/password_expiry_utc")
    ///     .build()?;
    ///
    /// let cache = TokenCache::new(TokenCommand::builder("cat").stdin("my-token\n").bare_token().build()?);
    /// assert_eq!(cache.get().await?.header_value(), "Bearer my-token");
    /// # Ok(()) }
    /// # #[cfg(not(unix))] fn main() {}
    /// ```
    pub fn stdin(mut self, input: impl Into<Secret>) -> Self {
        self.command.stdin = Some(input.into());
        self
    }

    /// Where in another shape than an `ExecCredential` the token lies: a JSON pointer (RFC 6901). A program that prints
    /// `name=value` on each line, as git's credential helpers do, is read as an object of these names.
    pub fn token_at(mut self, pointer: impl Into<String>) -> Self {
        self.command.place = Place::At(pointer.into());
        self
    }

    /// The program prints the token itself and nothing else, as `gcloud auth print-access-token` and `gh auth token` do. A
    /// JWT (RFC 7519) lives until its `exp`.
    pub fn bare_token(mut self) -> Self {
        self.command.place = Place::Bare;
        self
    }

    /// Checks the settings, and builds the source. The program need not exist yet.
    ///
    /// # Errors
    /// Returns an error that names the field if the program's name is empty, a pointer is no JSON pointer, or a duration is
    /// zero.
    pub fn build(self) -> Result<TokenCommand, Error> {
        if self.command.program.is_empty() {
            return Err(Error::invalid("program", "it is empty"));
        }
        if let Place::At(place) = &self.command.place {
            answer::check_pointer("token_at", place)?;
        }
        self.command.expiry.check()?;
        Ok(self.command)
    }
}

/// What a program prints as `name=value` on each line (git-credential, "Input/output format").
fn lines(bytes: &[u8]) -> Option<Value> {
    let text = decode::text(bytes);
    let lines = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let (name, value) = line.split_once('=')?;
        let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
        is_name.then(|| (name.to_owned(), Value::from(value)))
    });
    lines.collect::<Option<Map<_, _>>>().filter(|lines| !lines.is_empty()).map(Value::Object)
}

/// What may be secret in an argument: all of it but for a switch such as `--verbose`, what follows `=` or `:`, and what is
/// written together with an option of one letter.
fn argument_secrets(arg: &str, secrets: &mut Vec<Secret>) {
    let is_switch = arg.starts_with("--");
    secrets.extend(Some(arg).filter(|arg| !is_switch && !arg.is_empty()).map(Secret::from));
    secrets.extend(arg.split_once(['=', ':']).map(|(_, value)| Secret::from(value)));
    if let Some(value) = arg.strip_prefix('-').filter(|_| !is_switch) {
        secrets.extend(value.char_indices().nth(1).map(|(start, _)| Secret::from(&value[start..])));
    }
}
