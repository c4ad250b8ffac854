//! The command line. It is parsed by hand, because two options do not need a crate.

use std::time::Duration;

pub(crate) const USAGE: &str = "\
Usage: tour [--seconds N] [--json]

  --seconds N  send requests for N seconds, 1 to 3600 [default: 10]; below 12 the
               tour takes a little longer, until all faults are over
  --json       print the figures as one line of JSON instead of tables
  --help       print this text";

#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) length: Duration,
    pub(crate) json: bool,
}

impl Arguments {
    /// `None` if the caller asks for help.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self { length: Duration::from_secs(10), json: false };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            match (name, value) {
                ("--seconds", value) => {
                    let value = value.or_else(|| arguments.next()).ok_or("--seconds needs a number")?;
                    let seconds = value.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
                    let seconds =
                        seconds.ok_or_else(|| format!("--seconds is not a number from 1 to 3600: {value}"))?;
                    parsed.length = Duration::from_secs(seconds);
                }
                ("--json", None) => parsed.json = true,
                ("--help" | "-h", None) => return Ok(None),
                _ => return Err(format!("unknown argument: {argument}")),
            }
        }
        Ok(Some(parsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Arguments>, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_parsed_in_any_order_and_both_spellings() {
        let minute = Arguments { length: Duration::from_secs(60), json: true };
        assert_eq!(parse("--seconds 60 --json").unwrap().unwrap(), minute);
        assert_eq!(parse("--json --seconds=60").unwrap().unwrap(), minute);
        assert_eq!(parse("").unwrap().unwrap(), Arguments { length: Duration::from_secs(10), json: false });
        assert_eq!(parse("--help"), Ok(None));
    }

    #[test]
    fn a_wrong_option_is_an_error() {
        for line in ["--seconds", "--seconds 0", "--seconds 3601", "--seconds ten", "--json=yes", "--jsn", "10"] {
            parse(line).unwrap_err();
        }
    }
}
