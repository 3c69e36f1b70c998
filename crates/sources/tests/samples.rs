//! Recorded answers, where the shared data is beside the repository, and small ones of our own of the same shapes.
#![allow(clippy::unwrap_used)] // a test that cannot set itself up may fail

use std::path::PathBuf;

use sources::{
    Kind, State, acl_volume, arxiv_feed, arxiv_id, arxiv_licence, crossref_work, crossref_works, cvf_page,
    notes, openalex_works, pmlr_page, s2_batch, s2_match, s2_paper, s2_references,
};

fn sample(name: &str) -> Option<Vec<u8>> {
    let shared = std::env::var_os("CYCLE_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
        PathBuf::from,
    );
    let found = std::fs::read(shared.join("data/api_samples").join(name)).ok();
    if found.is_none() {
        // Past the harness, which keeps the output of a test that passes to itself.
        let _ =
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("skipped: no shared {name}\n"));
    }
    found
}

/// The body inside an envelope of `request` and `response`.
fn response(name: &str) -> Option<Vec<u8>> {
    let value: serde_json::Value = serde_json::from_slice(&sample(name)?).unwrap();
    Some(value["response"].to_string().into_bytes())
}

#[test]
fn feeds_of_arxiv_give_ids_versions_and_errors() {
    let Some(one) = sample("arxiv_one.xml") else { return };
    let one = arxiv_feed(&one).unwrap();
    let paper = &one.entries[0];
    assert_eq!((one.total, paper.id.as_str(), paper.version), (1, "1605.08386", Some(1)));
    assert_eq!(paper.title, "Heat-bath random walks with Markov bases");
    assert_eq!(paper.authors, ["Caprice Stanley", "Tobias Windisch"]);
    assert_eq!(paper.categories, ["math.CO", "math.ST"]);
    assert_eq!(arxiv_feed(&sample("arxiv_page.xml").unwrap()).unwrap().entries.len(), 4);
    let old = arxiv_feed(&sample("arxiv_old_id.xml").unwrap()).unwrap();
    assert_eq!(old.entries[0].id, "astro-ph/0601001");
    assert_eq!(arxiv_feed(&sample("arxiv_empty.xml").unwrap()).unwrap().total, 0);
    assert_eq!(
        arxiv_feed(&sample("arxiv_error_http400.xml").unwrap()).unwrap_err(),
        "incorrect id format for abc"
    );
    assert!(arxiv_feed(b"<html><body>down</body></html>").is_err());
    assert_eq!(arxiv_id("arXiv:2411.00816v3"), Some(("2411.00816".into(), Some(3))));
    assert_eq!(arxiv_id("https://arxiv.org/pdf/cs/9901002.pdf"), Some(("cs/9901002".into(), None)));
    assert_eq!(arxiv_id("not an id"), None);
}

#[test]
fn the_licence_of_a_record_is_read_and_an_unknown_record_is_an_error() {
    let record = br#"<?xml version="1.0"?><OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><GetRecord><record><metadata><arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>2401.00001</id><license> http://creativecommons.org/licenses/by/4.0/ </license></arXiv></metadata></record></GetRecord></OAI-PMH>"#;
    assert_eq!(
        arxiv_licence(record).unwrap().as_deref(),
        Some("http://creativecommons.org/licenses/by/4.0/")
    );
    let none = br#"<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><error code="idDoesNotExist">No such id</error></OAI-PMH>"#;
    assert_eq!(arxiv_licence(none).unwrap_err(), "No such id");
}

