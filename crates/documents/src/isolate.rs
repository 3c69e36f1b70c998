//! Reading in a worker process that may not use more memory and time than it is given, opens no file and no socket.
//!
//! The worker is this same executable, started with [`WORKER_ARGUMENT`]: it gets the bytes on its standard input, binds
//! itself (resource limits, then Landlock, then seccomp, each as far as the kernel has it) and writes the document to its
//! standard output. Whatever happens to it becomes a [`ReadError`]; the caller never waits longer than the wall clock
//! allows.

use crate::read::{Content, Input, ReadOptions, gather, read_input};
use crate::{Document, ReadError};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The argument by which an executable knows that it is to be the worker.
pub const WORKER_ARGUMENT: &str = "--documents-reader-process";

/// What a worker may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu_seconds: u64,
    /// Time from start to end.
    pub wall: Duration,
    /// Pages and bytes of the input.
    pub read: ReadOptions,
    /// The executable that calls [`worker_main_if_requested`]; `None` for the running one.
    pub program: Option<PathBuf>,
}

impl Default for Limits {
    /// 3 GiB, 60 s of processor time, 120 s.
    fn default() -> Self {
        Limits {
            memory: 3 << 30,
            cpu_seconds: 60,
            wall: Duration::from_secs(120),
            read: ReadOptions::default(),
            program: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Task {
    path: PathBuf,
    /// Names and lengths of a folder's files; `None` for one file.
    files: Option<Vec<(String, usize)>>,
    options: ReadOptions,
    memory: u64,
    cpu_seconds: u64,
}

/// Reads as [`read`](crate::read) does, in a confined worker process.
pub fn read_isolated(path: &Path, limits: &Limits) -> Result<Document, ReadError> {
    let input = gather(path, &limits.read)?;
    let failed = |what: &str, e: std::io::Error| ReadError::Limit {
        path: path.into(),
        reason: format!("the reading process could not be {what} ({e})"),
    };
    let program = match &limits.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|e| failed("found", e))?,
    };
    let mut command = Command::new(program);
    // A terminal's ctrl-C is for the parent: it says what becomes of the worker.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .arg(WORKER_ARGUMENT)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed("started", e))?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(failed("reached", std::io::Error::other("no pipe")));
    };
    let (task, parts) = pack(input, limits);
    // Each pipe has its own thread, so that neither side waits for the other.
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        let mut header = serde_json::to_vec(&task)?;
        header.push(b'\n');
        stdin.write_all(&header)?;
        for part in parts {
            stdin.write_all(&part)?;
        }
        Ok(())
    });
    let output = std::thread::spawn(move || drain(stdout, 512 << 20));
    let errors = std::thread::spawn(move || drain(stderr, 64 << 10));
    let status = wait(&mut child, limits.wall);
    // A worker that ended closes its pipes, so these end too; a failed write only says that the worker ended early.
    let _ = writer.join();
    let output = output.join().unwrap_or_default();
    let errors = String::from_utf8_lossy(&errors.join().unwrap_or_default()).into_owned();
    let Some(status) = status else {
        return Err(ReadError::Limit {
            path: path.into(),
            reason: format!(
                "not read within {} s (wall clock); the reader was stopped",
                limits.wall.as_secs_f32()
            ),
        });
    };
    outcome(path, status, &output, &errors, limits)
}

fn pack(input: Input, limits: &Limits) -> (Task, Vec<Vec<u8>>) {
    let (files, parts) = match input.content {
        Content::File(bytes) => (None, vec![bytes]),
        Content::Folder(files) => (
            Some(files.iter().map(|(n, b)| (n.clone(), b.len())).collect()),
            files.into_iter().map(|f| f.1).collect(),
        ),
    };
    let task = Task {
        path: input.path,
        files,
        options: limits.read.clone(),
        memory: limits.memory,
        cpu_seconds: limits.cpu_seconds,
    };
    (task, parts)
}

fn drain(mut from: impl Read, limit: u64) -> Vec<u8> {
    let mut out = Vec::new();
    // What came before an error is what there is.
    let _ = (&mut from).take(limit).read_to_end(&mut out);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    out
}

