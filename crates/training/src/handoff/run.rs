//! Starting an engine, its log passed on line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{HandoffError, Plan};

/// Finds the program a plan starts: beside `python` where that is given, else on `PATH`.
///
/// # Errors
/// If it is in neither place.
pub fn find(plan: &Plan, python: Option<&Path>) -> Result<PathBuf, HandoffError> {
    let program = plan.command.first().map_or("", String::as_str);
    let folders: Vec<PathBuf> = match python {
        Some(python) => python.parent().map(Path::to_path_buf).into_iter().collect(),
        None => std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default(),
    };
    let names = [program.to_owned(), format!("{program}.exe")];
    let found = folders.iter().flat_map(|f| names.iter().map(move |n| f.join(n))).find(|p| p.is_file());
    found.ok_or_else(|| HandoffError::Missing {
        program: program.into(),
        beside: python.map_or(String::new(), |p| format!(" beside {}", p.display())),
        remedy: match plan.engine {
            "TRL" => "pip install 'trl[peft]==1.16.0', or name its Python with --python",
            _ => "pip install openrlhf==0.11.2 on the cluster, or type the line of handoff/launch.txt there",
        }
        .into(),
    })
}

/// Starts `program` (from [`find`]) with the arguments of the plan and waits for its end. Every line it says goes to
/// `each` and into `log.txt` beside the plan's files. Once `stop` says so, the program and all it started are ended.
///
/// # Errors
/// If it cannot be started or ends with an error (its last words are given), or was stopped.
pub fn run(
    plan: &Plan,
    program: &Path,
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&str),
) -> Result<(), HandoffError> {
    let path = plan.folder.join("log.txt");
    let mut log = File::create(&path).map_err(HandoffError::io(&path))?;
    let mut command = Command::new(program);
    // A group of its own: its launchers, workers and itself are ended together.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .args(plan.command.iter().skip(1))
        .envs(plan.environment.iter().map(|(k, v)| (k, v)))
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(HandoffError::io(program))?;
    let (send, receive) = mpsc::channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
        child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
    ];
    for pipe in pipes.into_iter().flatten() {
        let send = send.clone();
        std::thread::spawn(move || lines(pipe, &send));
    }
    drop(send);
    let mut last = String::new();
    let mut asked: Option<Instant> = None;
    loop {
        if stop() {
            match asked {
                None => {
                    end(&mut child, false);
                    asked = Some(Instant::now());
                }
                Some(since) if since.elapsed() > GRACE => {
                    end(&mut child, true);
                    break;
                }
                Some(_) => {}
            }
        }
        let line = match receive.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
        writeln!(log, "{line}").map_err(HandoffError::io(&path))?;
        each(&line);
        if says_more(&line) {
            last = line;
        }
    }
    let status = child.wait().map_err(HandoffError::io(program))?;
    if asked.is_some() {
        return Err(HandoffError::Interrupted(plan.engine));
    }
    if status.success() {
        return Ok(());
    }
    Err(HandoffError::Failed {
        program: plan.command.iter().take(2).cloned().collect::<Vec<_>>().join(" "),
        status: status.code().map_or("a signal".into(), |c| format!("exit code {c}")),
        last: last.trim().chars().take(300).collect(),
        log: path,
    })
}

/// How long a program that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// Asks the program and all it started to end, or ends them.
fn end(child: &mut Child, now: bool) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        let signal = if now { Signal::KILL } else { Signal::TERM };
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // Gone already: nothing to end.
            let _ = kill_process_group(group, signal);
        }
    }
    #[cfg(not(unix))]
    let _ = (now, child.kill());
}

/// Lines end with a line feed or, of progress bars, a carriage return.
fn lines(pipe: Box<dyn Read + Send>, send: &mpsc::Sender<String>) {
    for chunk in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        for line in String::from_utf8_lossy(&chunk).split('\r').map(str::trim_end) {
            // Nobody listens after an error.
            if !line.is_empty() && send.send(line.to_owned()).is_err() {
                return;
            }
        }
    }
}

/// The error of a Python program, and not what its launchers say about it after.
fn says_more(line: &str) -> bool {
    let (name, rest) = line.split_once(':').unwrap_or((line, ""));
    let error =
        !name.contains(' ') && (name.ends_with("Error") || name.ends_with("Exception")) && !rest.is_empty();
    error && !name.ends_with("CalledProcessError")
}
