//! GPO with a general preference model against SPPO and DPO with Bradley–Terry scores, under cyclic oracles
//! (2410.02197 section 5): whose averaged policy can be exploited less, and who wins head to head.

use serde_json::json;

use super::Options;
use super::duel::{
    Oracle, Player, Policy, Round, average, averages, cyclic_oracle, exploited, oracle_of, pairs, sigmoid,
    wins,
};
use super::plot::{Curve, Panel};
use super::report::{Finding, Report, short};
use super::runs::{Random, each_seed};
use crate::error::TrainError;
use crate::rewards::gpm::{Gate, Gpm};
use crate::rewards::{BradleyTerry, Goal};

const ANSWERS: usize = 4;
const PROMPTS: usize = 8;
/// The oracle's answers to each pair that the preference models are fitted to.
const COMPARISONS: usize = 400;

/// What is trained against what.
const ARMS: [&str; 5] = ["GPO + GPM", "SPPO + GPM", "GPO + BT", "SPPO + BT", "DPO + BT"];

struct Setting {
    rounds: usize,
    /// GPO's β over scores s; SPPO's is a quarter of it over P − ½, which is the same step for small scores.
    beta: f64,
    /// DPO's β, the best of .1, .3, 1, 3 and 10 for DPO.
    dpo: f64,
    round: Round,
}

/// 0 ≻ 1 by 2, 1 ≻ 2 by 1, 2 ≻ 0 by ½, and an item that loses to all by 2: a cyclic game that is not symmetric.
fn uneven_cycle() -> Oracle {
    oracle_of(&[
        vec![0.0, 2.0, -0.5, 2.0],
        vec![-2.0, 0.0, 1.0, 2.0],
        vec![0.5, -1.0, 0.0, 2.0],
        vec![-2.0, -2.0, -2.0, 0.0],
    ])
}

/// Gradient descent (Adam, full batch) on `parameters` by `f`, which adds to the gradient.
fn descend(parameters: &mut [f64], steps: usize, f: impl Fn(&[f64], &mut [f64])) {
    let (mut first, mut second) = (vec![0.0; parameters.len()], vec![0.0; parameters.len()]);
    for step in 1..=steps {
        let mut gradient = vec![0.0; parameters.len()];
        f(parameters, &mut gradient);
        let rate = 0.05 * (1.0 - step as f64 / (steps + 1) as f64);
        let (c1, c2) = (1.0 - 0.9f64.powi(step as i32), 1.0 - 0.999f64.powi(step as i32));
        for (i, g) in gradient.iter().enumerate() {
            first[i] = 0.9 * first[i] + 0.1 * g;
            second[i] = 0.999 * second[i] + 0.001 * g * g;
            parameters[i] -= rate * first[i] / c1 / ((second[i] / c2).sqrt() + 1e-9);
        }
    }
}

/// Scores s(i ≻ j) that GPM (two blocks, no unit length, τ 1) and Bradley–Terry make of the oracle's answers.
fn fitted(oracle: &Oracle, random: &mut Random) -> Result<[Vec<Vec<f64>>; 2], TrainError> {
    let mut seen = Vec::new();
    for i in 0..ANSWERS {
        for j in i + 1..ANSWERS {
            let won = (0..COMPARISONS).filter(|_| random.uniform() < oracle[i][j]).count();
            seen.push((i, j, won as f64 / COMPARISONS as f64));
        }
    }
    let gpm = Gpm { blocks: 2, gate: Gate::None, l2: false, tau: 1.0, scalar: false };
    let width = gpm.width();
    let mut vectors: Vec<f64> = (0..ANSWERS * width).map(|_| random.uniform() - 0.5).collect();
    let of = |v: &[f64], i: usize| v[i * width..(i + 1) * width].to_vec();
    descend(&mut vectors, 1500, |v, gradient| {
        for &(i, j, p) in &seen {
            // Widths fit by construction.
            if let Ok(made) = gpm.loss(&of(v, i), &of(v, j), &[], 0.0, Goal::Wins(p)) {
                for k in 0..width {
                    gradient[i * width + k] += made.first[k];
                    gradient[j * width + k] += made.second[k];
                }
            }
        }
    });
    let all: Vec<Vec<f64>> = (0..ANSWERS).map(|i| of(&vectors, i)).collect();
    let by_gpm = gpm.table(&all, &[]).map_err(TrainError::Recipe)?;
    let mut scalars = vec![0.0; ANSWERS];
    let bt = BradleyTerry::default();
    descend(&mut scalars, 1500, |r, gradient| {
        for &(i, j, p) in &seen {
            let made = bt.loss(r[i], r[j], 0.0, Goal::Wins(p));
            gradient[i] += made.chosen;
            gradient[j] += made.rejected;
        }
    });
    let by_bt = scalars.iter().map(|a| scalars.iter().map(|b| a - b).collect()).collect();
    Ok([by_gpm, by_bt])
}

