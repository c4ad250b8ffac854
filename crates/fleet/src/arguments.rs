//! The command line. It is parsed by hand, because a few options do not need a crate.

use std::ops::RangeInclusive;

pub(crate) const USAGE: &str = "\
Usage: fleet [--processes N] [--expiries N] [--kill] [--store file|redis]
             [--redis URL] [--json]

  --processes N  how many processes share the session, 1 to 1000 [default: 50]
  --expiries N   how often the token is renewed, 1 to 1000 [default: 10]
  --kill         kill processes at random with SIGKILL, and start others
  --store NAME   the store of the session: `file`, a new directory, or `redis`, a
                 redis-server from the path on a free port [default: file]
  --redis URL    the session is in this Redis or Valkey, which is running
  --json         print the figures as one line of JSON at the end
  --help         print this text";

#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) processes: usize,
    pub(crate) expiries: usize,
    pub(crate) kill: bool,
    pub(crate) store: Store,
    pub(crate) json: bool,
}

/// The store of the session.
#[derive(Debug, PartialEq)]
pub(crate) enum Store {
    File,
    /// A redis-server that this program starts.
    Redis,
    /// The server of this URL.
    RedisAt(String),
}

impl Arguments {
    /// `None` if the caller asks for help.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self { processes: 50, expiries: 10, kill: false, store: Store::File, json: false };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut needed = || value.clone().or_else(|| words.next()).ok_or_else(|| format!("{name} needs a value"));
            match name {
                "--processes" => parsed.processes = number(name, &needed()?, 1..=1000)?,
                "--expiries" => parsed.expiries = number(name, &needed()?, 1..=1000)?,
                "--redis" => parsed.store = Store::RedisAt(needed()?),
                "--store" => match (&*needed()?, &parsed.store) {
                    ("file", _) => parsed.store = Store::File,
                    ("redis", Store::RedisAt(_)) => {}
                    ("redis", _) => parsed.store = Store::Redis,
                    (other, _) => return Err(format!("--store is `file` or `redis`: {other}")),
                },
                "--kill" if value.is_none() => parsed.kill = true,
                "--json" if value.is_none() => parsed.json = true,
                "--help" | "-h" if value.is_none() => return Ok(None),
                _ => return Err(format!("unknown argument: {word}")),
            }
        }
        Ok(Some(parsed))
    }
}

fn number(name: &str, value: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("{name} is not a number from {} to {}: {value}", range.start(), range.end()))
}
