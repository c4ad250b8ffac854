//! The command line. Each option is a variable as well; secrets are variables or files only.

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

  As the person who logs in once, in a browser:
    tower-bearer-sidecar --upstream https://api.example.com --issuer https://auth.example.com \\
            --grant device-code --client-id my-cli --scope offline_access --refresh-token-file ./session

  One of several on a machine that share a session, or of a fleet over Redis (SIDECAR_STORE=rediss://...):
    SIDECAR_PASSWORD=... tower-bearer-sidecar --upstream https://api.example.com --issuer https://auth.example.com \\
            --grant password --client-id my-app --username me --store file:/home/me/.local/state/sidecar

  Azure, as who has logged in with az:
    tower-bearer-sidecar --upstream https://management.azure.com --token-at /accessToken --expires-at /expires_on \\
            --token-command 'az account get-access-token --output json'";

/// A local address where calls leave with a live token.
///
/// Starts a small reverse proxy in front of one API. Any program, in any language, calls the local address without
/// credentials; the sidecar fetches a bearer token, keeps it fresh, puts it on each call and sends it on. A call that
/// the API rejects with 401 goes once more with a new token.
///
/// Whoever can call the sidecar acts with its token. So it listens on loopback or on a Unix socket, and rejects requests
/// of web pages and requests under a foreign name.
#[derive(Parser)]
#[command(name = "tower-bearer-sidecar", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Args {
    /// The API that calls go to: scheme, host and port. The token goes there and nowhere else. The presets know
    /// their own
    #[arg(long, value_name = "ORIGIN", env = "SIDECAR_UPSTREAM", hide_env = true, help_heading = "Where calls go")]
    pub(crate) upstream: Option<String>,

    /// A PEM file of certificate authorities to trust besides the public ones: for the upstream and the issuer
    #[arg(long, value_name = "FILE", env = "SIDECAR_CA_FILE", hide_env = true, help_heading = "Where calls go")]
    pub(crate) ca_file: Option<PathBuf>,

    /// How many seconds the upstream may take until its answer begins, the upload included; after that the caller
    /// gets a 504
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds, env = "SIDECAR_TIMEOUT")]
    #[arg(hide_env = true, help_heading = "Where calls go")]
    pub(crate) timeout: Duration,

    /// How many bytes of memory an upload may take until its answer begins, to be sent again with a new token. The 401
    /// of a longer one is handed to the caller
    #[arg(long, value_name = "BYTES", default_value = "1048576", env = "SIDECAR_REPLAY_LIMIT", hide_env = true)]
    #[arg(help_heading = "Where calls go")]
    pub(crate) replay_limit: usize,

    #[command(flatten)]
    pub(crate) login: Login,

    /// Where it listens: ADDRESS:PORT (port 0: a free one), or unix:/PATH for a socket that only this user can open
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8420", env = "SIDECAR_LISTEN", hide_env = true)]
    #[arg(help_heading = "Who may call")]
    pub(crate) listen: Address,

    /// Lets --listen be an address that other machines reach. Everyone who reaches it acts with your token
    #[arg(long, env = "SIDECAR_ALLOW_REMOTE_CALLERS", hide_env = true, help_heading = "Who may call")]
    pub(crate) allow_remote_callers: bool,

    /// Another name that callers may call it by, such as sidecar or sidecar:8420; several times or with commas.
    /// Without a port it is good for each. Default: localhost and the loopback addresses, with the port of --listen
    #[arg(long, value_name = "HOST", value_delimiter = ',', env = "SIDECAR_ALLOW_HOST", hide_env = true)]
    #[arg(help_heading = "Who may call")]
    pub(crate) allow_host: Vec<HostRule>,

    /// A web page's origin, such as http://localhost:3000, whose scripts may call; several times or with commas.
    /// Default: none
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = page, env = "SIDECAR_ALLOW_ORIGIN")]
    #[arg(hide_env = true, help_heading = "Who may call")]
    pub(crate) allow_origin: Vec<Origin>,

    /// Answers /health, /ready and /metrics at this address. Nothing there carries a token or changes anything, so it
    /// may be one that a probe on another machine reaches. Default: none
    #[arg(long, value_name = "ADDRESS", env = "SIDECAR_STATUS_LISTEN", hide_env = true, help_heading = "Running it")]
    pub(crate) status_listen: Option<Address>,

    /// How many seconds requests may take to end after SIGTERM or ctrl-c; a second ctrl-c ends it at once
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds, env = "SIDECAR_GRACE")]
    #[arg(hide_env = true, help_heading = "Running it")]
    pub(crate) grace: Duration,

    /// What is logged to standard error: off, error, warn, info, debug or trace. Never a secret, nor a header, a query
    /// or a body
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "SIDECAR_LOG", hide_env = true)]
    #[arg(help_heading = "Running it")]
    pub(crate) log: LevelFilter,
}

