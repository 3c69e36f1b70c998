//! Starting an engine, its log passed on line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

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
/// `each` and into `log.txt` beside the plan's files.
///
/// # Errors
/// If it cannot be started or ends with an error; its last words are given.
pub fn run(plan: &Plan, program: &Path, each: &mut dyn FnMut(&str)) -> Result<(), HandoffError> {
    let path = plan.folder.join("log.txt");
    let mut log = File::create(&path).map_err(HandoffError::io(&path))?;
    let mut child = Command::new(program)
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
    for line in receive {
        writeln!(log, "{line}").map_err(HandoffError::io(&path))?;
        each(&line);
        if says_more(&line) {
            last = line;
        }
    }
    let status = child.wait().map_err(HandoffError::io(program))?;
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
