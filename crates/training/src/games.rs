//! Small symmetric games: how far a mixed strategy is from Nash, and what a scalar score can say of a tournament.
//!
//! A game is its payoff matrix `A`, `A[i][j]` what i wins against j: P − ½ for win probabilities, or any skew-symmetric
//! preference scores. Its value is 0.

/// Largest tournament [`best_order`] takes: it looks at every subset.
pub const LARGEST_TOURNAMENT: usize = 15;

/// A p.
fn payoffs(game: &[Vec<f64>], p: &[f64]) -> Vec<f64> {
    game.iter().map(|row| row.iter().zip(p).map(|(a, x)| a * x).sum()).collect()
}

/// max_i (A p)_i and the i: what the best pure answer to `p` wins; 0 exactly at Nash. NashConv of the symmetric profile
/// is twice that.
pub fn exploitability(game: &[Vec<f64>], p: &[f64]) -> (f64, usize) {
    let mut best = (f64::NEG_INFINITY, 0);
    for (i, payoff) in payoffs(game, p).into_iter().enumerate() {
        if payoff > best.0 {
            best = (payoff, i);
        }
    }
    best
}

/// Iterates of [`multiplicative_weights`].
#[derive(Debug, Clone, PartialEq)]
pub struct Play {
    /// The last strategy, which circles around Nash in a cyclic game and does not reach it.
    pub last: Vec<f64>,
    /// The mean of all, which approaches Nash as 1/√T.
    pub average: Vec<f64>,
}

/// Multiplicative weights p_{t+1} ∝ p_t exp(η A p_t) for `rounds` strategies, the start being the first.
///
/// Tabular GPO is this with preference scores for `game` and η = 1/β (2410.02197 section 5), tabular DNO with win
/// probabilities (2404.03715 Algorithm 1).
pub fn multiplicative_weights(game: &[Vec<f64>], start: &[f64], eta: f64, rounds: usize) -> Play {
    let mut log: Vec<f64> = start.iter().map(|p| p.ln()).collect();
    let mut last = start.to_vec();
    let mut sum = start.to_vec();
    for _ in 1..rounds.max(1) {
        // In logarithms: a strategy may fall below the smallest number and come back.
        for (l, payoff) in log.iter_mut().zip(payoffs(game, &last)) {
            *l += eta * payoff;
        }
        let largest = log.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = largest + log.iter().map(|l| (l - largest).exp()).sum::<f64>().ln();
        for ((l, p), s) in log.iter_mut().zip(&mut last).zip(&mut sum) {
            *l -= total;
            *p = l.exp();
            *s += *p;
        }
    }
    let rounds = rounds.max(1) as f64;
    Play { last, average: sum.into_iter().map(|s| s / rounds).collect() }
}

/// A Nash strategy of a skew-symmetric game: x ≥ 0, Σx = 1, A x ≤ 0.
///
/// A linear programme (dense simplex, Bland's rule), then refined on the support by solving A_SS x = 0, Σx = 1, so that
/// its exploitability is at rounding.
///
/// # Errors
/// If the matrix is empty, not square or not skew-symmetric.
pub fn nash(game: &[Vec<f64>]) -> Result<Vec<f64>, String> {
    let n = game.len();
    if n == 0 || game.iter().any(|row| row.len() != n) {
        return Err("a game is a square matrix".into());
    }
    let largest = game.iter().flatten().fold(0.0f64, |m, a| m.max(a.abs()));
    for i in 0..n {
        for j in 0..=i {
            let sum = game[i][j] + game[j][i];
            if !sum.is_finite() || sum.abs() > 1e-9 * largest.max(1e-300) {
                return Err(format!("not skew-symmetric at {i}, {j}: {} and {}", game[i][j], game[j][i]));
            }
        }
    }
    if largest == 0.0 {
        return Ok(vec![1.0 / n as f64; n]);
    }
    let x = simplex(game, largest);
    let support: Vec<usize> = (0..n).filter(|&i| x[i] > 1e-7).collect();
    let mut refined = vec![0.0; n];
    if let Some(y) = indifferent(game, &support) {
        for (&i, y) in support.iter().zip(&y) {
            refined[i] = *y;
        }
        if y.iter().all(|&y| y >= 0.0) && exploitability(game, &refined).0 <= exploitability(game, &x).0 {
            return Ok(refined);
        }
    }
    Ok(x)
}