/// Where the token comes from.
#[derive(Clone, Group)]
#[command(next_help_heading = "Where the token comes from")]
pub(crate) struct Login {
    /// How the token is asked for
    #[arg(long, value_enum, env = "SIDECAR_GRANT", hide_env = true, conflicts_with = "preset")]
    pub(crate) grant: Option<Grant>,

    /// A provider whose way of logging in is known. meshydb: --account, --public-key, --tenant, and --username with a
    /// password or a refresh token. mesh-connect: --client-id with a client secret
    #[arg(long, value_enum, env = "SIDECAR_PRESET", hide_env = true)]
    pub(crate) preset: Option<Preset>,

    /// A file that holds the token itself and that something else rewrites, as Kubernetes does: in place of --grant and
    /// --preset. It need not be there yet
    #[arg(long, value_name = "FILE", env = "SIDECAR_TOKEN_FILE", hide_env = true)]
    #[arg(conflicts_with_all = ["grant", "preset"])]
    pub(crate) token_file: Option<PathBuf>,

    /// A program that prints the token as JSON, and its arguments, in words apart by spaces: in place of --grant and
    /// --preset. It is run for every token, by no shell, and prints an ExecCredential, as kubectl's credential plugins
    /// do, unless --token-at says otherwise
    #[arg(long, value_name = "COMMAND", env = "SIDECAR_TOKEN_COMMAND", hide_env = true)]
    #[arg(conflicts_with_all = ["grant", "preset", "token_file"])]
    pub(crate) token_command: Option<String>,

    /// Where in what the program prints the token lies: a JSON pointer, such as /accessToken
    #[arg(long, value_name = "POINTER", env = "SIDECAR_TOKEN_AT", hide_env = true)]
    pub(crate) token_at: Option<String>,

    /// Where it says when the token ends, as a date or in seconds since 1970: a JSON pointer, such as /expires_on
    #[arg(long, value_name = "POINTER", env = "SIDECAR_EXPIRES_AT", hide_env = true)]
    pub(crate) expires_at: Option<String>,

    /// The issuer, whose metadata says where its token endpoint is; for a preset, another place to log in at
    #[arg(long, value_name = "URL", env = "SIDECAR_ISSUER", hide_env = true, conflicts_with = "token_url")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) issuer: Option<String>,

    /// The token endpoint itself, in place of the issuer
    #[arg(long, value_name = "URL", env = "SIDECAR_TOKEN_URL", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) token_url: Option<String>,

    /// Allow an issuer, a token endpoint or a preset's place on plain http:// beyond loopback: where the network is trusted
    #[arg(long, env = "SIDECAR_ALLOW_PLAIN_HTTP", hide_env = true)]
    pub(crate) allow_plain_http: bool,

    /// Where the grant device-code asks for a code, beside --token-url; an issuer's metadata says it by itself
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

    /// How the client's secret is sent: in the Authorization header, or in the body [default: basic]
    #[arg(long, value_enum, env = "SIDECAR_CLIENT_AUTH", hide_env = true)]
    pub(crate) client_auth: Option<Auth>,

