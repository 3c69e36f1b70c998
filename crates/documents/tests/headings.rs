//! What looks like a heading and is none, on pages made here.
#![allow(clippy::unwrap_used)] // a test that cannot set itself up may fail

use documents::{Document, ReadOptions, read};

/// Lines of text: font ("F1" regular, "F2" bold), x, baseline from the top, text.
type Line = (&'static str, f32, f32, String);

fn pdf(pages: &[Vec<Line>]) -> Vec<u8> {
    let mut bodies = vec![
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        format!(
            "<</Type/Pages/Kids[{}]/Count {}>>",
            (0..pages.len()).map(|i| format!("{} 0 R ", 5 + 2 * i)).collect::<String>(),
            pages.len()
        ),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>".to_owned(),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica-Bold/Encoding/WinAnsiEncoding>>".to_owned(),
    ];
    for (i, lines) in pages.iter().enumerate() {
        let content: String = lines
            .iter()
            .map(|(font, x, y, text)| format!("BT /{font} 10 Tf {x} {} Td ({text}) Tj ET\n", 792.0 - y))
            .collect();
        bodies.push(format!(
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents {} 0 R/Resources<</Font<</F1 3 0 R/F2 4 0 R>>>>>>",
            6 + 2 * i
        ));
        bodies.push(format!("<</Length {}>>\nstream\n{content}\nendstream", content.len()));
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

const SENTENCE: &str =
    "This line of running text is as long as the column of this page and ends with the next word";

struct Page(Vec<Line>, f32);

impl Page {
    fn bold(mut self, text: &str) -> Self {
        self.1 += 24.0;
        self.0.push(("F2", 72.0, self.1, text.to_owned()));
        self.1 += 12.0;
        self
    }

    fn text(mut self, text: &str) -> Self {
        for _ in 0..6 {
            self.1 += 12.0;
            self.0.push(("F1", 72.0, self.1, SENTENCE.to_owned()));
        }
        self.line(text)
    }

    fn line(mut self, text: &str) -> Self {
        self.1 += 12.0;
        self.0.push(("F1", 72.0, self.1, text.to_owned()));
        self
    }

    fn row(mut self, cells: &[&str]) -> Self {
        self.1 += 18.0;
        for (i, cell) in cells.iter().enumerate() {
            self.0.push(("F2", 72.0 + 90.0 * i as f32, self.1, (*cell).to_owned()));
        }
        self
    }
}

fn read_pages(pages: Vec<Page>) -> Document {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("paper.pdf");
    std::fs::write(&path, pdf(&pages.into_iter().map(|p| p.0).collect::<Vec<_>>())).unwrap();
    read(&path, &ReadOptions::default()).unwrap()
}

#[test]
fn rows_and_lines_of_a_table_of_contents_are_no_headings_and_appendices_keep_their_letters() {
    let page = || Page(Vec::new(), 60.0);
    let document = read_pages(vec![
        page()
            .bold("A Study of Headings")
            .bold("Abstract")
            .text("and the abstract ends.")
            .bold("1 Introduction")
            .text("and ends.")
            .bold("2 Results")
            .text("and ends.")
            .row(&["7", "BCE Adam", "0.01", "40", "0.971"])
            .row(&["Model", "Accuracy", "Recall", "F1"])
            .text("and ends."),
        page()
            .bold("References")
            .line("[1] A. Author. A title of note. Venue, 2001.")
            .line("[2] B. Author. Another title of note. Venue, 2002."),
        page()
            .bold("Appendix")
            .line("A Proofs .................................. 4")
            .line("A.1 Lemmas ................................ 4")
            .line("B Data .................................... 5")
            .bold("A Proofs")
            .text("and ends.")
            .bold("A.1 Lemmas")
            .text("and ends.")
            .bold("B Data")
            .text("and ends."),
    ]);
    let found: Vec<(Option<&str>, &str)> =
        document.sections.iter().map(|s| (s.number.as_deref(), s.heading.as_str())).collect();
    assert_eq!(
        found,
        [
            (Some("1"), "Introduction"),
            (Some("2"), "Results"),
            (None, "Appendix"),
            (Some("A"), "Proofs"),
            (Some("A.1"), "Lemmas"),
            (Some("B"), "Data"),
        ]
    );
    assert_eq!(document.references.len(), 2);
}

#[test]
fn a_running_head_with_names_and_a_page_number_is_not_read() {
    let page = |head: &str| Page(vec![("F1", 72.0, 40.0, head.to_owned())], 60.0);
    let document = read_pages(vec![
        Page(Vec::new(), 60.0)
            .bold("A Study of Running Heads")
            .bold("Abstract")
            .text("and ends.")
            .bold("1 Introduction")
            .text("and goes on to"),
        page("56 Jane Doe and John Roe").text("and goes on to"),
        page("A Study of Running Heads 57").text("and ends."),
    ]);
    let text = &document.sections.last().unwrap().text;
    assert!(!text.contains("Doe") && !text.contains("57"), "{text}");
}

#[test]
fn names_that_are_drawn_last_are_front_matter_where_they_stand() {
    let mut page = Page(Vec::new(), 60.0)
        .bold("A Study of Drawing Orders")
        .line("")
        .line("")
        .bold("Abstract")
        .text("and ends.")
        .bold("1 Introduction")
        .text("and goes on to");
    page.0.retain(|line| !line.3.is_empty());
    page.0.push(("F1", 72.0, 112.0, "Jane Doe, Example University".to_owned()));
    let document = read_pages(vec![page, Page(Vec::new(), 60.0).text("and ends.")]);
    assert_eq!(document.front_matter.as_deref(), Some("Jane Doe, Example University"));
    assert!(document.sections.iter().all(|s| !s.text.contains("Doe")), "{document:?}");
}