/// The status, or `None` after the time was up and the child was killed.
fn wait(child: &mut Child, wall: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if start.elapsed() < wall => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

fn outcome(
    path: &Path,
    status: ExitStatus,
    output: &[u8],
    errors: &str,
    limits: &Limits,
) -> Result<Document, ReadError> {
    if status.success() {
        return match serde_json::from_slice::<Result<Document, ReadError>>(output) {
            Ok(result) => result,
            Err(e) => Err(ReadError::Damaged {
                path: path.into(),
                reason: format!("the reader gave no document ({e})"),
            }),
        };
    }
    let last = errors.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("").trim().to_owned();
    let memory = errors.contains("memory allocation")
        || errors.contains("out of memory")
        || errors.contains("capacity overflow");
    let limit = |reason: String| Err(ReadError::Limit { path: path.into(), reason });
    if errors.contains("overflowed its stack") {
        return Err(ReadError::Damaged {
            path: path.into(),
            reason: "its objects are nested too deeply to be read".into(),
        });
    }
    if memory {
        return limit(format!("reading it takes more than {} MiB of memory", limits.memory >> 20));
    }
    match signal_of(status) {
        // SIGXCPU, then SIGKILL at the hard limit.
        Some(24) => limit(format!("reading it takes more than {} s of processor time", limits.cpu_seconds)),
        Some(9) => limit(format!(
            "the reader was killed (out of memory, or more than {} s of processor time)",
            limits.cpu_seconds
        )),
        Some(signal) => Err(ReadError::Damaged {
            path: path.into(),
            reason: format!("the reader ended by signal {signal} ({last})"),
        }),
        None => Err(ReadError::Damaged { path: path.into(), reason: format!("the reader failed ({last})") }),
    }
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    status.signal()
}

#[cfg(not(unix))]
fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}

/// To be called first thing in `main`: if this process was started as a worker, does its work and does not return.
pub fn worker_main_if_requested() {
    if std::env::args_os().nth(1).is_some_and(|a| a == WORKER_ARGUMENT) {
        std::process::exit(match worker() {
            Ok(()) => 0,
            Err(e) => {
                // The parent puts this line into its message.
                let _ = writeln!(std::io::stderr(), "{e}");
                1
            }
        });
    }
}

fn worker() -> std::io::Result<()> {
    let mut input = Vec::new();
    std::io::stdin().lock().read_to_end(&mut input)?;
    let bad = || std::io::Error::other("the task is malformed");
    let newline = input.iter().position(|b| *b == b'\n').ok_or_else(bad)?;
    let task: Task = serde_json::from_slice(&input[..newline])?;
    let mut rest = input.split_off(newline + 1);
    let content = match task.files {
        None => Content::File(rest),
        Some(files) => {
            let mut out = Vec::with_capacity(files.len());
            for (name, length) in files {
                if length > rest.len() {
                    return Err(bad());
                }
                let tail = rest.split_off(length);
                out.push((name, rest));
                rest = tail;
            }
            Content::Folder(out)
        }
    };
    drop(input);
    confine::confine(task.memory, task.cpu_seconds);
    let result = read_input(Input { path: task.path, content }, &task.options);
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &result)?;
    out.flush()
}

#[cfg(target_os = "linux")]
mod confine {
    use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr};
    use seccompiler::{SeccompAction, SeccompFilter};
    use std::collections::BTreeMap;

    /// Limits this process, as far as the kernel can. What an old kernel lacks is not required: the parent's clock and
    /// the memory limit hold in any case.
    pub(super) fn confine(memory: u64, cpu_seconds: u64) {
        // Nobody waits for the document of a parent that is gone, however it went.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        for (resource, soft, hard) in [
            (rlimit::Resource::AS, memory, memory),
            (rlimit::Resource::CPU, cpu_seconds, cpu_seconds + 2),
            (rlimit::Resource::FSIZE, 0, 0),
            (rlimit::Resource::CORE, 0, 0),
        ] {
            let _ = resource.set(soft, hard);
        }
        let _ = landlock();
        let _ = seccomp();
    }

    fn landlock() -> Result<(), Box<dyn std::error::Error>> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V5))?
            .create()?
            .restrict_self()?;
        Ok(())
    }

    /// System calls that a reader of bytes never makes: opening files, sockets, programs, processes.
    #[cfg(target_arch = "x86_64")]
    const REFUSED: &[i64] =
        &[2, 41, 42, 49, 50, 56, 57, 58, 59, 62, 82, 83, 85, 87, 101, 257, 322, 425, 435, 437];
    #[cfg(target_arch = "aarch64")]
    const REFUSED: &[i64] = &[34, 35, 38, 56, 117, 129, 198, 200, 201, 203, 220, 221, 281, 425, 435, 437];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const REFUSED: &[i64] = &[];

    fn seccomp() -> Result<(), Box<dyn std::error::Error>> {
        if REFUSED.is_empty() {
            return Ok(());
        }
        let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
            REFUSED.iter().map(|n| (*n, Vec::new())).collect();
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(1),
            std::env::consts::ARCH.try_into()?,
        )?;
        let program: seccompiler::BpfProgram = filter.try_into()?;
        seccompiler::apply_filter(&program)?;
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod confine {
    /// Other systems have the clock of the parent alone.
    pub(super) fn confine(_: u64, _: u64) {}
}
