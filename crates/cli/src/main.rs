//! The `cycle` binary: arguments, configuration, progress, exit codes, and the wiring of everything else.

mod args;
mod commands;
mod context;
mod failure;
mod interrupt;
mod output;
mod progress;
mod recorder;
mod settings;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::args::{Cli, Command, ConfigCommand, Global};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::emit;
use crate::progress::say;

fn main() -> ExitCode {
    documents::worker_main_if_requested();
    // A panic is a defect of ours: one line, no backtrace unless asked for. But for those of the parquet reader, which
    // are caught: that is how it says that a file is damaged.
    let backtrace = std::env::var_os("RUST_BACKTRACE").is_some();
    if !backtrace {
        std::panic::set_hook(Box::new(|info| {
            if info.location().is_some_and(|l| l.file().contains("/parquet-")) {
                return;
            }
            let place = info.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
            say(&format!("cycle: internal error{place}; RUST_BACKTRACE=1 tells more"));
        }));
    }
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(e) if e.exit_code() == 0 => return ended(emit(&e.to_string(), None).map(|()| Outcome::Done)),
        // No command at all: what there is says more than what is missing.
        Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            say(&e.to_string());
            return ExitCode::from(2);
        }
        Err(e) => return ended(Err(Failure::from(e))),
    };
    interrupt::watch();
    trace(&cli.global);
    match interrupt::run(move || run(cli)) {
        Some(result) => ended(result),
        None if interrupt::interrupted() => {
            ended(Err(Failure::new(Code::Interrupted, "interrupted; what was finished is stored")))
        }
        None => ExitCode::from(5),
    }
}

/// The one place where a result becomes an exit code.
fn ended(result: Result<Outcome, Failure>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Look) => ExitCode::from(Code::Look as u8),
        // Who read the results has enough of them.
        Err(failure) if failure.code == Code::Unread => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure.to_string());
            ExitCode::from(failure.code as u8)
        }
    }
}

/// Standard error that may be closed.
struct Stderr;

impl std::io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn trace(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "off",
        (_, 0) => "warn",
        (_, 1) => "info",
        _ => "debug",
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(|| Stderr)
        .with_ansi(!plain && std::io::stderr().is_terminal())
        .init();
}

fn run(cli: Cli) -> Result<Outcome, Failure> {
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::command(), "cycle", &mut script);
            emit(&String::from_utf8_lossy(&script), None)?;
            return Ok(Outcome::Done);
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).map_err(|e| Failure::io(&dir, &e))?;
            clap_mangen::generate_to(args::command(), &dir).map_err(|e| Failure::io(&dir, &e))?;
            return Ok(Outcome::Done);
        }
        _ => {}
    }
    let mut context = Context::new(&cli.global)?;
    match cli.command {
        Command::Review(mut args) => {
            context.fill(&mut args.model)?;
            commands::review::run(&mut context, &args)
        }
        Command::Research(mut args) => {
            context.fill(&mut args.model)?;
            commands::research::run(&mut context, &args)
        }
        Command::Read(args) => commands::read::run(&context, &args),
        Command::Generate(mut args) => {
            context.fill(&mut args.model)?;
            commands::generate::generate(&mut context, &args)
        }
        Command::Logprobs(args) => commands::generate::logprobs(&mut context, &args),
        Command::Embed(args) => commands::generate::embed(&context, &args),
        Command::Papers(command) => commands::stored::papers(&context, &command),
        Command::Reviews(command) => commands::stored::reviews(&context, &command),
        Command::Pairs(command) => commands::pairs::run(&context, &command),
        Command::Runs(command) => commands::stored::runs(&context, &command),
        Command::Models(command) => commands::models::run(&context, &command),
        Command::Dataset(mut command) => commands::dataset::run(&mut context, &mut command),
        Command::Train(command) => commands::train::run(&context, &command),
        Command::Loop(command) => commands::looping::run(&context, &command),
        Command::Bench(args) => commands::bench::run(&context, &args),
        Command::Doctor(args) => commands::doctor::run(&context, &args),
        Command::Config(ConfigCommand::Show(args)) => commands::doctor::config(&context, &args),
        Command::Completions { .. } | Command::Man { .. } => Ok(Outcome::Done),
    }
}
