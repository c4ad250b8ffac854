//! The command line. Each option can be a variable. Secrets can only be variables or files.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args as Group, Parser, ValueEnum};
use tower_bearer::Origin;
use tracing_subscriber::filter::LevelFilter;

use crate::guard::HostRule;
use crate::listen::Address;

const EXAMPLES: &str = "\
Each option can be a variable instead: --client-id is SIDECAR_CLIENT_ID.

Secrets are never on the command line. Each is a variable, or a file that is read again for every token:
  client secret   SIDECAR_CLIENT_SECRET   --client-secret-file
  password        SIDECAR_PASSWORD        --password-file
  refresh token   SIDECAR_REFRESH_TOKEN   --refresh-token-file
  subject token   SIDECAR_SUBJECT_TOKEN   --subject-token-file
  assertion       SIDECAR_ASSERTION       --assertion-file
  seal key        SIDECAR_STORE_SEAL_KEY  --store-seal-key-file   (read once)

Examples:
  A service that calls an API for itself; afterwards `curl http://127.0.0.1:8420/me` is answered:
    tower-bearer-sidecar --upstream https://api.example.com --issuer https://auth.example.com \\
            --grant client-credentials --client-id my-app --client-secret-file /run/secrets/my-app

  MeshyDB, as a user of the tenant acme:
    SIDECAR_PASSWORD=... tower-bearer-sidecar --preset meshydb --account my-account --public-key my-public-key \\
            --tenant acme --username me

  Mesh Connect, at a socket that only this user can open:
    tower-bearer-sidecar --preset mesh-connect --client-id my-client --client-secret-file ./secret \\
            --listen unix:/run/user/1000/mesh.sock

  A person, who logs in once in a browser:
    tower-bearer-sidecar --upstream https://api.example.com --issuer https://auth.example.com \\
            --grant device-code --client-id my-cli --scope offline_access --refresh-token-file ./session

  Several sidecars of a machine, or of a fleet over Redis (SIDECAR_STORE=rediss://...), share a session:
    SIDECAR_PASSWORD=... tower-bearer-sidecar --upstream https://api.example.com --issuer https://auth.example.com \\
            --grant password --client-id my-app --username me --store file:/home/me/.local/state/sidecar

  Azure, with the login of az:
    tower-bearer-sidecar --upstream https://management.azure.com --token-at /accessToken --expires-at /expires_on \\
            --token-command 'az account get-access-token --output json'";

/// A local address that adds a live token to calls.
///
/// Starts a small reverse proxy in front of one API. Programs in any language call the local address without
/// credentials. The sidecar fetches a bearer token, keeps it fresh, and forwards each call with it. If the API rejects
/// a call with 401, the sidecar sends it once more with a new token.
///
/// A program that can call the sidecar acts with its token. The sidecar therefore listens on loopback or on a Unix
/// socket. It rejects requests of web pages, and requests to another host name.
#[derive(Parser)]
#[command(name = "tower-bearer-sidecar", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Args {
    /// The API that calls go to: scheme, host and port. The token goes there and nowhere else. Default: the API of
    /// --preset
    #[arg(long, value_name = "ORIGIN", env = "SIDECAR_UPSTREAM", hide_env = true, help_heading = "Where calls go")]
    pub(crate) upstream: Option<String>,

    /// A PEM file of certificate authorities to trust in addition to the public ones, for the upstream and the issuer
    #[arg(long, value_name = "FILE", env = "SIDECAR_CA_FILE", hide_env = true, help_heading = "Where calls go")]
    pub(crate) ca_file: Option<PathBuf>,

    /// How many seconds the upstream may take until its answer begins, including the upload. After that, the caller
    /// gets a 504
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds, env = "SIDECAR_TIMEOUT")]
    #[arg(hide_env = true, help_heading = "Where calls go")]
    pub(crate) timeout: Duration,

    /// How many bytes of memory an upload may take until its answer begins, so that it can be sent again with a new
    /// token. If an upload is longer, the caller gets the 401
    #[arg(long, value_name = "BYTES", default_value = "1048576", env = "SIDECAR_REPLAY_LIMIT", hide_env = true)]
    #[arg(help_heading = "Where calls go")]
    pub(crate) replay_limit: usize,

    #[command(flatten)]
    pub(crate) login: Login,

    /// The address to listen at: ADDRESS:PORT (port 0: a free one), or unix:/PATH for a socket that only this user can
    /// open
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8420", env = "SIDECAR_LISTEN", hide_env = true)]
    #[arg(help_heading = "Who may call")]
    pub(crate) listen: Address,

    /// Lets --listen be an address that other machines reach. Every program that reaches it acts with your token
    #[arg(long, env = "SIDECAR_ALLOW_REMOTE_CALLERS", hide_env = true, help_heading = "Who may call")]
    pub(crate) allow_remote_callers: bool,

    /// Another host name that callers may use, such as sidecar or sidecar:8420; several times or with commas.
    /// Without a port, any port is allowed. Default: localhost and the loopback addresses, with the port of --listen
    #[arg(long, value_name = "HOST", value_delimiter = ',', env = "SIDECAR_ALLOW_HOST", hide_env = true)]
    #[arg(help_heading = "Who may call")]
    pub(crate) allow_host: Vec<HostRule>,

    /// A web page's origin, such as http://localhost:3000, whose scripts may call; several times or with commas.
    /// Default: none
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = page, env = "SIDECAR_ALLOW_ORIGIN")]
    #[arg(hide_env = true, help_heading = "Who may call")]
    pub(crate) allow_origin: Vec<Origin>,

    /// Answers /health, /ready and /metrics at this address. Requests there get no token and change nothing, so other
    /// machines may reach it. Default: none
    #[arg(long, value_name = "ADDRESS", env = "SIDECAR_STATUS_LISTEN", hide_env = true, help_heading = "Running it")]
    pub(crate) status_listen: Option<Address>,

    /// How many seconds requests may take to end after SIGTERM or ctrl-c. A second ctrl-c ends the sidecar at once
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds, env = "SIDECAR_GRACE")]
    #[arg(hide_env = true, help_heading = "Running it")]
    pub(crate) grace: Duration,

    /// The level of the log on standard error: off, error, warn, info, debug or trace. The log never holds a secret, a
    /// header, a query or a body
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "SIDECAR_LOG", hide_env = true)]
    #[arg(help_heading = "Running it")]
    pub(crate) log: LevelFilter,
}