/// max Σu subject to (A/a + 2)u ≤ 1, u ≥ 0, scaled to Σ = 1. The shift makes the value positive, hence the programme
/// bounded and u = 0 a start.
fn simplex(game: &[Vec<f64>], largest: f64) -> Vec<f64> {
    let n = game.len();
    // Rows of constraints, the objective last; columns of variables, slacks, the right side.
    let mut t = vec![vec![0.0; 2 * n + 1]; n + 1];
    for i in 0..n {
        for j in 0..n {
            t[i][j] = game[i][j] / largest + 2.0;
        }
        t[i][n + i] = 1.0;
        t[i][2 * n] = 1.0;
        t[n][i] = -1.0;
    }
    let mut basis: Vec<usize> = (n..2 * n).collect();
    while let Some(column) = (0..2 * n).find(|&j| t[n][j] < -1e-12) {
        // Bland's rule: of equal ratios the lowest variable leaves, so that no cycle is possible.
        let mut leaving: Option<(f64, usize)> = None;
        for i in 0..n {
            if t[i][column] > 1e-12 {
                let ratio = t[i][2 * n] / t[i][column];
                let better = leaving.is_none_or(|(best, row)| {
                    ratio < best - 1e-12 || (ratio <= best + 1e-12 && basis[i] < basis[row])
                });
                if better {
                    leaving = Some((ratio, i));
                }
            }
        }
        let Some((_, row)) = leaving else { break };
        let pivot = t[row][column];
        t[row].iter_mut().for_each(|x| *x /= pivot);
        let pivot_row = t[row].clone();
        for (i, other) in t.iter_mut().enumerate() {
            let factor = other[column];
            if i != row && factor != 0.0 {
                other.iter_mut().zip(&pivot_row).for_each(|(x, p)| *x -= factor * p);
            }
        }
        basis[row] = column;
    }
    let mut x = vec![0.0; n];
    for (row, &variable) in basis.iter().enumerate() {
        if variable < n {
            x[variable] = t[row][2 * n].max(0.0);
        }
    }
    let sum: f64 = x.iter().sum();
    x.into_iter().map(|x| x / sum).collect()
}

/// The strategy on `support` against which all of its members earn the same: A_SS y = 0, Σy = 1, by Gaussian elimination
/// over these |S| + 1 equations, one of which is redundant. None if they do not determine it.
fn indifferent(game: &[Vec<f64>], support: &[usize]) -> Option<Vec<f64>> {
    let k = support.len();
    // Equations: every row of A_SS, then the sum; one of the former is redundant (a skew matrix of odd size).
    let mut rows: Vec<Vec<f64>> = support
        .iter()
        .map(|&i| support.iter().map(|&j| game[i][j]).chain([0.0]).collect())
        .chain([vec![1.0; k + 1]])
        .collect();
    for column in 0..k {
        let pivot =
            (column..rows.len()).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
        if rows[pivot][column].abs() < 1e-12 {
            return None;
        }
        rows.swap(column, pivot);
        let source = rows[column].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            if i != column {
                let factor = row[column] / source[column];
                row.iter_mut().zip(&source).for_each(|(x, s)| *x -= factor * s);
            }
        }
    }
    Some((0..k).map(|i| rows[i][k] / rows[i][i]).collect())
}

/// (3n−1)/(4n): the best pairwise accuracy of any scalar score on a regular tournament of `n` (odd) players, each of
/// whom beats (n−1)/2 others. The first of q players taken from the top still loses to at least m−q+1 of the rest.
pub fn ring_ceiling(n: usize) -> f64 {
    (3 * n - 1) as f64 / (4 * n) as f64
}

/// The rotational ring on `n` players: i beats i+1, …, i+(n−1)/2. `ring(n)[i][j]` is 1 if i beats j.
pub fn ring(n: usize) -> Vec<Vec<f64>> {
    let beats = |i: usize, j: usize| (1..=(n - 1) / 2).contains(&((j + n - i) % n));
    (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(beats(i, j)))).collect()).collect()
}

/// The order of players that a scalar score can do best with: the largest Σ `wins[i][j]` over i ranked above j, and the
/// order, best first. Exact, over all subsets.
///
/// # Errors
/// If there are more than [`LARGEST_TOURNAMENT`] players or the matrix is not square.
pub fn best_order(wins: &[Vec<f64>]) -> Result<(f64, Vec<usize>), String> {
    let n = wins.len();
    if n > LARGEST_TOURNAMENT || wins.iter().any(|row| row.len() != n) {
        return Err(format!("{n} players: at most {LARGEST_TOURNAMENT}, in a square matrix"));
    }
    // best[set]: most right comparisons inside `set`; its top player is tried in turn.
    let mut best = vec![(0.0f64, usize::MAX); 1 << n];
    for set in 1usize..1 << n {
        let members = || (0..n).filter(move |i| set >> i & 1 == 1);
        best[set].0 = f64::NEG_INFINITY;
        for top in members() {
            let below = members().filter(|&j| j != top).map(|j| wins[top][j]).sum::<f64>();
            let value = below + best[set & !(1 << top)].0;
            if value > best[set].0 {
                best[set] = (value, top);
            }
        }
    }
    let (mut set, mut order) = ((1usize << n) - 1, Vec::with_capacity(n));
    let value = best[set].0;
    while set != 0 {
        let top = best[set].1;
        order.push(top);
        set &= !(1 << top);
    }
    Ok((value, order))
}
