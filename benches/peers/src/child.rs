//! Each measurement runs in its own process, so that a peer that panics or hangs does not affect the others.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tower::BoxError;

use crate::now;

const MEASURE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs this program with these arguments, and reads its answer.
///
/// # Errors
/// Returns an error with its last line if it failed.
pub fn measure<T: DeserializeOwned>(arguments: &[String]) -> Result<T, BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    let (answer, _) = run(command)?;
    Ok(serde_json::from_str(answer.lines().last().ok_or("no answer")?)?)
}

/// Runs a command to its end, and returns its stdout and stderr.
///
/// # Errors
/// Returns an error if it did not start, failed, or took too long.
pub fn run(mut command: Command) -> Result<(String, String), BoxError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let [out, err] = [thread::spawn(move || read(&mut out)), thread::spawn(move || read(&mut err))];
    let began = now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > MEASURE_TIMEOUT {
            child.kill()?;
            child.wait()?;
            return Err(format!("not done within {} s", MEASURE_TIMEOUT.as_secs()).into());
        }
        thread::sleep(Duration::from_millis(5));
    };
    let [out, err] = [out, err].map(|reader| reader.join().expect("no panic"));
    if status.success() { Ok((out, err)) } else { Err(last_words(&err).into()) }
}

fn read(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_words(words: &str) -> String {
    let said = words
        .lines()
        .rfind(|line| !line.trim().is_empty() && !line.starts_with("==") && !line.contains("RUST_BACKTRACE"));
    said.unwrap_or("it failed without output").to_owned()
}
