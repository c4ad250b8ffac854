//! A token that a program prints (feature `exec`).
//!
//! | program | settings of [`TokenCommand`] |
//! |---|---|
//! | kubectl's credential plugins: `aws eks get-token`, `aws-iam-authenticator`, `gke-gcloud-auth-plugin`, `kubelogin` | nothing |
//! | `az account get-access-token --output json` | `token_at("/accessToken")`, `expires_at("/expires_on")` |
//! | `gcloud config config-helper --format=json` | `token_at("/credential/access_token")`, `expires_at("/credential/token_expiry")` |
//! | a program that prints the answer of an OAuth 2 server | `token_at("/access_token")` |
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

/// A program that prints a token.
///
/// By default the program prints an `ExecCredential`, as kubectl's credential plugins do.
///
/// Each fetch runs the program, without a shell. A rejection of the token by an API causes a fetch too. The program's
/// standard input is closed, unless [`stdin`](TokenCommandBuilder::stdin) says what to write there. The program must
/// exit with status zero within nine tenths of the fetch deadline
/// ([`RefreshPolicy::deadline`](crate::RefreshPolicy::deadline)), which is 27 s by default. Run a program that asks a
/// person by hand first. A program that takes longer, or prints more than 1 MiB, is killed. On Unix, the processes that
/// it started in its process group are killed too.
///
/// If the program does not say when the token expires, the token is kept until an API rejects it. kubectl has the same
/// rule for an `ExecCredential` without `expirationTimestamp`, and its plugins rely on it. For other programs, set
/// [`default_lifetime`](TokenCommandBuilder::default_lifetime).
///
/// A program that caches its tokens prints the same one until shortly before it expires. A refresh that gets the same
/// token counts as a failed fetch, which does not affect requests. To avoid such fetches, set
/// [`RefreshPolicy::margin`](crate::RefreshPolicy::margin) below the program's margin.
///
/// Arguments, input and output of the program are never shown. If the program fails, the error holds the end of its
/// standard error, at most 256 characters. Tokens, arguments, values of [`env`](TokenCommandBuilder::env) and the lines
/// of the input are redacted there, if they have at least 4 characters. The value alone is redacted as well in
/// `key=value`, `--key=value` and `-kvalue`.
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
/// A fetch needs a runtime with its I/O driver enabled (`enable_all`). It also needs real time, because tokio's paused
/// time does not wait for programs.
#[derive(Clone)]
pub struct TokenCommand {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, Secret)>,
    /// The text for the program's standard input.
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

/// The shape of the output, and where the token is in it.
#[derive(Clone)]
enum Place {
    ExecCredential,
    /// JSON, or lines of `name=value`, with the token at this JSON pointer.
    At(String),
    /// The token and nothing else.
    Bare,
}

expiry_settings!(TokenCommandBuilder, command.expiry, "Default: [`MAX_LIFETIME`], which is until an API rejects it.");

/// Where an `ExecCredential` has its token and its expiry (client.authentication.k8s.io/v1).
const TOKEN_AT: &str = "/status/token";
const EXPIRES_AT: &str = "/status/expirationTimestamp";
/// kubectl tells its plugins the shape that it expects, and that they cannot ask a person.
const EXEC_INFO: (&str, &str) = (
    "KUBERNETES_EXEC_INFO",
    r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}"#,
);
/// A shorter text is a switch or a number. Redacting it would make the error unreadable.
const SHORTEST_SECRET: usize = 4;

// === impl TokenCommand ===

impl TokenCommand {
    /// The program with this name in the `PATH`, or at this path.
    ///
    /// On Windows, a script needs its extension, such as `az.cmd`.
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

