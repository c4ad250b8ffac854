//! Secrets: from a variable or a file, never from the command line.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use tower_bearer::Secret;

use crate::Wrong;

/// One of the secrets there are.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// What people call it.
    name: &'static str,
    /// Where it may not be.
    flag: &'static str,
    variable: &'static str,
    file_flag: &'static str,
}

/// Where a secret comes from.
#[derive(Clone)]
pub(crate) enum Given {
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

/// Says where a secret belongs that somebody put on the command line; does not repeat it.
pub(crate) fn none_on_the_command_line(args: impl Iterator<Item = OsString>) -> Result<(), Wrong> {
    let mut former = OsString::new();
    for arg in args {
        let is_store = former == "--store";
        former.clone_from(&arg);
        let arg = arg.to_string_lossy();
        let (flag, value) = arg.split_once('=').unwrap_or((&arg, ""));
        if is_store && has_password(&arg) || flag == "--store" && has_password(value) {
            return Err(Wrong::new(
                "--store",
                "every user of this machine can read a command line (ps), so no password belongs there; put the whole URL \
                 into the variable SIDECAR_STORE",
            ));
        }
        if let Some(Kind { name, variable, file_flag, .. }) = KINDS.iter().find(|kind| kind.flag == flag) {
            return Err(Wrong::new(
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
    /// Where this secret comes from, checked as far as it can be before the first token is asked for.
    pub(crate) fn find(self, file: Option<PathBuf>) -> Result<Option<Given>, Wrong> {
        let Self { name, variable, file_flag, .. } = self;
        match (std::env::var_os(variable), file) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Wrong::new(
                file_flag,
                format_args!("the {name} is in the variable {variable} as well; unset it, or leave out the file"),
            )),
            (Some(value), None) => match value.into_string() {
                Ok(value) if !value.trim().is_empty() => Ok(Some(Given::Variable(value.into()))),
                _ => Err(Wrong::new(
                    variable,
                    format_args!("it is empty or not UTF-8; put the {name} there, or unset it"),
                )),
            },
            (None, Some(path)) => {
                let shown = path.display();
                match std::fs::read_to_string(&path).map(Secret::from) {
                    Ok(text) if text.expose().trim().is_empty() => {
                        Err(Wrong::new(file_flag, format_args!("{shown} is empty; write the {name} into it")))
                    }
                    Ok(_) => Ok(Some(Given::File(path))),
                    Err(error) => Err(Wrong::new(
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

    /// Whether a file that the sidecar itself writes holds this secret already. If not, its directory must take it.
    pub(crate) fn is_kept_in(self, path: &Path) -> Result<bool, Wrong> {
        let wrong = |error: io::Error| {
            let shown = path.display();
            let remedy = "name a file in a directory that this user may write";
            Wrong::new(self.file_flag, format_args!("{shown} cannot be kept ({error}); {remedy}"))
        };
        tempfile::NamedTempFile::new_in(directory(path)).map_err(wrong)?;
        match std::fs::read_to_string(path).map(Secret::from) {
            Ok(text) => Ok(!text.expose().trim().is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(wrong(error)),
        }
    }

    /// The same for a secret that this login cannot do without.
    pub(crate) fn need(self, file: Option<PathBuf>, login: &str) -> Result<Given, Wrong> {
        self.find(file)?.ok_or_else(|| {
            Wrong::new(
                self.file_flag,
                format_args!(
                    "{login} needs the {}; put it into the variable {}, or name a file that holds it",
                    self.name, self.variable
                ),
            )
        })
    }
}

// === impl Given ===

impl Given {
    /// What the sources ask at each fetch. A file is read anew: it may have been rewritten.
    pub(crate) fn supply(&self) -> impl Fn() -> Asked + Send + Sync + use<> {
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

    /// The secret as it is now.
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

/// Puts a secret in the place of the one in a file, so that there is a whole one at any time. Only this user can read it.
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
