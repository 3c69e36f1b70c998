//! Reading in a worker process. This file has its own `main`, because the worker is the running executable itself.

use documents::{Limits, ReadError, read_isolated, worker_main_if_requested};
use std::path::Path;
use std::time::{Duration, Instant};

fn main() {
    worker_main_if_requested();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path
    };

    let paper =
        file("paper.md", b"# A title of note\n\n## Abstract\n\nShort.\n\n## Introduction\n\nWords.\n");
    let direct = documents::read(&paper, &Default::default()).expect("read here");
    let isolated = read_isolated(&paper, &Limits::default()).expect("read there");
    assert_eq!(direct, isolated, "a worker reads the same");
    println!("a_worker_reads_the_same ... ok");

    let tex = file("main.tex", b"\\documentclass{article}\\begin{document}\\input{part}\\end{document}");
    file("part.tex", b"\\section{One} Text of the part.");
    let document = read_isolated(&tex, &Limits::default()).expect("a .tex with its neighbour");
    assert_eq!(document.sections[0].text, "Text of the part.");
    println!("a_worker_gets_the_included_files ... ok");

    assert!(matches!(
        read_isolated(&folder.path().join("none.pdf"), &Limits::default()),
        Err(ReadError::Missing { .. })
    ));
    assert!(matches!(
        read_isolated(&file("empty.pdf", b""), &Limits::default()),
        Err(ReadError::Empty { .. })
    ));
    let not = read_isolated(&file("page.pdf", b"<!DOCTYPE html><p>no</p>"), &Limits::default());
    assert!(matches!(&not, Err(ReadError::NotWhatItSays { .. })), "{not:?}");
    let cut = read_isolated(&file("cut.pdf", b"%PDF-1.7\n1 0 obj\n<</Type/Cat"), &Limits::default());
    assert!(matches!(&cut, Err(ReadError::Damaged { .. })), "{cut:?}");
    println!("errors_keep_their_kind_across_the_process ... ok");

    // A cover of 40 MiB that no paper needs: the worker may use 64 MiB of address space in all.
    let big = file("big.txt", "many words ".repeat(4 << 20).as_bytes());
    let limited = read_isolated(&big, &Limits { memory: 64 << 20, ..Limits::default() });
    match &limited {
        Err(e @ ReadError::Limit { .. }) => {
            assert_eq!(e.exit_code(), 5);
            assert!(e.to_string().contains("64 MiB"), "{e}");
        }
        other => panic!("memory: {:?}", other.as_ref().map(|_| ())),
    }
    println!("too_little_memory_is_a_limit_with_its_number ... ok");

    let start = Instant::now();
    let slow = read_isolated(&big, &Limits { wall: Duration::from_millis(1), ..Limits::default() });
    assert!(matches!(&slow, Err(ReadError::Limit { .. })), "{:?}", slow.as_ref().map(|_| ()));
    assert!(start.elapsed() < Duration::from_secs(20));
    println!("a_worker_that_takes_too_long_is_stopped ... ok");

    // A few hundred bytes that draw ten to the power of twelve times.
    let runaway = file("runaway.pdf", &forms_in_forms(12));
    let busy = read_isolated(&runaway, &Limits { cpu_seconds: 1, ..Limits::default() });
    match &busy {
        Err(e @ ReadError::Limit { .. }) => assert!(e.to_string().contains("1 s of processor time"), "{e}"),
        other => panic!("processor time: {:?}", other.as_ref().map(|_| ())),
    }
    println!("a_runaway_is_stopped_by_the_limit_on_processor_time ... ok");

    let wrong = Limits { program: Some("/bin/true".into()), ..Limits::default() };
    if Path::new("/bin/true").exists() {
        assert!(matches!(read_isolated(&paper, &wrong), Err(ReadError::Damaged { .. })));
    }
    println!("a_program_that_is_no_worker_is_an_error_not_a_hang ... ok");
}

/// A page that draws a form ten times, which draws a form ten times, and so on.
fn forms_in_forms(depth: usize) -> Vec<u8> {
    let mut bodies = vec![
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".to_owned(),
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</XObject<</X 5 0 R>>>>>>"
            .to_owned(),
    ];
    let calls = "/X Do ".repeat(10);
    bodies.push(format!("<</Length {}>>\nstream\n{calls}\nendstream", calls.len()));
    for level in 0..depth {
        let next = 6 + level;
        let inside = if level + 1 == depth { "0 0 9 9 re f ".to_owned() } else { calls.clone() };
        bodies.push(format!(
            "<</Type/XObject/Subtype/Form/BBox[0 0 612 792]/Resources<</XObject<</X {next} 0 R>>>>/Length {}>>\nstream\n{inside}\nendstream",
            inside.len()
        ));
    }
    let mut out = b"%PDF-1.7\n".to_vec();
    let mut table = String::from("0000000000 65535 f \n");
    for (i, body) in bodies.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", out.len()));
        out.extend(format!("{} 0 obj\n{body}\nendobj\n", i + 1).bytes());
    }
    let (start, size) = (out.len(), bodies.len() + 1);
    out.extend(
        format!("xref\n0 {size}\n{table}trailer<</Size {size}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n")
            .bytes(),
    );
    out
}