    /// Reads the token from the output. `now` is the time before the program was started.
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
                    .ok_or("it printed no JSON; if it prints a bare token, set `bare_token`")?;
                let at = match place {
                    Place::At(place) => place,
                    _ if printed["kind"] == "ExecCredential" => TOKEN_AT,
                    _ => {
                        let remedy = "if it prints the token in another shape, set `token_at`";
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
        let parent = answer::parent(&printed, at);
        let issued = Issued { answer: &printed, parent, token: token.access_token(), at: now, now };
        let lifetime = self.expiry.read(&issued, MAX_LIFETIME);
        Ok(token.with_lifetime(lifetime.map_err(|problem| problem.describe("the program printed an old token"))?))
    }

    /// An error that names the program and holds the end of its standard error.
    fn failed(&self, problem: &str, output: &Output, context: &FetchContext) -> Error {
        let said = clean_end(&String::from_utf8_lossy(&output.stderr), &self.secrets(output, context));
        let said = if said.is_empty() { "it gave no reason".into() } else { format!("it said: {said}") };
        self.unusable(format!("{problem}; {said}; run it by hand to see all of it"))
    }

    fn unusable(&self, problem: String) -> Error {
        Error::unusable(Some(self.name()), problem)
    }

    /// The texts to redact in the program's standard error.
    fn secrets(&self, output: &Output, context: &FetchContext) -> Vec<Secret> {
        // Any printed text may be a token, even if it is not where a token should be.
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

/// Leaves out the arguments, because they may be secrets.
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

    /// Adds a variable to the environment, which the program inherits from this process.
    ///
    /// The value may be a secret. The source sets `KUBERNETES_EXEC_INFO` as kubectl does, for
    /// `client.authentication.k8s.io/v1`, unless [`token_at`](TokenCommandBuilder::token_at) or
    /// [`bare_token`](TokenCommandBuilder::bare_token) sets another shape. A value given here takes precedence.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<Secret>) -> Self {
        self.command.env.push((name.into(), value.into()));
        self
    }

    /// Writes this text to the program's standard input, and closes it.
    ///
    /// Credential helpers read their question there. The text may be a secret. A program that reads lines needs a line
    /// break at the end.
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

    /// Where the token is in other JSON than an `ExecCredential`, as a JSON pointer (RFC 6901).
    ///
    /// Lines of `name=value`, as git's credential helpers print them, are read as an object with these names.
    pub fn token_at(mut self, pointer: impl Into<String>) -> Self {
        self.command.place = Place::At(pointer.into());
        self
    }

    /// The program prints the token and nothing else.
    ///
    /// Examples are `gcloud auth print-access-token` and `gh auth token`. A JWT (RFC 7519) lives until its `exp`.
    pub fn bare_token(mut self) -> Self {
        self.command.place = Place::Bare;
        self
    }

    /// Checks the settings, and builds the source. The program need not exist yet.
    ///
    /// # Errors
    /// Returns an error that names the field if the program's name is empty, a JSON pointer is invalid, or a duration
    /// is zero.
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

/// Reads lines of `name=value` (git-credential, "Input/output format").
fn lines(bytes: &[u8]) -> Option<Value> {
    let text = decode::text(bytes);
    let lines = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let (name, value) = line.split_once('=')?;
        let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
        is_name.then(|| (name.to_owned(), Value::from(value)))
    });
    lines.collect::<Option<Map<_, _>>>().filter(|lines| !lines.is_empty()).map(Value::Object)
}

/// Collects the parts of an argument that may be secret.
///
/// They are the whole argument, unless it is a switch such as `--verbose`; the text after `=` or `:`; and the text
/// after an option of one letter.
fn argument_secrets(arg: &str, secrets: &mut Vec<Secret>) {
    let is_switch = arg.starts_with("--");
    secrets.extend(Some(arg).filter(|arg| !is_switch && !arg.is_empty()).map(Secret::from));
    secrets.extend(arg.split_once(['=', ':']).map(|(_, value)| Secret::from(value)));
    if let Some(value) = arg.strip_prefix('-').filter(|_| !is_switch) {
        secrets.extend(value.char_indices().nth(1).map(|(start, _)| Secret::from(&value[start..])));
    }
}
