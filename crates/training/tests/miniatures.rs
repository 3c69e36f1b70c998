//! The experiments of `cycle bench`, small: that each runs, writes what it promises and can fail.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use training::miniatures::{ALL, Options, Report};

fn small(name: &str) -> (Report, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path().join("out"));
    (options.seeds, options.small) = (1, true);
    let report = ALL.iter().find(|m| m.name == name).unwrap().run(&options, &|_| {}).unwrap();
    let out = folder.path().join("out");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(json["name"], name);
    assert_eq!(json["claims"].as_array().unwrap().len(), report.claims.len());
    let plot = std::fs::read_to_string(out.join("plot.svg")).unwrap();
    assert!(plot.ends_with("</svg>\n") && !plot.contains("NaN") && !plot.contains("inf"), "{plot}");
    assert!(!out.join("work").exists());
    for figure in &report.figures {
        assert!(figure.mean.is_finite() && figure.values.len() == 1, "{figure:?}");
    }
    (report, folder)
}

fn verdict(report: &Report, claim: &str) -> bool {
    let found: Vec<_> = report.claims.iter().filter(|c| c.claim.starts_with(claim)).collect();
    assert_eq!(found.len(), 1, "{claim}: {:?}", report.claims);
    found[0].holds
}

#[test]
fn on_a_ring_gpm_tells_held_out_pairs_and_no_scalar_score_exceeds_its_bounds() {
    let (report, _folder) = small("gpm-ring");
    assert!(report.holds(), "{}", report.text());
}

#[test]
fn dno_moves_towards_nash_and_offline_dpo_does_not() {
    let (report, _folder) = small("dno");
    assert!(verdict(&report, "it ends below offline DPO"), "{}", report.text());
}

#[test]
fn under_a_cycle_general_preferences_end_less_exploitable() {
    let (report, _folder) = small("gpo-cycle");
    // Ten rounds are too few for more than a head start: the average has come closer to Nash, and all claims are judged.
    let of = |name: &str| report.figures.iter().find(|f| f.name.contains(name)).unwrap().mean;
    assert!(of("average, GPO + GPM") < of("at the start"), "{}", report.text());
    assert_eq!(report.claims.len(), 4);
}

#[test]
fn degrees_of_removed_key_phrases_can_be_told() {
    let (report, _folder) = small("spo-degree");
    assert_eq!(report.findings.len(), 6);
    assert!(verdict(&report, "DPO with keyword degrees"), "{}", report.text());
}

#[test]
fn simpo_without_nll_lowers_the_likelihood_of_what_it_chose() {
    let (report, _folder) = small("simpo-nll");
    assert!(verdict(&report, "with NLL log p of the chosen ends higher"), "{}", report.text());
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let (first, second) = (small("gpm-ring").0, small("gpm-ring").0);
    let figures = |r: &Report| r.figures.iter().flat_map(|f| f.values.clone()).collect::<Vec<f64>>();
    assert_eq!(figures(&first), figures(&second));
}
