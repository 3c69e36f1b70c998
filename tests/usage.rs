//! What is typed: help, completions, configuration, and wrong words.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Home, text};

#[test]
fn configuration_shows_its_origin_and_unknown_keys_are_refused() {
    let home = Home::new();
    home.write("cycle.toml", "form = \"neurips\"\n");
    let shown = text(&home.command(&["config", "show"]).env("CYCLE_SEED", "7").output().unwrap());
    assert!(
        shown.contains("form = neurips  (cycle.toml)") && shown.contains("seed = 7  (CYCLE_SEED)"),
        "{shown}"
    );
    home.write("cycle.toml", "fom = \"neurips\"\n");
    home.fails(&["config", "show"], 4, "form");
}

#[test]
fn every_command_has_help_with_an_example_and_completions_and_man_pages_are_there() {
    let home = Home::new();
    assert!(text(&home.run(&["--version"])).starts_with("cycle "));
    let commands = "review,research,read,generate,logprobs,embed,papers,papers list,papers show,papers export,reviews,\
        reviews list,reviews show,reviews export,runs,runs list,runs show,runs export,models,models list,models show,\
        models verify,models merge,models quantize,train,train sft,train reward,train preference,train objectives,\
        train recipes,bench,doctor,config,config show,completions,man";
    for command in commands.split(',') {
        let words: Vec<&str> = command.split_whitespace().collect();
        let first = words[0];
        for args in [
            [&["help"], &words[..]].concat(),
            [&words[..], &["-h"]].concat(),
            [&words[..], &["--help"]].concat(),
        ] {
            let help = text(&home.run(&args));
            assert!(help.contains(&format!("Example: cycle {first}")), "{args:?}: {help}");
        }
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&home.run(&["completions", shell])).contains("cycle"));
    }
    home.run(&["man", "man1"]);
    assert!(home.path("man1/cycle-review.1").exists());
}

#[test]
fn wrong_words_exit_2_with_what_is_right() {
    let home = Home::new();
    for (args, says) in [
        (&["revue"][..], "review"),
        (&["review"], "PATH"),
        (&["train", "sft", "--config", "x", "--no-such"], "--no-such"),
        (&["papers", "show", "p1", "--format", "html"], "json"),
        (&["doctor", "--format", "md"], "json"),
        (&["--threads", "0", "doctor"], "--threads 0"),
        (&["generate", "--prompt", "x", "--seed", "abc"], "--seed"),
        (&["generate", "--prompt", "x", "--device", "cude"], "cuda"),
        (&["generate", "--prompt", "x", "--dtype", "f64"], "bf16"),
        (&["generate", "--prompt", "x", "--temperature=-1"], "--temperature"),
        (&["generate", "--prompt", "x", "--top-p", "nan"], "--top-p"),
        (&["generate", "--prompt", "x", "--min-p", "2"], "--min-p"),
    ] {
        home.fails(args, 2, says);
    }
}

#[test]
fn a_value_that_makes_no_sense_exits_4_with_its_origin_and_the_command_line_comes_first() {
    let home = Home::new();
    home.write("cycle.toml", "temperature = 0.5\ntop_p = 0.9\n");
    let command = |args: &[&str], top_p: &str| home.command(args).env("CYCLE_TOP_P", top_p).output().unwrap();
    let shown = command(&["--threads", "2", "config", "show", "--format", "json"], "0.8");
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["schema"], "cycle.config/1");
    for (key, value, origin) in [
        ("temperature", "0.5", "cycle.toml"),
        ("top_p", "0.8", "CYCLE_TOP_P"),
        ("threads", "2", "command line"),
    ] {
        assert_eq!(shown["values"][key], serde_json::json!({"value": value, "origin": origin}));
    }
    let refused = command(&["config", "show"], "1.5");
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("CYCLE_TOP_P"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let home = Home::new();
    for args in [&["completions", "bash"][..], &["doctor"], &["config", "show"], &["help", "review"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let both = [writer.try_clone().unwrap(), writer];
        let [out, error] = both;
        let status = home.command(args).stdout(out).stderr(error).status().unwrap();
        assert_eq!(status.code(), Some(0), "{args:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    // An error that nobody can read is still an exit code, never a panic.
    assert_eq!(home.command(&["read", "none.pdf"]).stderr(writer).status().unwrap().code(), Some(3));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_exits_5() {
    let home = Home::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(home.command(&["config", "show"]).stdout(full).status().unwrap().code(), Some(5));
}