/// Where the token comes from.
#[derive(Clone, Group)]
#[command(next_help_heading = "Where the token comes from")]
pub(crate) struct Login {
    /// How to ask for the token
    #[arg(long, value_enum, env = "SIDECAR_GRANT", hide_env = true, conflicts_with = "preset")]
    pub(crate) grant: Option<Grant>,

    /// A known provider. meshydb needs --account, --public-key, --tenant, and either --username with a password or a
    /// refresh token. mesh-connect needs --client-id with a client secret
    #[arg(long, value_enum, env = "SIDECAR_PRESET", hide_env = true)]
    pub(crate) preset: Option<Preset>,

    /// A file that holds the token itself and that another program rewrites, as Kubernetes does, instead of --grant and
    /// --preset. It need not exist yet
    #[arg(long, value_name = "FILE", env = "SIDECAR_TOKEN_FILE", hide_env = true)]
    #[arg(conflicts_with_all = ["grant", "preset"])]
    pub(crate) token_file: Option<PathBuf>,

    /// A program that prints the token as JSON, and its arguments, separated by spaces, instead of --grant and
    /// --preset. It runs for every token, without a shell. It prints an ExecCredential, as kubectl's credential plugins
    /// do, unless --token-at says otherwise
    #[arg(long, value_name = "COMMAND", env = "SIDECAR_TOKEN_COMMAND", hide_env = true)]
    #[arg(conflicts_with_all = ["grant", "preset", "token_file"])]
    pub(crate) token_command: Option<String>,

    /// Where the token is in the program's output: a JSON pointer, such as /accessToken
    #[arg(long, value_name = "POINTER", env = "SIDECAR_TOKEN_AT", hide_env = true)]
    pub(crate) token_at: Option<String>,

    /// Where the output says when the token expires, as a date or in seconds since 1970: a JSON pointer, such as
    /// /expires_on
    #[arg(long, value_name = "POINTER", env = "SIDECAR_EXPIRES_AT", hide_env = true)]
    pub(crate) expires_at: Option<String>,

    /// The issuer, whose metadata names its token endpoint; for a preset, another URL to log in at
    #[arg(long, value_name = "URL", env = "SIDECAR_ISSUER", hide_env = true, conflicts_with = "token_url")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) issuer: Option<String>,

    /// The token endpoint itself, instead of the issuer
    #[arg(long, value_name = "URL", env = "SIDECAR_TOKEN_URL", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) token_url: Option<String>,

    /// Allows an issuer, a token endpoint or a preset on plain http:// beyond loopback, for a network that is trusted
    #[arg(long, env = "SIDECAR_ALLOW_PLAIN_HTTP", hide_env = true)]
    pub(crate) allow_plain_http: bool,

    /// The endpoint that gives the grant device-code its code, if --token-url is set; with --issuer, its metadata names
    /// it
    #[arg(long, value_name = "URL", env = "SIDECAR_DEVICE_AUTHORIZATION_URL", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) device_authorization_url: Option<String>,

    /// The client's id
    #[arg(long, value_name = "ID", env = "SIDECAR_CLIENT_ID", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) client_id: Option<String>,

    /// A file that holds the client's secret
    #[arg(long, value_name = "FILE", env = "SIDECAR_CLIENT_SECRET_FILE", hide_env = true)]
    pub(crate) client_secret_file: Option<PathBuf>,

