//! Damaged, foreign and hostile input: an error of the right kind or a document, never a panic.
#![allow(clippy::unwrap_used)] // a test that cannot write its file may fail

use documents::{ReadError, ReadOptions, bibliography, read};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A PDF of `pages` pages that share one line of text.
fn pdf(pages: usize) -> Vec<u8> {
    let content = "BT /F1 11 Tf 72 700 Td (One line on every page.) Tj ET";
    let kids: String = (0..pages).map(|i| format!("{} 0 R ", 10 + i)).collect();
    let mut bodies = vec![
        (1, "<</Type/Catalog/Pages 2 0 R>>".to_owned()),
        (2, format!("<</Type/Pages/Kids[{kids}]/Count {pages}>>")),
        (3, format!("<</Length {}>>\nstream\n{content}\nendstream", content.len())),
        (4, "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>".to_owned()),
    ];
    bodies.extend((0..pages).map(|i| {
        let page = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 3 0 R/Resources<</Font<</F1 4 0 R>>>>>>";
        (10 + i, page.to_owned())
    }));
    let mut out = b"%PDF-1.7\n".to_vec();
    let mut offsets = vec![0usize; 10 + pages];
    for (number, body) in &bodies {
        offsets[*number] = out.len();
        out.extend(format!("{number} 0 obj\n{body}\nendobj\n").bytes());
    }
    let start = out.len();
    out.extend(format!("xref\n0 {}\n", offsets.len()).bytes());
    for (i, offset) in offsets.iter().enumerate() {
        let (generation, kind) =
            if i == 0 { (65535, 'f') } else { (0, if *offset == 0 { 'f' } else { 'n' }) };
        out.extend(format!("{offset:010} {generation:05} {kind} \n").bytes());
    }
    out.extend(format!("trailer<</Size {}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n", offsets.len()).bytes());
    out
}

const LATEX: &str = r"\documentclass{article}\newcommand{\x}[2][a]{#1 #2}\title{T}\begin{document}\maketitle
\begin{abstract}Short.\end{abstract}\section{One}Text \x[b]{c} $\frac{1}{2}$ \cite{k}.\begin{table}\caption{C}
\begin{tabular}{l}a & b\\ c\end{tabular}\end{table}\begin{thebibliography}{1}\bibitem{k} A. B. Title.\end{thebibliography}\end{document}";

const BIB: &str = "Abstract: One.\n@article{a, title={A {B} c}, author={X, Y and Z}, year=2001}\n@string{s={t}}\n@misc{b, title=s # \" u\"}\n";

#[test]
fn each_kind_of_unreadable_file_has_its_own_error_and_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, content: &[u8]| {
        read(&file(folder.path(), name, content), &ReadOptions::default()).unwrap_err()
    };
    let missing = read(&folder.path().join("none.pdf"), &ReadOptions::default()).unwrap_err();
    assert!(matches!(missing, ReadError::Missing { .. }), "{missing}");
    let whole = pdf(3);
    let no_tex = folder.path().join("folder");
    std::fs::create_dir(&no_tex).unwrap();
    let empty_folder = read(&no_tex, &ReadOptions::default()).unwrap_err();
    let mut gz = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    gz.extend([0xff; 40]);
    let cases = [
        (at("empty.pdf", b""), "Empty"),
        (at("blank.tex", b" \n\n"), "Empty"),
        (empty_folder, "Empty"),
        (at("html.pdf", b"<!DOCTYPE html><title>Sign in</title>"), "NotWhatItSays"),
        (at("image.txt", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0"), "NotWhatItSays"),
        (at("word.pdf", b"PK\x03\x04\x14\0\x06\0"), "NotWhatItSays"),
        (at("cut.pdf", &whole[..60]), "Damaged"),
        // Every page is there, but who knows what came after them.
        (at("endless.pdf", &whole[..whole.len() - 40]), "Damaged"),
        (at("source.tar.gz", &gz), "Damaged"),
    ];
    for (error, kind) in cases {
        assert!(format!("{error:?}").starts_with(kind), "{kind}: {error:?}");
        assert_eq!(error.exit_code(), 3);
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_before_a_byte_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket.pdf");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let endless = folder.path().join("endless.pdf");
    std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
    for path in [socket, endless] {
        let error = read(&path, &ReadOptions::default()).unwrap_err();
        assert!(matches!(error, ReadError::NotWhatItSays { .. }), "{error}");
    }
}

#[test]
fn three_thousand_pages_are_refused_with_the_number_and_read_when_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "long.pdf", &pdf(3000));
    let error = read(&path, &ReadOptions::default()).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("3000 pages") && error.to_string().contains("1000"), "{error}");
    let short = file(folder.path(), "short.pdf", &pdf(30));
    let stopped = ReadOptions { max_time: Some(std::time::Duration::ZERO), ..ReadOptions::default() };
    assert_eq!(read(&short, &stopped).unwrap_err().exit_code(), 5);
    assert_eq!(read(&short, &ReadOptions::default()).unwrap().pages, Some(30));
}

