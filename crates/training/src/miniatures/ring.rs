//! A ring: n items, each beats the (n−1)/2 after it. Preferences that no scalar score can hold, and a general preference
//! model can, held-out pairs included (2410.02197 section 4).

use std::path::Path;

use serde_json::{Value, json};

use super::Options;
use super::micro::{Micro, Reader};
use super::plot::Panel;
use super::report::{Report, short};
use super::runs::{Random, each_seed, train};
use crate::error::TrainError;
use crate::games::{LARGEST_TOURNAMENT, best_order, ring, ring_ceiling};
use crate::rewards::gpm::{Gate, Gpm};

/// Share of the pairs that no model sees.
const HELD_OUT: f64 = 0.3;
/// Accuracy on them that is promised.
const PROMISED: f64 = 0.95;
/// From so many items on.
const LARGE: usize = 41;

/// How both reward models are trained; chosen on seeds from [`super::TUNING`] on.
const STEPS: usize = 600;
const RATE: f64 = 1e-2;
/// GPM's temperature. Embeddings of length 1 bound its scores by 1: at .1 a pair counts for nothing once it is won, and the
/// ring closes in the wrong order; at .5 and above all pairs pull.
const TAU: f64 = 0.5;
/// Width of GPM's embeddings.
const DIM: usize = 6;

/// Unordered pairs as (winner, loser), of items.
type Pairs = Vec<(usize, usize)>;

/// All pairs of the ring in an order of the seed; the first are held out.
fn split(n: usize, seed: u64) -> (Pairs, Pairs) {
    let beats = ring(n);
    let mut pairs: Pairs = (0..n)
        .flat_map(|i| (i + 1..n).map(move |j| (i, j)))
        .map(|(i, j)| if beats[i][j] > 0.5 { (i, j) } else { (j, i) })
        .collect();
    let mut random = Random::new(seed, n as u64);
    random.shuffle(&mut pairs);
    let seen = pairs.split_off((pairs.len() as f64 * HELD_OUT).round() as usize);
    (pairs, seen)
}

/// Share of `pairs` whose winner `better` prefers; a tie is wrong.
fn accuracy(pairs: &[(usize, usize)], better: &dyn Fn(usize, usize) -> bool) -> f64 {
    pairs.iter().filter(|(i, j)| better(*i, *j)).count() as f64 / pairs.len().max(1) as f64
}

/// What one seed gives for one size of ring.
#[derive(Debug, Clone, Copy)]
struct Measured {
    gpm_seen: f64,
    gpm_held: f64,
    bt_seen: f64,
    bt_held: f64,
    bt_all: f64,
    /// The best that any scalar order can do on the held-out pairs; none where there are too many items.
    order_held: Option<f64>,
}

fn measure(n: usize, seed: u64, folder: &Path) -> Result<Measured, TrainError> {
    let (held, seen) = split(n, seed);
    // An item is a word of its own: nothing in it says where it stands in the ring, only pairs tell.
    let question = n as u32;
    let answer = |i: usize| vec![i as u32];
    let row =
        |&(i, j): &(usize, usize)| json!({"prompt": [question], "chosen": answer(i), "rejected": answer(j)});
    let rows: Vec<Value> = seen.iter().map(row).collect();
    let trunk = folder.join("trunk");
    Micro::of_ids(n + 1, 32, 1, 8).write(&trunk, seed)?;
    let items: Vec<Vec<u32>> = (0..n).map(|i| [vec![question], answer(i)].concat()).collect();
    let values = |objective: &str, out: &str| -> Result<Vec<Vec<f64>>, TrainError> {
        let recipe = format!(
            "kind = \"reward\"\nseed = {seed}\n[data]\n[objective]\n{objective}\n[optimizer]\n\
             learning_rate = {RATE}\nwarmup_steps = 0.05\nbatch_size = 64\nmax_steps = {STEPS}\n"
        );
        Reader::open(&train(&trunk, &folder.join(out), &recipe, &rows, &[])?.0)?.values(&items)
    };
    let gpm = Gpm { blocks: DIM / 2, gate: Gate::None, l2: true, tau: TAU, scalar: false };
    let vectors = values(&format!("name = \"gpm\"\ndim = {DIM}\nl2 = true\ntau = {TAU}"), "gpm")?;
    let scores = gpm.table(&vectors, &[]).map_err(TrainError::Recipe)?;
    let scalars = values("name = \"bt\"", "bt")?;
    let (by_gpm, by_bt) =
        (|i: usize, j: usize| scores[i][j] > 0.0, |i: usize, j: usize| scalars[i][0] > scalars[j][0]);
    let mut wins = vec![vec![0.0; n]; n];
    held.iter().for_each(|&(i, j)| wins[i][j] = 1.0);
    let order_held = match n <= LARGEST_TOURNAMENT {
        true => Some(best_order(&wins).map_err(TrainError::Recipe)?.0 / held.len() as f64),
        false => None,
    };
    let all: Pairs = held.iter().chain(&seen).copied().collect();
    Ok(Measured {
        gpm_seen: accuracy(&seen, &by_gpm),
        gpm_held: accuracy(&held, &by_gpm),
        bt_seen: accuracy(&seen, &by_bt),
        bt_held: accuracy(&held, &by_bt),
        bt_all: accuracy(&all, &by_bt),
        order_held,
    })
}

