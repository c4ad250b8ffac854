//! Reads secrets from variables and files, never from the command line.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use tower_bearer::Secret;

use crate::ConfigError;

/// A kind of secret.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// The name in messages.
    name: &'static str,
    /// The flag that is rejected.
    flag: &'static str,
    variable: &'static str,
    file_flag: &'static str,
}

/// Where a secret comes from.
#[derive(Clone)]
pub(crate) enum SecretInput {
    Variable(Secret),
    File(PathBuf),
}

type Asked = Pin<Box<dyn Future<Output = io::Result<Secret>> + Send>>;

macro_rules! kind {
    ($constant:ident, $name:literal, $flag:literal, $variable:literal) => {
        pub(crate) const $constant: Kind =
            Kind { name: $name, flag: $flag, variable: $variable, file_flag: concat!($flag, "-file") };
    };
}

kind!(CLIENT_SECRET, "client secret", "--client-secret", "SIDECAR_CLIENT_SECRET");
kind!(PASSWORD, "password", "--password", "SIDECAR_PASSWORD");
kind!(REFRESH_TOKEN, "refresh token", "--refresh-token", "SIDECAR_REFRESH_TOKEN");
kind!(SUBJECT_TOKEN, "subject token", "--subject-token", "SIDECAR_SUBJECT_TOKEN");
kind!(ASSERTION, "assertion", "--assertion", "SIDECAR_ASSERTION");
kind!(STORE_SEAL_KEY, "seal key", "--store-seal-key", "SIDECAR_STORE_SEAL_KEY");

const KINDS: [Kind; 6] = [CLIENT_SECRET, PASSWORD, REFRESH_TOKEN, SUBJECT_TOKEN, ASSERTION, STORE_SEAL_KEY];

/// Rejects secrets on the command line. The error says where the secret belongs, and does not repeat it.
pub(crate) fn reject_on_command_line(args: impl Iterator<Item = OsString>) -> Result<(), ConfigError> {
    let mut former = OsString::new();
    for arg in args {
        let is_store = former == "--store";
        former.clone_from(&arg);
        let arg = arg.to_string_lossy();
        let (flag, value) = arg.split_once('=').unwrap_or((&arg, ""));
        if is_store && has_password(&arg) || flag == "--store" && has_password(value) {
            return Err(ConfigError::new(
                "--store",
                "every user of this machine can read a command line (ps), so no password belongs there; put the whole URL \
                 into the variable SIDECAR_STORE",
            ));
        }
        if let Some(Kind { name, variable, file_flag, .. }) = KINDS.iter().find(|kind| kind.flag == flag) {
            return Err(ConfigError::new(
                flag,
                format_args!(
                    "every user of this machine can read a command line (ps), so no {name} belongs there; put it into \
                     the variable {variable}, or into a file and name that with {file_flag}"
                ),
            ));
        }
    }
    Ok(())
}

fn has_password(url: &str) -> bool {
    let user = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    user.is_some_and(|(user, _)| user.contains(':'))
}

// === impl Kind ===

impl Kind {
    /// Finds the variable or file of this secret, and checks that it can be read and is not empty.
    pub(crate) fn find(self, file: Option<PathBuf>) -> Result<Option<SecretInput>, ConfigError> {
        let Self { name, variable, file_flag, .. } = self;
        match (std::env::var_os(variable), file) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(ConfigError::new(
                file_flag,
                format_args!("the {name} is in the variable {variable} as well; unset it, or leave out the file"),
            )),
            (Some(value), None) => match value.into_string() {
                Ok(value) if !value.trim().is_empty() => Ok(Some(SecretInput::Variable(value.into()))),
                _ => Err(ConfigError::new(
                    variable,
                    format_args!("it is empty or not UTF-8; put the {name} there, or unset it"),
                )),
            },
            (None, Some(path)) => {
                let shown = path.display();
                match std::fs::read_to_string(&path).map(Secret::from) {
                    Ok(text) if text.expose().trim().is_empty() => {
                        Err(ConfigError::new(file_flag, format_args!("{shown} is empty; write the {name} into it")))
                    }
                    Ok(_) => Ok(Some(SecretInput::File(path))),
                    Err(error) => Err(ConfigError::new(
                        file_flag,
                        format_args!(
                            "{shown} cannot be read ({error}); name a file that holds the {name} and that this user \
                             may read"
                        ),
                    )),
                }
            }
        }
    }

    /// Whether the file, which the sidecar writes, already holds this secret. Returns an error if the sidecar cannot
    /// write in its directory.
    pub(crate) fn is_saved_in(self, path: &Path) -> Result<bool, ConfigError> {
        let invalid = |error: io::Error| {
            let shown = path.display();
            let remedy = "name a file in a directory that this user may write";
            ConfigError::new(self.file_flag, format_args!("{shown} cannot be kept ({error}); {remedy}"))
        };
        tempfile::NamedTempFile::new_in(directory(path)).map_err(invalid)?;
        match std::fs::read_to_string(path).map(Secret::from) {
            Ok(text) => Ok(!text.expose().trim().is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(invalid(error)),
        }
    }

    /// Like [`find`](Kind::find), for a secret that this login needs.
    pub(crate) fn need(self, file: Option<PathBuf>, login: &str) -> Result<SecretInput, ConfigError> {
        self.find(file)?.ok_or_else(|| {
            ConfigError::new(
                self.file_flag,
                format_args!(
                    "{login} needs the {}; put it into the variable {}, or name a file that holds it",
                    self.name, self.variable
                ),
            )
        })
    }
}

// === impl SecretInput ===

impl SecretInput {
    /// The closure that sources call at each fetch. It reads a file anew, because the file may have changed.
    pub(crate) fn provider(&self) -> impl Fn() -> Asked + Send + Sync + use<> {
        let given = self.clone();
        move || -> Asked {
            match given.clone() {
                Self::Variable(secret) => Box::pin(std::future::ready(Ok(secret))),
                Self::File(path) => Box::pin(async move {
                    let text = tokio::fs::read_to_string(&path).await;
                    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                    text.map(Secret::from).map_err(named)
                }),
            }
        }
    }

    /// The current secret.
    pub(crate) fn read(&self) -> io::Result<Secret> {
        match self {
            Self::Variable(secret) => Ok(secret.clone()),
            Self::File(path) => std::fs::read_to_string(path).map(Secret::from),
        }
    }

    pub(crate) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Variable(_) => None,
            Self::File(path) => Some(path.clone()),
        }
    }
}

/// Replaces the secret in a file atomically. Only this user can read the new file.
pub(crate) async fn rewrite(path: PathBuf, secret: Secret) -> io::Result<()> {
    let write = move || {
        let mut file = tempfile::NamedTempFile::new_in(directory(&path))?;
        writeln!(file, "{}", secret.expose())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    tokio::task::spawn_blocking(write).await?
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