    /// How to send the client's secret: in the Authorization header, or in the body [default: basic]
    #[arg(long, value_enum, env = "SIDECAR_CLIENT_AUTH", hide_env = true)]
    pub(crate) client_auth: Option<Auth>,

    /// The user, for the grant password and for meshydb
    #[arg(long, value_name = "NAME", env = "SIDECAR_USERNAME", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) username: Option<String>,

    /// A file that holds the user's password
    #[arg(long, value_name = "FILE", env = "SIDECAR_PASSWORD_FILE", hide_env = true)]
    pub(crate) password_file: Option<PathBuf>,

    /// A file that holds the refresh token. If the issuer returns a new one, the sidecar writes it to the file. With a
    /// password and with the grant device-code, the file need not exist yet
    #[arg(long, value_name = "FILE", env = "SIDECAR_REFRESH_TOKEN_FILE", hide_env = true)]
    pub(crate) refresh_token_file: Option<PathBuf>,

    /// The store in which sidecars share a session, so that one of them refreshes for all: file:/DIRECTORY for one
    /// machine and user, redis://HOST:PORT or rediss://HOST:PORT for a fleet. If Redis has a password, use the
    /// variable. Default: none, each sidecar has its own session
    #[arg(long, value_name = "STORE", env = "SIDECAR_STORE", hide_env = true)]
    pub(crate) store: Option<String>,

    /// The name of the session in --store, which is the same for all sidecars that share it. Default: the grant or
    /// preset, issuer, client, user, tenant and scope
    #[arg(long, value_name = "NAME", env = "SIDECAR_STORE_KEY", hide_env = true, requires = "store")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) store_key: Option<String>,

    /// A file that holds the key that encrypts the session in --store: 64 hexadecimal digits, as `openssl rand -hex 32`
    /// prints them. Default: the session is not encrypted
    #[arg(long, value_name = "FILE", env = "SIDECAR_STORE_SEAL_KEY_FILE", hide_env = true, requires = "store")]
    pub(crate) store_seal_key_file: Option<PathBuf>,

    /// A file that holds the token to be exchanged
    #[arg(long, value_name = "FILE", env = "SIDECAR_SUBJECT_TOKEN_FILE", hide_env = true)]
    pub(crate) subject_token_file: Option<PathBuf>,

    /// The type of the token to be exchanged, as an identifier of RFC 8693 [default: an access token]
    #[arg(long, value_name = "URN", env = "SIDECAR_SUBJECT_TOKEN_TYPE", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) subject_token_type: Option<String>,

    /// A file that holds the assertion of the grant jwt-bearer
    #[arg(long, value_name = "FILE", env = "SIDECAR_ASSERTION_FILE", hide_env = true)]
    pub(crate) assertion_file: Option<PathBuf>,

    /// The scope to ask for, as one text of words
    #[arg(long, value_name = "WORDS", env = "SIDECAR_SCOPE", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) scope: Option<String>,

    /// The name, at the issuer, of a service that takes the token; several times for several services
    #[arg(long, value_name = "NAME", env = "SIDECAR_AUDIENCE", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) audience: Vec<String>,

    /// The URI of a service that takes the token (RFC 8707); several times for several services
    #[arg(long, value_name = "URI", env = "SIDECAR_RESOURCE", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) resource: Vec<String>,

    /// meshydb: the account's name
    #[arg(long, value_name = "NAME", env = "SIDECAR_ACCOUNT", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) account: Option<String>,

    /// meshydb: the application's public key
    #[arg(long, value_name = "KEY", env = "SIDECAR_PUBLIC_KEY", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) public_key: Option<String>,

    /// meshydb: the tenant, which each call names as well
    #[arg(long, value_name = "NAME", env = "SIDECAR_TENANT", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) tenant: Option<String>,
}

/// The OAuth 2 grants.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Grant {
    /// A token for the client itself: --client-id and a client secret
    ClientCredentials,
    /// A token for a user: --client-id, --username and a password
    Password,
    /// A token from a saved session: --client-id and a refresh token
    RefreshToken,
    /// A token for a person, who logs in with a browser on any machine (RFC 8628): --client-id. The sidecar writes the
    /// URL and the code to standard error, and waits. --refresh-token-file saves the session for the next start
    DeviceCode,
    /// A token in exchange for another (RFC 8693): a subject token
    TokenExchange,
    /// A token in exchange for an assertion (RFC 7523): an assertion
    JwtBearer,
}

/// The providers that are known.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Preset {
    Meshydb,
    MeshConnect,
}

/// Where the client's secret goes.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Auth {
    Basic,
    Post,
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("write whole seconds, from 1 to 86400"),
    }
}

/// A page may come from plain `http://`, because it never gets the token.
fn page(text: &str) -> Result<Origin, tower_bearer::Error> {
    Origin::allow_insecure(text)
}
