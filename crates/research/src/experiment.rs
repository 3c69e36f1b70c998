//! The user's own experiment: a command that reads the set-up and prints results.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use lm::Progress;
use serde_json::Value;

use crate::error::ResearchError;

/// Runs `command` by the shell with the set-up as JSON on its standard input; its standard output is the results.
///
/// # Errors
/// If it does not start, fails, or prints no JSON.
pub(crate) fn run(command: &str, setup: &Value, progress: &dyn Progress) -> Result<Value, ResearchError> {
    let fail = |what: String| ResearchError::Experiment(what);
    let mut shell = Command::new("sh");
    // A group of its own, so that what the shell starts can be stopped with it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    let mut child = shell
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| fail(e.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A command that does not read its input is no failure.
        let _ = input.write_all(setup.to_string().as_bytes());
    }
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.map(|mut o| o.read_to_string(&mut text)).transpose().map(|_| text)
    });
    let status = loop {
        match child.try_wait().map_err(|e| fail(e.to_string()))? {
            Some(status) => break status,
            None if progress.cancelled() => {
                stop(&mut child);
                return Err(lm::LmError::Interrupted.into());
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let text = reader
        .join()
        .map_err(|_| fail("its output could not be read".into()))?
        .map_err(|e| fail(e.to_string()))?;
    if !status.success() {
        return Err(fail(format!("{command:?} ended with {status}")));
    }
    serde_json::from_str(&text).map_err(|e| fail(format!("{command:?} printed no JSON: {e}")))
}

/// Ends the command and what it started.
fn stop(child: &mut std::process::Child) {
    #[cfg(unix)]
    if let Ok(group) = i32::try_from(child.id()) {
        if let Some(group) = rustix::process::Pid::from_raw(group) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
            std::thread::sleep(Duration::from_millis(200));
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}
