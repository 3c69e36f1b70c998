//! The `cycle` binary: arguments, configuration, progress, exit codes, and the wiring of everything else.

mod args;
mod commands;
mod context;
mod failure;
mod output;
mod progress;
mod settings;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command, ConfigCommand};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};

fn main() -> ExitCode {
    documents::worker_main_if_requested();
    // A panic is a defect of ours: one line, no backtrace unless asked for.
    let backtrace = std::env::var_os("RUST_BACKTRACE").is_some();
    if !backtrace {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
            eprintln!("cycle: internal error{place}; RUST_BACKTRACE=1 tells more");
        }));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    progress::watch_interrupts();
    let level = match cli.global.verbose {
        0 if cli.global.quiet => "error",
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    // Models are deep: a thread with room for long graphs.
    let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(move || run(cli));
    let result = match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        _ => return ExitCode::from(5),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Look) => ExitCode::from(Code::Look as u8),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code as u8)
        }
    }
}

fn run(cli: Cli) -> Result<Outcome, Failure> {
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "cycle", &mut std::io::stdout());
            return Ok(Outcome::Done);
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).map_err(|e| Failure::io(&dir, &e))?;
            clap_mangen::generate_to(Cli::command(), &dir).map_err(|e| Failure::io(&dir, &e))?;
            return Ok(Outcome::Done);
        }
        _ => {}
    }
    let mut context = Context::new(&cli.global)?;
    match cli.command {
        Command::Review(args) => commands::review::run(&mut context, &args),
        Command::Research(args) => commands::research::run(&mut context, &args),
        Command::Read(args) => commands::read::run(&context, &args),
        Command::Generate(args) => commands::generate::generate(&mut context, &args),
        Command::Logprobs(args) => commands::generate::logprobs(&mut context, &args),
        Command::Embed(args) => commands::generate::embed(&context, &args),
        Command::Papers(command) => commands::stored::papers(&context, &command),
        Command::Reviews(command) => commands::stored::reviews(&context, &command),
        Command::Runs(command) => commands::stored::runs(&context, &command),
        Command::Models(command) => commands::models::run(&context, &command),
        Command::Train(command) => commands::train::run(&context, &command),
        Command::Doctor(args) => commands::doctor::run(&context, &args),
        Command::Config(ConfigCommand::Show(args)) => commands::doctor::config(&context, &args),
        Command::Completions { .. } | Command::Man { .. } => Ok(Outcome::Done),
    }
}
