//! One run of a program: what it prints is bounded, and it does not outlive the future.

use std::io::ErrorKind;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::{Either, select, try_join3};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

/// What a program printed, and how it ended.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The end of it.
    pub(super) stderr: Vec<u8>,
}

/// No token is longer.
const LONGEST_STDOUT: usize = 1024 * 1024;
/// Much more than is shown: a secret that the cut leaves half of must not reach what is shown.
const STDERR_KEPT: usize = 16 * 1024;
/// How long to wait, once the program has ended, for the ends of its pipes: whoever it left behind may hold them open.
const PIPE_GRACE: Duration = Duration::from_secs(1);

/// A program that is killed when this is dropped, with those it has started: a program is often a script, and the one
/// that hangs its child.
struct Group(Child);

/// Runs it to its end, with this input or none. Dropping the future kills it.
pub(super) async fn run(command: &mut Command, input: Option<&str>) -> Result<Output, String> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let child = command
        .spawn()
        .map_err(|error| format!("it could not be started: {error}; check its name, and the PATH of this process"))?;
    let mut group = Group(child);
    let child = &mut group.0;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    let all = |read: &mut Vec<u8>| match read.len() {
        0..=LONGEST_STDOUT => Ok(()),
        _ => Err("it prints more than 1 MiB, which no token is; it was ended".to_owned()),
    };
    let the_end = |read: &mut Vec<u8>| {
        // Not at each byte: moving the rest costs.
        if read.len() > 2 * STDERR_KEPT {
            read.drain(..read.len() - STDERR_KEPT);
        }
        Ok(())
    };
    let ended = {
        // All at once: each full pipe would stop it.
        let write = write(stdin, input.unwrap_or_default());
        let pipes = pin!(try_join3(write, read(stdout, &mut printed, all), read(stderr, &mut said, the_end)));
        match select(pin!(child.wait()), pipes).await {
            Either::Left((ended, pipes)) => {
                // What it printed itself is in the pipes by now.
                tokio::time::timeout(PIPE_GRACE, pipes).await.unwrap_or(Ok(((), (), ())))?;
                ended
            }
            Either::Right((read, ended)) => {
                read?;
                ended.await
            }
        }
    };
    let status = ended.map_err(|error| format!("how it ended cannot be told: {error}"))?;
    Ok(Output { status, stdout: printed, stderr: said })
}

impl Drop for Group {
    fn drop(&mut self) {
        // Without a number it has ended and was waited for, and the number may be another's.
        #[cfg(unix)]
        if let Some(group) = self.0.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?)) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Writes the input and closes the pipe.
async fn write(pipe: Option<ChildStdin>, input: &str) -> Result<(), String> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let written = async { pipe.write_all(input.as_bytes()).await.and(pipe.flush().await) };
    match written.await {
        // A program need not read its input.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("its input cannot be written: {error}")),
        _ => Ok(()),
    }
}

async fn read(
    mut pipe: impl AsyncRead + Unpin,
    into: &mut Vec<u8>,
    bound: impl Fn(&mut Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    loop {
        into.reserve(4096);
        match pipe.read_buf(into).await {
            Ok(0) => return Ok(()),
            Ok(_) => bound(into)?,
            Err(error) => return Err(format!("what it prints cannot be read: {error}")),
        }
    }
}