    /// The user, for the grant password and for meshydb
    #[arg(long, value_name = "NAME", env = "SIDECAR_USERNAME", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) username: Option<String>,

    /// A file that holds the user's password
    #[arg(long, value_name = "FILE", env = "SIDECAR_PASSWORD_FILE", hide_env = true)]
    pub(crate) password_file: Option<PathBuf>,

    /// A file that holds the refresh token. Where the issuer hands out a new one, that is written back to the file. Beside
    /// a password and for the grant device-code it need not be there yet
    #[arg(long, value_name = "FILE", env = "SIDECAR_REFRESH_TOKEN_FILE", hide_env = true)]
    pub(crate) refresh_token_file: Option<PathBuf>,

    /// Where sidecars share a session, so that they refresh its token in turn: file:/DIRECTORY for those of one machine
    /// and user, redis://HOST:PORT or rediss://HOST:PORT for a fleet. A password of Redis is for the variable only.
    /// Default: none, each sidecar has a session of its own
    #[arg(long, value_name = "STORE", env = "SIDECAR_STORE", hide_env = true)]
    pub(crate) store: Option<String>,

    /// The name of the session in --store, the same for all that share it. Default: the grant or preset, issuer, client,
    /// user, tenant and scope
    #[arg(long, value_name = "NAME", env = "SIDECAR_STORE_KEY", hide_env = true, requires = "store")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) store_key: Option<String>,

    /// A file that holds the key that encrypts the session in --store: 64 hexadecimal digits, as `openssl rand -hex 32`
    /// prints them. Default: it is not encrypted
    #[arg(long, value_name = "FILE", env = "SIDECAR_STORE_SEAL_KEY_FILE", hide_env = true, requires = "store")]
    pub(crate) store_seal_key_file: Option<PathBuf>,

    /// A file that holds the token to be exchanged
    #[arg(long, value_name = "FILE", env = "SIDECAR_SUBJECT_TOKEN_FILE", hide_env = true)]
    pub(crate) subject_token_file: Option<PathBuf>,

    /// What the token to be exchanged is, by the identifiers of RFC 8693 [default: an access token]
    #[arg(long, value_name = "URN", env = "SIDECAR_SUBJECT_TOKEN_TYPE", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) subject_token_type: Option<String>,

    /// A file that holds the assertion of the grant jwt-bearer
    #[arg(long, value_name = "FILE", env = "SIDECAR_ASSERTION_FILE", hide_env = true)]
    pub(crate) assertion_file: Option<PathBuf>,

    /// The scope to ask for; several words in one text
    #[arg(long, value_name = "WORDS", env = "SIDECAR_SCOPE", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) scope: Option<String>,

    /// A service that the token is for, by its name at the issuer; several times for several
    #[arg(long, value_name = "NAME", env = "SIDECAR_AUDIENCE", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) audience: Vec<String>,

    /// A service that the token is for, by its URI (RFC 8707); several times for several
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

    /// meshydb: the tenant, which is put on each call as well
    #[arg(long, value_name = "NAME", env = "SIDECAR_TENANT", hide_env = true)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) tenant: Option<String>,
}

/// The OAuth 2 grants.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Grant {
    /// For itself: --client-id and a client secret
    ClientCredentials,
    /// For a user: --client-id, --username and a password
    Password,
    /// From a saved session: --client-id and a refresh token
    RefreshToken,
    /// A person logs in, in a browser on any machine (RFC 8628): --client-id. Where and with which code is said on
    /// standard error, then it waits. --refresh-token-file keeps the session for the next start
    DeviceCode,
    /// A token for another (RFC 8693): a subject token
    TokenExchange,
    /// A token for an assertion (RFC 7523): an assertion
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

/// A page may come from plain `http://`: no token goes to it.
fn page(text: &str) -> Result<Origin, tower_bearer::Error> {
    Origin::allow_insecure(text)
}
