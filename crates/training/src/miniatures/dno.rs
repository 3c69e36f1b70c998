//! DNO (2404.03715, Algorithm 1) under an oracle that no scalar reward describes: every step improves by the bound that the
//! paper's objective implies, and the average of the iterates approaches Nash where offline DPO does not.

use serde_json::json;

use super::Options;
use super::duel::{
    Oracle, Player, Policy, Round, averages, cyclic_oracle, divergence, exploited, pairs, wins,
};
use super::plot::{Curve, Panel};
use super::report::{Report, short};
use super::runs::{Random, each_seed};
use crate::error::TrainError;

const ANSWERS: usize = 6;
const PROMPTS: usize = 4;

/// One seed.
struct Played {
    /// Exploitability of the average of the first t iterates, and of iterate t.
    average: Vec<f64>,
    last: Vec<f64>,
    /// P(π_{t+1} ≻ π_t) − ½ − η KL(π_{t+1} ‖ π_t), mean over prompts, t = 1, 2, …
    slack: Vec<f64>,
    /// P(π_{t+1} ≻ π_t) − ½, mean over prompts.
    gain: Vec<f64>,
    /// Share of (prompt, step) for which the bound holds.
    prompts: f64,
    offline: f64,
}

struct Setting {
    rounds: usize,
    eta: f64,
    /// DPO's β, the best of .1, .3, 1 and 3 for DPO.
    beta: f64,
    round: Round,
}

fn steps(oracles: &[Oracle], iterates: &[Policy], eta: f64) -> (Vec<f64>, Vec<f64>, f64) {
    let (mut slack, mut gain, mut holding, mut all) = (Vec::new(), Vec::new(), 0, 0);
    for step in iterates.windows(2) {
        let each: Vec<(f64, f64)> = (0..oracles.len())
            .map(|x| {
                let gain = wins(&oracles[x], &step[1][x], &step[0][x]) - 0.5;
                (gain, gain - eta * divergence(&step[1][x], &step[0][x]))
            })
            .collect();
        let n = each.len() as f64;
        gain.push(each.iter().map(|e| e.0).sum::<f64>() / n);
        slack.push(each.iter().map(|e| e.1).sum::<f64>() / n);
        holding += each.iter().filter(|e| e.1 >= 0.0).count();
        all += each.len();
    }
    (slack, gain, f64::from(holding as u32) / f64::from(all.max(1) as u32))
}

