//! LaTeX: a file, a folder or an arXiv archive, to a [`Document`](crate::Document).
//!
//! 1. `files` finds the main file by its content and keeps inclusion inside the folder.
//! 2. `tokens` cuts source into tokens; `expand` holds macros, arguments and conditionals, all of them capped.
//! 3. `reader` walks through them with what `commands`, `environments`, `definitions` and `mathematics` know, and writes
//!    the `paper`; `symbols` turns commands into Unicode.
//!
//! Truncated or wrong source gives what could be read; nothing here fails on content.

mod commands;
mod definitions;
mod environments;
mod expand;
mod files;
mod mathematics;
mod paper;
mod reader;
mod symbols;
mod tokens;

pub(crate) use files::gather_folder;

use crate::read::ReadOptions;
use crate::{Document, ReadError, Reference, Source, bibliography};
use files::Files;
use reader::Reader;
use std::path::Path;

/// A paper from an archive's bytes.
pub(crate) fn read_archive(
    bytes: &[u8],
    sha256: String,
    path: &Path,
    options: &ReadOptions,
) -> Result<Document, ReadError> {
    let files = files::unpack(bytes, path, options)?;
    read_files(files, None, sha256, path, options)
}

/// A paper from its files; `main` names the main one where it is known.
pub(crate) fn read_files(
    files: Vec<(String, Vec<u8>)>,
    main: Option<String>,
    sha256: String,
    path: &Path,
    _options: &ReadOptions,
) -> Result<Document, ReadError> {
    let files = Files::new(files);
    let none = || ReadError::Empty { path: path.into(), reason: "no LaTeX file in it".into() };
    let main = main.or_else(|| files.main()).ok_or_else(none)?;
    let source = files.find("", &main, "tex").map(|(_, text)| text.to_owned()).ok_or_else(none)?;
    let mut reader = Reader::new(files);
    reader.read_main(&main, &source);
    if reader.paper.references.is_empty() {
        read_references(&mut reader, &main);
    }
    reader.paper.resolve_labels();
    let paper = reader.paper;
    Ok(Document {
        source: Source::Latex,
        sha256,
        title: paper.title,
        abstract_text: (!paper.summary.is_empty()).then(|| paper.summary.join("\n\n")),
        front_matter: (!paper.front.is_empty()).then(|| paper.front.join("\n")),
        sections: paper.sections,
        references: paper.references,
        tables: paper.tables,
        pages: None,
        findings: paper.findings,
    })
}

/// The text files of a LaTeX paper, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatexSource {
    /// Name of the main file.
    pub main: String,
    /// Names relative to the paper's folder, and texts, sorted by name.
    pub files: Vec<(String, String)>,
}

/// The files behind a LaTeX paper: an archive's, or the one that the bytes are.
///
/// # Errors
/// If the archive is broken or too large, or holds no LaTeX.
pub fn latex_source(bytes: &[u8], path: &Path, options: &ReadOptions) -> Result<LatexSource, ReadError> {
    let files = Files::new(files::unpack(bytes, path, options)?);
    let none = || ReadError::Empty { path: path.into(), reason: "no LaTeX file in it".into() };
    let main = files.main().ok_or_else(none)?;
    Ok(LatexSource { main, files: files.into_texts() })
}

/// A piece of LaTeX (a BibTeX field, a heading) as plain text.
pub fn to_text(source: &str) -> String {
    Reader::new(Files::default()).fragment(source)
}

/// The entries of a `.bbl` or of `\bibitem`s, as they stand.
pub(crate) fn bibitems(source: &str) -> Vec<Reference> {
    let mut reader = Reader::new(Files::default());
    reader.read_bibliography(source);
    reader.paper.references
}

