//! Starts, counts, kills and stops the processes.

use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tower::BoxError;

use crate::worker;

/// The sums of all processes' counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) adopted: u64,
    pub(crate) lease_waits: u64,
    pub(crate) first_failure: Option<String>,
}

pub(crate) struct Processes {
    origin: String,
    store: String,
    running: Vec<Process>,
    counts: Arc<Mutex<Counts>>,
    pub(crate) killed: usize,
}

struct Process {
    child: Child,
    /// The task that reads its output to the end.
    reader: JoinHandle<()>,
}

impl Processes {
    /// Starts `count` processes that share the session in `store`.
    pub(crate) fn start(count: usize, origin: String, store: String) -> io::Result<Self> {
        let mut all = Self { origin, store, running: Vec::new(), counts: Arc::default(), killed: 0 };
        for _ in 0..count {
            all.running.push(all.spawn()?);
        }
        Ok(all)
    }

    fn spawn(&self) -> io::Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([worker::SUBCOMMAND, &self.origin, &self.store])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let counts = Arc::clone(&self.counts);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                counts.lock().unwrap_or_else(PoisonError::into_inner).add(&line);
            }
        });
        Ok(Process { child, reader })
    }

    /// Kills one at random with SIGKILL and starts another in its place.
    pub(crate) async fn kill_one(&mut self) -> io::Result<()> {
        let number = fastrand::usize(..self.running.len());
        self.running[number].child.kill().await?;
        self.killed += 1;
        self.running[number] = self.spawn()?;
        Ok(())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops all processes, and waits for them.
    ///
    /// # Errors
    /// Returns an error if a process had ended by itself or failed.
    pub(crate) async fn stop(mut self) -> Result<Counts, BoxError> {
        // Closing all inputs first lets the processes end at the same time.
        self.running.iter_mut().for_each(|process| drop(process.child.stdin.take()));
        for Process { mut child, reader } in self.running {
            let status = tokio::time::timeout(Duration::from_secs(15), child.wait()).await??;
            if !status.success() {
                return Err(format!("a process of the fleet ended with {status}").into());
            }
            reader.await?;
        }
        Ok(self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Counts {
    fn add(&mut self, line: &str) {
        if let Some(failure) = line.strip_prefix("failure: ") {
            self.first_failure.get_or_insert_with(|| failure.to_owned());
            return;
        }
        let numbers: Vec<u64> = line.split(' ').map_while(|number| number.parse().ok()).collect();
        // A killed process may leave an incomplete line.
        if let [requests, failed, adopted, lease_waits] = numbers[..] {
            self.requests += requests;
            self.failed += failed;
            self.adopted += adopted;
            self.lease_waits += lease_waits;
        }
    }
}
