//! Numbers in texts: what a results table may hold is what stands in the paper.

use std::collections::HashSet;

/// The numbers of a text in one spelling: `1{,}234`, `1,234` and `1234` are the same, so are `.5` and `0.50`.
pub fn numbers(text: &str) -> HashSet<String> {
    let plain = text.replace("{,}", ",").replace("\\,", "").replace('−', "-");
    let mut out = HashSet::new();
    let chars: Vec<char> = plain.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        let digit = |k: usize| chars.get(k).is_some_and(char::is_ascii_digit);
        if !(digit(i) || chars[i] == '.' && digit(i + 1) && (i == 0 || !chars[i - 1].is_ascii_digit())) {
            i += 1;
            continue;
        }
        let start = i;
        let mut points = 0;
        while i < chars.len() {
            let thousands = chars[i] == ','
                && points == 0
                && digit(i + 1)
                && digit(i + 2)
                && digit(i + 3)
                && !digit(i + 4)
                && i - start <= 3 + (i - start) / 4 * 4;
            let point = chars[i] == '.' && points == 0 && digit(i + 1);
            if point {
                points += 1;
            } else if !digit(i) && !thousands {
                break;
            }
            i += 1;
        }
        out.insert(normal(&chars[start..i].iter().filter(|c| **c != ',').collect::<String>()));
    }
    out
}

/// Without leading zeros, and without trailing ones behind a point.
fn normal(number: &str) -> String {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.trim_start_matches('0');
    let part = part.trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    if part.is_empty() { whole.into() } else { format!("{whole}.{part}") }
}

/// The numbers of `claimed` that do not stand in the paper, sorted.
pub fn missing(claimed: &str, paper: &HashSet<String>) -> Vec<String> {
    let mut out: Vec<String> = numbers(claimed).into_iter().filter(|n| !paper.contains(n)).collect();
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_in_many_spellings_is_one_number() {
        let paper =
            numbers(r"We train on 1{,}234 papers (52.10\% $\pm$ .3), $-0.50$, 3 of 7, 12,5 and v2.1.3.");
        for n in ["1234", "52.1", "0.3", "0.5", "3", "7", "12", "5", "2.1"] {
            assert!(paper.contains(n), "{n}: {paper:?}");
        }
        assert_eq!(missing("1,234 and 52.1 but 99.9", &paper), ["99.9"]);
        assert_eq!(missing("", &paper), Vec::<String>::new());
    }
}
