//! robots.txt (RFC 9309): what pages without an API ask of programs.

use std::time::Duration;

/// The rules for us.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Robots {
    /// Pattern and whether it allows.
    rules: Vec<(String, bool)>,
    /// `Crawl-delay`, which is no part of the RFC and common all the same.
    pub delay: Option<Duration>,
}

impl Robots {
    /// The group that names this agent, else that of `*`; groups of one name are one (RFC 9309, 2.2.1).
    pub fn parse(text: &str, agent: &str) -> Self {
        let (mut own, mut all) = (None::<Self>, None::<Self>);
        let (mut is_own, mut is_all, mut in_rules) = (false, false, false);
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let Some((name, value)) = line.split_once(':') else { continue };
            let (name, value) = (name.trim().to_lowercase(), value.trim());
            if name == "user-agent" {
                if in_rules {
                    (is_own, is_all, in_rules) = (false, false, false);
                }
                is_own |= value.eq_ignore_ascii_case(agent);
                is_all |= value == "*";
                if is_own {
                    own.get_or_insert_default();
                }
                continue;
            }
            in_rules = true;
            for (is_meant, group) in [(is_own, &mut own), (is_all, &mut all)] {
                if !is_meant {
                    continue;
                }
                let group = group.get_or_insert_default();
                match name.as_str() {
                    "allow" | "disallow" if !value.is_empty() => {
                        group.rules.push((value.into(), name == "allow"));
                    }
                    "crawl-delay" => {
                        let seconds = value.parse().ok().filter(|s: &f64| (0.0..=3_600.0).contains(s));
                        group.delay = seconds.map(Duration::from_secs_f64).or(group.delay);
                    }
                    _ => {}
                }
            }
        }
        own.or(all).unwrap_or_default()
    }

    /// Whether a path with its query may be fetched: the longest pattern decides, of two equal ones the one that allows
    /// (2.2.2).
    pub fn allows(&self, path: &str) -> bool {
        let fitting = self.rules.iter().filter(|(pattern, _)| fits(pattern, path));
        fitting.max_by_key(|(pattern, allows)| (pattern.len(), *allows)).is_none_or(|(_, allows)| *allows)
    }
}

/// `*` is anything, `$` at the end is the end; otherwise a pattern is a beginning (2.2.3).
fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, whole) = pattern.strip_suffix('$').map_or((pattern, false), |p| (p, true));
    let mut pieces = pattern.split('*');
    let Some(mut rest) = path.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut last = None;
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
        last = Some(piece);
    }
    // The last piece may stand at a later place too.
    !whole || rest.is_empty() || last.is_some_and(|piece| rest.ends_with(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_rule_of_our_own_group_decides() {
        let text = "User-agent: other\nDisallow: /\n\nUser-agent: *\nCrawl-delay: 5 # seconds\nDisallow: /content/ # not these\n\
                    Allow: /content/*/html/\nDisallow: /*.zip$\nDisallow:\n";
        let robots = Robots::parse(text, "cycle");
        assert_eq!(robots.delay, Some(Duration::from_secs(5)));
        for (path, allowed) in [
            ("/CVPR2024?day=all", true),
            ("/content/CVPR2024/papers/x.pdf", false),
            ("/content/CVPR2024/html/x.html", true),
            ("/a/b.zip", false),
            ("/a/b.zip?x", true),
        ] {
            assert_eq!(robots.allows(path), allowed, "{path}");
        }
        let own =
            Robots::parse(&format!("User-agent: Cycle\nUser-agent: x\nDisallow: /v1\n\n{text}"), "cycle");
        assert!(own.allows("/content/CVPR2024/papers/x.pdf") && !own.allows("/v162/"));
        assert!(Robots::parse("<!DOCTYPE html>", "cycle").allows("/"));
    }
}