struct Played {
    /// By arm: exploitability of the average of the first t iterates, of iterate t, and the averaged policy.
    average: Vec<Vec<f64>>,
    last: Vec<Vec<f64>>,
    policies: Vec<Policy>,
    oracles: Vec<Oracle>,
}

impl Played {
    /// P(first ≻ second) of two arms' averaged policies, mean over prompts.
    fn duel(&self, first: usize, second: usize) -> f64 {
        let each =
            (0..PROMPTS).map(|x| wins(&self.oracles[x], &self.policies[first][x], &self.policies[second][x]));
        each.sum::<f64>() / PROMPTS as f64
    }
}

fn play(s: &Setting, seed: u64, folder: &std::path::Path) -> Result<Played, TrainError> {
    let mut random = Random::new(seed, 2);
    let mut oracles = vec![uneven_cycle()];
    for _ in 1..PROMPTS {
        oracles.push(cyclic_oracle(ANSWERS, &mut random)?);
    }
    let scores: Vec<[Vec<Vec<f64>>; 2]> =
        oracles.iter().map(|o| fitted(o, &mut random)).collect::<Result<_, _>>()?;
    let mut played = Played { average: Vec::new(), last: Vec::new(), policies: Vec::new(), oracles };
    for (arm, name) in ARMS.into_iter().enumerate() {
        let by = usize::from(name.ends_with("BT"));
        let label = |player: &Player, x: usize, draws: &[usize], _: &mut Random| {
            let table = &scores[x][by];
            let mean = |y: usize, f: fn(f64) -> f64| {
                draws.iter().map(|&d| f(table[y][d])).sum::<f64>() / draws.len() as f64
            };
            pairs(draws)
                .map(|(a, b)| match &name[..3] {
                    "GPO" => {
                        let s = |y| mean(y, |s| s);
                        player.row(x, a, b, &json!({"score_chosen": s(a), "score_rejected": s(b)}))
                    }
                    "SPP" => {
                        let p = |y| mean(y, sigmoid);
                        player.row(x, a, b, &json!({"p_chosen": p(a), "p_rejected": p(b)}))
                    }
                    _ => {
                        let (a, b) = if table[a][b] > 0.0 { (a, b) } else { (b, a) };
                        player.row(x, a, b, &json!({}))
                    }
                })
                .collect()
        };
        let objective = match &name[..3] {
            "GPO" => format!("name = \"gpo\"\nbeta = {}", s.beta),
            "SPP" => format!("name = \"sppo\"\nbeta = {}", s.beta / 4.0),
            _ => format!("name = \"sigmoid\"\nbeta = {}", s.dpo),
        };
        let mut player = Player::new(&folder.join(format!("arm-{arm}")), ANSWERS, PROMPTS, seed)?;
        let mut random = Random::new(seed, 10 + arm as u64);
        let iterates = player.play(s.rounds, &s.round, &objective, &mut random, &label)?;
        played.average.push(averages(&played.oracles, &iterates));
        played.last.push(iterates.iter().map(|p| exploited(&played.oracles, p)).collect());
        played.policies.push(average(&iterates));
    }
    Ok(played)
}

