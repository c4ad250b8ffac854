//! Runs a program. Its output is bounded, and it does not outlive the future.

use std::io::ErrorKind;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::{Either, select, try_join3};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

/// The output and the exit status of a program.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// At least the last `STDERR_KEPT` bytes.
    pub(super) stderr: Vec<u8>,
}

/// A program that prints more is killed.
const MAX_STDOUT: usize = 1024 * 1024;
/// Much more than an error shows. The cut may leave half of a secret, which the redaction would not find, so the cut
/// must be far from the shown part.
const STDERR_KEPT: usize = 16 * 1024;
/// How long to wait for the pipes to close after the program has ended. Processes that it started may hold them open.
const PIPE_GRACE: Duration = Duration::from_secs(1);

/// Kills the program and the processes that it started when dropped. The program is often a script, and the process
/// that hangs is its child.
struct Group(Child);

/// Runs the program to its end. Dropping the future kills it.
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
        0..=MAX_STDOUT => Ok(()),
        _ => Err("it printed more than 1 MiB, so it was killed; no token is that long".to_owned()),
    };
    let the_end = |read: &mut Vec<u8>| {
        // Cuts rarely, because moving the rest is expensive.
        if read.len() > 2 * STDERR_KEPT {
            read.drain(..read.len() - STDERR_KEPT);
        }
        Ok(())
    };
    let ended = {
        // Serves all pipes at once, because the program blocks if one of them is full.
        let write = write(stdin, input.unwrap_or_default());
        let pipes = pin!(try_join3(write, read(stdout, &mut printed, all), read(stderr, &mut said, the_end)));
        match select(pin!(child.wait()), pipes).await {
            Either::Left((ended, pipes)) => {
                // All that the program printed is in the pipes by now, so a timeout loses nothing of it.
                tokio::time::timeout(PIPE_GRACE, pipes).await.unwrap_or(Ok(((), (), ())))?;
                ended
            }
            Either::Right((read, ended)) => {
                read?;
                ended.await
            }
        }
    };
    let status = ended.map_err(|error| format!("failed to get its exit status: {error}"))?;
    Ok(Output { status, stdout: printed, stderr: said })
}

impl Drop for Group {
    fn drop(&mut self) {
        // Without an id, the program was waited for, and the system may have reused its id.
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
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("failed to write its input: {error}")),
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
            Err(error) => return Err(format!("failed to read its output: {error}")),
        }
    }
}