pub(super) fn run(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report, TrainError> {
    let sizes: &[usize] = if options.small { &[11] } else { &[15, 61] };
    let made = each_seed(options, |seed, folder| {
        sizes
            .iter()
            .map(|&n| {
                let m = measure(n, seed, &folder.join(format!("n{n}")))?;
                say(&format!("seed {seed}, n = {n}: held-out GPM {:.3}, BT {:.3}", m.gpm_held, m.bt_held));
                Ok(m)
            })
            .collect::<Result<Vec<Measured>, TrainError>>()
    })?;
    let mut report = Report::new("gpm-ring", options);
    report.setting.push(format!(
        "Reward models over a micro llama decoder (hidden 32, 1 layer, made by seed): GPM (2k = {DIM}, unit length, tau \
         {TAU}) and Bradley–Terry on the same trunk, {STEPS} steps each (AdamW {RATE}, cosine) on 70 % of the pairs of a \
         rotational ring, the others held out; an item is a word of its own. On {} items the pairs seen leave the order \
         of neighbours open for about a tenth of those held out, to a model that does not know that the ring is even: the \
         promise of {PROMISED} is made for {LARGE} items and more.",
        sizes[0]
    ));
    let mut dots: Vec<Panel> = Vec::new();
    for (k, &n) in sizes.iter().enumerate() {
        let of = |f: fn(&Measured) -> f64| made.iter().map(|m| f(&m[k])).collect::<Vec<f64>>();
        let held = report.figure(format!("n = {n}: GPM, held-out accuracy"), of(|m| m.gpm_held));
        report.figure(format!("n = {n}: GPM, accuracy on pairs seen"), of(|m| m.gpm_seen));
        report.figure(format!("n = {n}: BT, held-out accuracy"), of(|m| m.bt_held));
        report.figure(format!("n = {n}: BT, accuracy on pairs seen"), of(|m| m.bt_seen));
        let all = report.figure(format!("n = {n}: BT, accuracy on all pairs"), of(|m| m.bt_all));
        let bound = ring_ceiling(n);
        let bar = if n >= LARGE { PROMISED } else { bound };
        report.claim(
            format!("n = {n}: GPM tells at least {} of the held-out pairs, mean over seeds", short(bar)),
            held.mean >= bar,
            short(held.mean),
        );
        let largest = all.values.iter().copied().fold(0.0, f64::max);
        report.claim(
            format!("n = {n}: no BT model exceeds (3n−1)/(4n) on all pairs"),
            largest <= bound + 1e-12,
            format!("largest {}, bound {}", short(largest), short(bound)),
        );
        let mut panel = Panel::dots(
            &format!("n = {n}"),
            "accuracy",
            vec![
                ("GPM held-out".into(), of(|m| m.gpm_held)),
                ("BT held-out".into(), of(|m| m.bt_held)),
                ("BT all pairs".into(), of(|m| m.bt_all)),
            ],
        )
        .between(0.0, 1.0)
        .level("(3n−1)/(4n)", bound);
        if let Some(best) = made.iter().map(|m| m[k].order_held).collect::<Option<Vec<f64>>>() {
            let pairs = made.iter().map(|m| (m[k].bt_held, m[k].order_held.unwrap_or(1.0)));
            let within = pairs.clone().all(|(bt, best)| bt <= best + 1e-12);
            let numbers: Vec<String> = pairs.map(|(bt, best)| format!("{bt:.3} ≤ {best:.3}")).collect();
            let best =
                report.figure(format!("n = {n}: best scalar order of the held-out pairs (exact)"), best);
            report.claim(
                format!("n = {n}: no BT model exceeds the best scalar order on its held-out pairs"),
                within,
                numbers.join(", "),
            );
            panel = panel.level("best order, held-out", best.mean);
        }
        dots.push(panel);
    }
    report.plot = dots;
    report.details = json!({"held_out_share": HELD_OUT, "sizes": sizes});
    Ok(report)
}