#[test]
fn both_apis_of_openreview_give_one_kind_of_note() {
    let Some(two) = sample("openreview2_forum_iclr2024.json") else { return };
    let (list, _) = notes(&two).unwrap();
    let paper = list.into_iter().next().unwrap().unwrap();
    assert_eq!(paper.kind, Kind::Submission);
    assert_eq!(paper.state(), State::Accepted);
    let ratings: Vec<&str> = paper.of(Kind::Review).filter_map(|r| r.text("rating")).collect();
    assert_eq!(ratings.len(), 3);
    assert!(ratings.contains(&"8: accept, good paper"), "{ratings:?}");
    assert!(paper.of(Kind::MetaReview).count() == 1 && paper.of(Kind::Decision).count() == 1);
    let (list, _) = notes(&sample("openreview1_forum_iclr2023.json").unwrap()).unwrap();
    let all: Vec<_> = list.into_iter().map(Result::unwrap).collect();
    assert_eq!(all[0].kind, Kind::Submission);
    let reviews: Vec<_> = all.iter().filter(|n| n.kind == Kind::Review).collect();
    assert!(reviews.len() >= 2 && reviews.iter().all(|r| r.text("recommendation").is_some()));
    let (list, _) = notes(&sample("openreview2_replies_iclr2026.json").unwrap()).unwrap();
    let reviews: Vec<_> = list.into_iter().map(Result::unwrap).collect();
    assert_eq!(reviews.len(), 4);
    assert!(reviews.iter().all(|r| r.kind == Kind::Review && r.content["rating"].is_number()));
    assert!(reviews.iter().all(|r| r.license.as_deref() == Some("CC BY 4.0")));
    // A filter that matches nothing is an empty list, an error body is none.
    assert_eq!(notes(br#"{"notes":[],"count":0}"#).unwrap(), (vec![], Some(0)));
    assert!(notes(br#"{"name":"NotFoundError"}"#).is_err());
}

#[test]
fn answers_of_semantic_scholar_keep_unknown_ids_at_their_place() {
    let Some(batch) = response("s2_batch.json") else { return };
    let batch = s2_batch(&batch, 4).unwrap();
    assert!(batch[0].is_none());
    assert_eq!(batch[1].as_ref().unwrap().doi.as_deref(), Some("10.2139/ssrn.288970"));
    assert!(s2_batch(&response("s2_batch.json").unwrap(), 3).is_err());
    let (cited, next) = s2_references(&response("s2_references_page.json").unwrap());
    assert_eq!((cited.len(), next), (6, Some(50)));
    let full: serde_json::Value =
        serde_json::from_slice(&sample("s2_reference_item_full.json").unwrap()).unwrap();
    let paper = s2_paper(&full["citedPaper"]).unwrap();
    assert_eq!(paper.arxiv.as_deref(), Some("1402.0030"));
    assert!(paper.abstract_text.unwrap().starts_with("Highly expressive"));
    assert_eq!(s2_match(&response("s2_match.json").unwrap()).len(), 1);
    assert!(s2_match(br#"{"total":0,"offset":0}"#).is_empty());
}

#[test]
fn openalex_and_crossref_survive_what_they_do_not_know() {
    let Some(works) = sample("openalex_works.json") else { return };
    let (works, cursor) = openalex_works(&works).unwrap();
    assert_eq!(works[0].doi.as_deref(), Some("10.7717/peerj.4375"));
    assert!(works.len() == 2 && works[1].abstract_text.is_none() && cursor.is_some());
    let work = crossref_work(&response("crossref_work.json").unwrap()).unwrap();
    assert_eq!(work.doi, "10.1371/journal.pone.0033693");
    assert_eq!(work.licenses, ["http://creativecommons.org/licenses/by/4.0/"]);
    let found = crossref_works(&response("crossref_query.json").unwrap()).unwrap();
    assert!(found[0].abstract_text.as_deref().unwrap().starts_with("Communication is perhaps"));
    assert!(crossref_work(br#"{"message":{}}"#).is_err());
}

#[test]
fn listings_without_an_api_are_read_and_a_changed_page_is_no_empty_venue() {
    let acl = br#"<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE collection SYSTEM "schema.dtd"><collection id="2023.acl"><volume id="long"><meta/><paper id="1"><title>One <fixed-case>NLP</fixed-case> paper</title><author><first>Jane</first><last>Doe</last></author><abstract>We <i>do</i> it.</abstract><url hash="x">2023.acl-long.1</url><doi>10.1/ABC</doi></paper></volume><volume id="short"><paper id="1"><title>Short</title></paper></volume></collection>"#;
    let found = acl_volume(acl, Some("long")).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id.as_str(), found[0].title.as_str()), ("2023.acl-long.1", "One NLP paper"));
    assert_eq!((found[0].authors[0].as_str(), found[0].doi.as_deref()), ("Jane Doe", Some("10.1/abc")));
    assert_eq!(acl_volume(acl, None).unwrap().len(), 2);
    let cvf = br#"<dl><dt class="ptitle"><br><a href="/content/CVPR2024/html/Doe_One_CVPR_2024_paper.html">One &amp; two</a></dt><dd><form class="authsearch"><input type="hidden" name="query_author" value="Jane Doe"></form></dd><dd>[<a href="/content/CVPR2024/papers/Doe_One_CVPR_2024_paper.pdf">pdf</a>]</dd>
<dt class="ptitle"><br><a href="/content/CVPR2024/html/Roe_Three_CVPR_2024_paper.html">Three</a></dt><dd></dd></dl>"#;
    let found = cvf_page(cvf).unwrap();
    assert_eq!(found.iter().map(|p| p.title.as_str()).collect::<Vec<_>>(), ["One & two", "Three"]);
    assert_eq!(found[0].pdf.as_deref(), Some("/content/CVPR2024/papers/Doe_One_CVPR_2024_paper.pdf"));
    assert_eq!((found[0].authors.len(), found[1].pdf.as_deref()), (1, None));
    let pmlr = br#"<div class="paper"><p class="title">A title</p><p class="details"><span class="authors">Jane Doe, R. Roe</span></p><p class="links">[<a href="https://proceedings.mlr.press/v202/doe23a.html">abs</a>][<a href="https://proceedings.mlr.press/v202/doe23a/doe23a.pdf">pdf</a>]</p></div>"#;
    let found = pmlr_page(pmlr).unwrap();
    assert_eq!((found[0].id.as_str(), found[0].authors.len()), ("doe23a", 2));
    assert!(cvf_page(b"<html>redesigned</html>").is_err() && pmlr_page(b"").is_err());
}