pub(super) fn run(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report, TrainError> {
    let mut s =
        Setting { rounds: 40, beta: 2.0, dpo: 10.0, round: Round { steps: 40, rate: 5e-3, draws: 64 } };
    if options.small {
        s.rounds = 10;
        s.round.steps = 20;
    }
    let made = each_seed(options, |seed, folder| {
        let played = play(&s, seed, folder)?;
        let ends: Vec<String> = (0..ARMS.len())
            .map(|a| format!("{} {}", ARMS[a], short(played.average[a][s.rounds - 1])))
            .collect();
        say(&format!("seed {seed}: exploitability of the averages: {}", ends.join(", ")));
        Ok(played)
    })?;
    let mut report = Report::new("gpo-cycle", options);
    report.setting.push(format!(
        "Policies are micro llama decoders (hidden 32, 1 layer) whose vocabulary is the {ANSWERS} answers; {PROMPTS} \
         prompts, the first with the uneven cycle 2 : 1 : ½ and a loser, the others with random cyclic oracles. GPM (two \
         blocks) and BT are fitted to {COMPARISONS} answers of the oracle for each pair. {} rounds of {} draws a prompt \
         and {} steps (AdamW {}, linear), reference = the policy at the round's start; GPO β {}, SPPO β {}, DPO β {}.",
        s.rounds, s.round.draws, s.round.steps, s.round.rate, s.beta, s.beta / 4.0, s.dpo
    ));
    let end = |arm: usize| made.iter().map(|m| m.average[arm][s.rounds - 1]).collect::<Vec<f64>>();
    let start = made.iter().map(|m| m.average[0][0]).collect();
    report.figure("exploitability at the start", start);
    for (arm, name) in ARMS.into_iter().enumerate() {
        report.figure(format!("exploitability of the average, {name}"), end(arm));
        let last = made.iter().map(|m| m.last[arm][s.rounds - 1]).collect();
        report.figure(format!("exploitability of the last iterate, {name}"), last);
    }
    for rival in [3, 4] {
        report.claim_above(
            format!("{}'s average ends less exploitable than {}'s", ARMS[0], ARMS[rival]),
            &end(rival),
            &end(0),
        );
    }
    for rival in [3, 4] {
        let won: Vec<f64> = made.iter().map(|m| m.duel(0, rival)).collect();
        report.figure(format!("P({} ≻ {}) under the oracle", ARMS[0], ARMS[rival]), won.clone());
        report.claim_above(
            format!("{}'s average beats {}'s head to head", ARMS[0], ARMS[rival]),
            &won,
            &vec![0.5; won.len()],
        );
    }
    for (question, a, b) in
        [("GPO + BT's exploitability against GPO + GPM's", 2, 0), ("SPPO + GPM's against GPO + GPM's", 1, 0)]
    {
        report.findings.push(Finding::paired(question, &end(a), &end(b)));
    }
    let curves = |of: &dyn Fn(&Played) -> &Vec<Vec<f64>>| -> Vec<Curve> {
        let points = |arm: usize| {
            (0..s.rounds)
                .map(|t| (t as f64 + 1.0, made.iter().map(|m| of(m)[arm][t]).collect()))
                .collect::<Vec<_>>()
        };
        ARMS.into_iter().enumerate().map(|(arm, name)| Curve::new(name, points(arm))).collect()
    };
    report.plot = vec![
        Panel::curves("The averaged policy", "round", "exploitability", curves(&|m| &m.average)),
        Panel::curves("The iterate", "round", "exploitability", curves(&|m| &m.last)),
    ];
    let column =
        |of: &dyn Fn(&Played) -> &Vec<Vec<f64>>| made.iter().map(|m| of(m).clone()).collect::<Vec<_>>();
    let duels: Vec<Vec<Vec<f64>>> = made
        .iter()
        .map(|m| (0..ARMS.len()).map(|a| (0..ARMS.len()).map(|b| m.duel(a, b)).collect()).collect())
        .collect();
    report.details = json!({"arms": ARMS, "average": column(&|m| &m.average), "iterate": column(&|m| &m.last),
        "head_to_head": duels});
    Ok(report)
}