#[test]
fn latin_1_old_line_ends_and_old_document_styles_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let source = b"\\documentstyle[12pt]{article}\r\\title{Caf\xe9}\r\\begin{document}\r\\section{Na\xefve}\rText.\r\\end{document}\r";
    let document = read(&file(folder.path(), "old.tex", source), &ReadOptions::default()).unwrap();
    assert_eq!(document.title.as_deref(), Some("Café"));
    assert_eq!(
        (document.sections[0].heading.as_str(), document.sections[0].text.as_str()),
        ("Naïve", "Text.")
    );
}

#[test]
fn utf_16_is_told_by_its_mark() {
    let folder = tempfile::tempdir().unwrap();
    let text = "# Über Wörter\n\n## Abstract\n\nKurz.\n";
    let little: Vec<u8> =
        [0xfeffu16].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> =
        [0xfeffu16].into_iter().chain(text.encode_utf16()).flat_map(u16::to_be_bytes).collect();
    for bytes in [little, big] {
        let document = read(&file(folder.path(), "wide.md", &bytes), &ReadOptions::default()).unwrap();
        assert_eq!(document.title.as_deref(), Some("Über Wörter"));
        assert_eq!(document.abstract_text.as_deref(), Some("Kurz."));
    }
}

#[test]
fn the_main_file_of_a_folder_is_found_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    file(
        folder.path(),
        "aaa_rebuttal.tex",
        b"\\documentclass{article}\\begin{document}Dear reviewers\\end{document}",
    );
    file(
        folder.path(),
        "zz.tex",
        b"\\documentclass{article}\\title{Right}\\begin{document}\\section{S}\\input{sec}\\end{document}",
    );
    file(folder.path(), "sec.tex", b"From the part.");
    let document = read(folder.path(), &ReadOptions::default()).unwrap();
    assert_eq!(document.title.as_deref(), Some("Right"));
    assert_eq!(document.sections[0].text, "From the part.");
}

/// `text` cut off, or with bytes replaced, removed, doubled.
fn mangled(text: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((0..text.len(), any::<u8>(), 0..4u8), 0..8).prop_map(move |edits| {
        let mut out = text.to_vec();
        for (at, byte, kind) in edits {
            let at = at.min(out.len().saturating_sub(1));
            match kind {
                0 if !out.is_empty() => out[at] = byte,
                1 => out.truncate(at),
                2 if !out.is_empty() => {
                    out.remove(at);
                }
                _ => {
                    let tail = out[at.min(out.len())..].to_vec();
                    out.extend(tail);
                }
            }
            out.truncate(20_000);
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mangled_latex_never_panics(bytes in mangled(LATEX.as_bytes())) {
        let folder = tempfile::tempdir().unwrap();
        let _ = read(&file(folder.path(), "x.tex", &bytes), &ReadOptions::default());
    }

    #[test]
    fn mangled_bibliographies_never_panic(bytes in mangled(BIB.as_bytes())) {
        let folder = tempfile::tempdir().unwrap();
        let _ = bibliography(&file(folder.path(), "x.bib", &bytes));
    }

    #[test]
    fn mangled_pdfs_never_panic(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), keep in 0.2f64..1.0) {
        let mut bytes = pdf(2);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate((bytes.len() as f64 * keep) as usize);
        let folder = tempfile::tempdir().unwrap();
        let _ = read(&file(folder.path(), "x.pdf", &bytes), &ReadOptions::default());
    }
}
