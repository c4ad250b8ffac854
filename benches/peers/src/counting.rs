//! Counts instructions with callgrind. This program runs itself under valgrind, which counts in one function only.

use std::process::Command;

use tower::BoxError;

/// Runs the counted work. callgrind finds this function by its name.
///
/// # Errors
/// Returns the errors of the work.
#[inline(never)]
pub fn the_counted_section(work: &mut dyn FnMut() -> Result<(), BoxError>) -> Result<(), BoxError> {
    work()
}

/// The instructions that this program executes in [`the_counted_section`], run with these arguments.
///
/// # Errors
/// Returns an error if there is no valgrind, or if the program failed. It contains the program's last line.
pub fn instructions(arguments: &[String]) -> Result<u64, BoxError> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*the_counted_section*"])
        .arg(std::env::current_exe()?)
        .args(arguments);
    let (_, words) = crate::child::run(command)?;
    // "==1234== Collected : 123456"
    let count = words.lines().find_map(|line| line.split_once("Collected :")).ok_or("valgrind counted nothing")?;
    Ok(count.1.trim().replace(',', "").parse()?)
}