pub(super) fn run(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report, TrainError> {
    let mut s =
        Setting { rounds: 40, eta: 0.5, beta: 0.3, round: Round { steps: 80, rate: 5e-3, draws: 128 } };
    if options.small {
        s.rounds = 12;
        s.round.steps = 20;
    }
    let made = each_seed(options, |seed, folder| {
        let mut random = Random::new(seed, 1);
        let oracles: Vec<Oracle> =
            (0..PROMPTS).map(|_| cyclic_oracle(ANSWERS, &mut random)).collect::<Result<_, _>>()?;
        // Win rates against the policy, from the same draws that are compared: the oracle's probabilities, not its labels.
        let label = |player: &Player, x: usize, draws: &[usize], _: &mut Random| {
            let rate = |y: usize| draws.iter().map(|&d| oracles[x][y][d]).sum::<f64>() / draws.len() as f64;
            pairs(draws)
                .map(|(a, b)| player.row(x, a, b, &json!({"p_chosen": rate(a), "p_rejected": rate(b)})))
                .collect()
        };
        let mut player = Player::new(&folder.join("dno"), ANSWERS, PROMPTS, seed)?;
        let objective = format!("name = \"dno\"\neta = {}", s.eta);
        let iterates = player.play(s.rounds, &s.round, &objective, &mut random, &label)?;
        // DPO on as many draws of the first policy, for as many steps: the oracle draws a winner for each pair.
        let mut offline = Player::new(&folder.join("dpo"), ANSWERS, PROMPTS, seed)?;
        let draws = offline.draw(&iterates[0], s.round.draws * (s.rounds - 1), &mut random);
        let mut rows = Vec::new();
        for (x, draws) in draws.iter().enumerate() {
            for (a, b) in pairs(draws) {
                let (a, b) = if random.uniform() < oracles[x][a][b] { (a, b) } else { (b, a) };
                rows.push(offline.row(x, a, b, &json!({})));
            }
        }
        let objective = format!("name = \"sigmoid\"\nbeta = {}", s.beta);
        offline.learn(&objective, &rows, s.round.steps * (s.rounds - 1), s.round.rate)?;
        let (slack, gain, prompts) = steps(&oracles, &iterates, s.eta);
        let played = Played {
            average: averages(&oracles, &iterates),
            last: iterates.iter().map(|p| exploited(&oracles, p)).collect(),
            slack,
            gain,
            prompts,
            offline: exploited(&oracles, &offline.policy()?),
        };
        let end = played.average.last().copied().unwrap_or(f64::NAN);
        say(&format!("seed {seed}: exploitability DNO {end:.4}, offline DPO {:.4}", played.offline));
        Ok(played)
    })?;
    Ok(tell(options, &s, &made))
}

fn tell(options: &Options, s: &Setting, made: &[Played]) -> Report {
    let mut report = Report::new("dno", options);
    report.setting.push(format!(
        "The policy is a micro llama decoder (hidden 32, 1 layer) whose vocabulary is the {ANSWERS} answers; {PROMPTS} \
         prompts, each with a random oracle without a best answer. DNO with soft labels: {} rounds, η {}, {} draws a \
         prompt from the policy and {} steps a round (AdamW {}, linear). Offline DPO: as many draws of the first policy, \
         as many steps, β {}.",
        s.rounds, s.eta, s.round.draws, s.round.steps, s.round.rate, s.beta
    ));
    let at = |t: usize| made.iter().map(|m| m.average[t - 1]).collect::<Vec<f64>>();
    let marks = [1, s.rounds / 4, s.rounds / 2, s.rounds];
    let means: Vec<f64> = marks
        .iter()
        .map(|&t| report.figure(format!("exploitability of the average of {t} iterates"), at(t)).mean)
        .collect();
    let end = at(s.rounds);
    let last: Vec<f64> = made.iter().map(|m| m.last[s.rounds - 1]).collect();
    report.figure("exploitability of the last iterate", last);
    let offline: Vec<f64> = made.iter().map(|m| m.offline).collect();
    report.figure("exploitability of offline DPO", offline.clone());
    let smallest = |of: &dyn Fn(&Played) -> &Vec<f64>| -> Vec<f64> {
        made.iter().map(|m| of(m).iter().copied().fold(f64::INFINITY, f64::min)).collect()
    };
    report.figure("smallest P(next ≻ last) − ½ of a run", smallest(&|m| &m.gain));
    let slack = smallest(&|m| &m.slack);
    report.figure("smallest P(next ≻ last) − ½ − ηKL of a run", slack.clone());
    report.figure("share of prompts and steps within the bound", made.iter().map(|m| m.prompts).collect());
    let least = slack.iter().copied().fold(f64::INFINITY, f64::min);
    report.claim(
        "every iterate beats the one before by at least ηKL, mean over prompts",
        least >= 0.0,
        format!("least slack of {} steps {}", made.len() * (s.rounds - 1), short(least)),
    );
    let numbers: Vec<String> = means.iter().map(|m| short(*m)).collect();
    report.claim(
        format!("the averaged policy's exploitability falls from each of iterates {marks:?} to the next"),
        means.windows(2).all(|w| w[1] < w[0]),
        numbers.join(", "),
    );
    report.claim_above("it ends below offline DPO's at the same budget", &offline, &end);
    let curve = |name: &str, of: &dyn Fn(&Played) -> &Vec<f64>, rounds: usize| {
        let points = (0..rounds).map(|t| (t as f64 + 1.0, made.iter().map(|m| of(m)[t]).collect()));
        Curve::new(name, points)
    };
    let mean = offline.iter().sum::<f64>() / offline.len().max(1) as f64;
    report.plot = vec![
        Panel::curves(
            "Exploitability in the oracle's game",
            "round",
            "max P(y ≻ π) − ½",
            vec![curve("average", &|m| &m.average, s.rounds), curve("iterate", &|m| &m.last, s.rounds)],
        )
        .level("offline DPO", mean),
        Panel::curves(
            "Each iterate against the one before",
            "round",
            "P − ½",
            vec![
                curve("P(next ≻ last) − ½", &|m| &m.gain, s.rounds - 1),
                curve("the same − η KL", &|m| &m.slack, s.rounds - 1),
            ],
        )
        .level("bound", 0.0),
    ];
    let column = |of: &dyn Fn(&Played) -> &Vec<f64>| made.iter().map(|m| of(m).clone()).collect::<Vec<_>>();
    report.details = json!({"average": column(&|m| &m.average), "iterate": column(&|m| &m.last),
        "gain": column(&|m| &m.gain), "slack": column(&|m| &m.slack)});
    report
}