/// References that stand outside of the source: the `.bbl` that TeX made, else the cited entries of the `.bib` files.
fn read_references(reader: &mut Reader, main: &str) {
    let stem = main.rsplit_once('.').map_or(main, |(s, _)| s);
    let own = reader.files.find("", &format!("{stem}.bbl"), "bbl").map(|(_, t)| t.to_owned());
    let bbl = own.or_else(|| reader.files.with_extension("bbl").next().map(|(_, t)| t.to_owned()));
    if let Some(text) = bbl {
        if text.contains("\\entry{") {
            reader.paper.references = bibliography::biblatex_entries(&text);
        } else {
            reader.read_bibliography(&text);
        }
        if !reader.paper.references.is_empty() {
            return;
        }
    }
    let base = main.rsplit_once('/').map_or("", |(b, _)| b);
    let mut entries = Vec::new();
    for name in reader.paper.bibliographies.clone() {
        let found = reader.files.find(base, &name, "bib").map(|(n, t)| (n.to_owned(), t.to_owned()));
        match found {
            Some((name, text)) => entries.extend(bibliography::parse(&text, &name).entries),
            None => reader.paper.missing_file(&name),
        }
    }
    let all = reader.paper.cites_all;
    let wanted: Vec<String> =
        if all { entries.iter().map(|e| e.key.clone()).collect() } else { reader.paper.cited.clone() };
    for key in wanted {
        let entry = entries
            .iter()
            .find(|e| e.key == key)
            .or_else(|| entries.iter().find(|e| e.key.eq_ignore_ascii_case(&key)));
        if let Some(entry) = entry {
            reader.paper.references.push(Reference {
                key: Some(entry.key.clone()),
                text: entry.one_line(),
                title: entry.title.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Document {
        let files = vec![("main.tex".to_owned(), source.as_bytes().to_vec())];
        read_files(files, None, String::new(), Path::new("main.tex"), &ReadOptions::default()).unwrap()
    }

    #[test]
    fn a_small_paper_with_the_usual_traps_is_read_whole() {
        let d = read(
            r"\documentclass{article}
\newcommand{\method}[1][X]{\textsc{Meth}-#1\xspace}
\def\loss#1{\ell_{#1}}
\newif\ifdraft
\title{On \method[Y]: 50\% better\thanks{Thanks to N.}}
\author{Jane Doe \and Jos\'e N\'u\~nez}
\begin{document}
\maketitle
\begin{abstract} We reach 50\% % not this
of $\loss{i} \leq \frac{1}{2}$. \end{abstract}
\section{Introduction}\label{sec:intro}
First --- see \citep[p.~3]{a,b} and Section~\ref{sec:m}.\footnote{A note.}
\iffalse hidden \fi\ifdraft draft \else final\fi

Second paragraph with \verb|%x{| kept.
\begin{figure}\includegraphics{f.pdf}\caption{A \emph{figure}.\label{fig:a}}\end{figure}
\subsection*{Plain \texorpdfstring{$\alpha$}{alpha}}
\begin{itemize}\item one \item two\end{itemize}
\section{Method}\label{sec:m}
See \cref{fig:a}.
\begin{table}\caption{Numbers}\begin{tabular}{ll}a & 1\\ b & 2\end{tabular}\end{table}
\appendix
\section{Proofs}
\begin{thebibliography}{9}
\bibitem[Au(2001)]{a} A. Author. \newblock A title. \newblock Venue, 2001.
\bibitem{b} B. Author, ``Other title here,'' 2002.
\end{thebibliography}
\end{document} after",
        );
        assert_eq!(d.title.as_deref(), Some("On Meth-Y: 50% better"));
        assert_eq!(d.abstract_text.as_deref(), Some("We reach 50% of ℓ_i ≤ 1/2."));
        let heads: Vec<_> = d
            .sections
            .iter()
            .map(|s| (s.level, s.number.as_deref(), s.heading.as_str(), s.appendix))
            .collect();
        assert_eq!(
            heads,
            [
                (1, Some("1"), "Introduction", false),
                (2, None, "Plain α", false),
                (1, Some("2"), "Method", false),
                (1, Some("A"), "Proofs", true)
            ]
        );
        assert_eq!(
            d.sections[0].text,
            "First — see [a, b, p. 3] and Section 2. final\n\nFootnote: A note.\n\nSecond paragraph with %x{ kept.\n\nFigure 1: A figure."
        );
        assert_eq!(d.sections[1].text, "- one\n\n- two");
        assert_eq!(d.sections[2].text, "See Figure 1.\n\nTable 1: Numbers\na | 1\nb | 2");
        assert_eq!(d.tables[0].rows, [["a", "1"], ["b", "2"]]);
        assert_eq!(d.references.len(), 2);
        assert_eq!(d.references[0].title.as_deref(), Some("A title"));
        assert_eq!(d.references[1].title.as_deref(), Some("Other title here"));
        assert!(d.front_matter.unwrap().contains("José Núñez"));
    }

    #[test]
    fn macros_that_call_themselves_end_and_are_noted() {
        let d = read(r"\def\a{\b\b}\def\b{\a\a}\begin{document}Before. \a After.\end{document}");
        assert!(d.findings.iter().any(|f| f.reason == "macro-limit"), "{d:?}");
    }

    #[test]
    fn inclusion_stays_inside_the_folder_and_absent_files_are_noted() {
        let d =
            read(r"\documentclass{article}\begin{document}Text. \input{../../../etc/passwd}\end{document}");
        assert_eq!(d.findings.iter().filter(|f| f.reason == "missing-file").count(), 1);
        assert!(d.front_matter.unwrap().contains("Text."));
    }

    #[test]
    fn truncated_output_of_a_model_without_preamble_is_read() {
        let d = read(
            "\\title{A title}\n\\begin{abstract}\nShort.\n\\end{abstract}\n\\section{Intro}\nWords and $x^{2",
        );
        assert_eq!(d.title.as_deref(), Some("A title"));
        assert_eq!(d.abstract_text.as_deref(), Some("Short."));
        assert_eq!(d.sections[0].heading, "Intro");
    }
}
