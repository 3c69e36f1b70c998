//! LaTeX that ordinary LaTeX compiles: article, natbib, booktabs, amsmath, hyperref.

use crate::paper::{Block, Inline, Origin, Paper};
use crate::pdf::SIMULATED_MARK;
use crate::tex_text::{escape, settable};

/// A paper as source.
#[derive(Debug, Clone, PartialEq)]
pub struct LatexBundle {
    /// `paper.tex`.
    pub tex: String,
    /// `references.bib`.
    pub bib: String,
}

/// Writes the source.
pub fn latex(paper: &Paper) -> LatexBundle {
    let mut tex = String::from(
        "\\documentclass[10pt]{article}\n\\usepackage[T1]{fontenc}\n\\usepackage[utf8]{inputenc}\n\
         \\usepackage[margin=1.3in]{geometry}\n\\usepackage{amsmath,amssymb,textcomp,booktabs,xcolor,graphicx}\n\
         \\usepackage[authoryear,round]{natbib}\n\\usepackage{hyperref}\n",
    );
    if paper.has_simulated() {
        // Which page a float lands on is LaTeX's choice, so every page carries the mark.
        tex += &format!(
            "\\usepackage{{fancyhdr}}\\pagestyle{{fancy}}\\fancyhf{{}}\\cfoot{{\\thepage}}\n\
             \\lhead{{\\textcolor{{red!60!black}}{{\\bfseries\\small {}}}}}\n\\fancypagestyle{{plain}}{{}}\n",
            escape(SIMULATED_MARK)
        );
    }
    tex += &format!(
        "\\title{{{}}}\n\\author{{{}}}\n\\date{{}}\n\\begin{{document}}\n\\maketitle\n",
        escape(&paper.title),
        escape(&paper.byline)
    );
    if !paper.abstract_text.is_empty() {
        tex += "\\begin{abstract}\n";
        for p in &paper.abstract_text {
            tex += &format!("{}\n\n", run(p));
        }
        tex += "\\end{abstract}\n";
    }
    for s in &paper.sections {
        let command = ["section", "subsection", "subsubsection"][usize::from(s.level.clamp(1, 3)) - 1];
        tex += &format!("\n\\{command}{{{}}}\n\n", escape(&s.heading));
        for b in &s.blocks {
            tex += &block(b);
        }
    }
    tex += &format!("\n\\paragraph{{Declaration.}} {}\n", escape(&paper.declaration));
    if !paper.references.is_empty() {
        tex += "\n\\bibliographystyle{plainnat}\n\\bibliography{references}\n";
    }
    tex += "\\end{document}\n";
    let bib = paper.references.iter().map(|r| settable(r.bibtex.trim()) + "\n\n").collect();
    LatexBundle { tex, bib }
}

/// A formula that cannot break the document: balanced, and without commands that read, write or define.
fn safe_formula(latex: &str) -> bool {
    let mut depth = 0i32;
    for c in latex.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            '$' | '#' | '%' | '&' => return false,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0 && crate::math::typst(latex).is_some()
}

fn inline(x: &Inline) -> String {
    match x {
        Inline::Text(t) => escape(t),
        Inline::Emph(t) => format!("\\emph{{{}}}", escape(t)),
        Inline::Strong(t) => format!("\\textbf{{{}}}", escape(t)),
        Inline::Code(t) => format!("\\texttt{{{}}}", escape(t)),
        Inline::Math(t) if safe_formula(t) => format!("${t}$"),
        Inline::Math(t) => format!("\\texttt{{{}}}", escape(t)),
        Inline::Cite { keys, textual } => {
            format!("\\{}{{{}}}", if *textual { "citet" } else { "citep" }, keys.join(","))
        }
        Inline::Number { text, origin: Origin::Simulated } => {
            format!("\\textcolor{{red!60!black}}{{{}}}", escape(text))
        }
        Inline::Number { text, .. } => escape(text),
    }
}

fn run(xs: &[Inline]) -> String {
    xs.iter().map(inline).collect()
}

fn block(b: &Block) -> String {
    match b {
        Block::Paragraph(xs) => format!("{}\n\n", run(xs)),
        Block::Equation(t) if safe_formula(t) => {
            format!("\\begin{{equation}}\n{}\n\\end{{equation}}\n\n", t.trim())
        }
        Block::Equation(t) | Block::Code(t) => {
            let lines: Vec<String> = t.lines().map(|l| format!("\\texttt{{{}}}", escape(l))).collect();
            format!("\\begin{{quote}}\\small {}\\end{{quote}}\n\n", lines.join("\\\\\n"))
        }
        Block::List { ordered, items } => {
            let name = if *ordered { "enumerate" } else { "itemize" };
            let items: String = items.iter().map(|i| format!("\\item {}\n", run(i))).collect();
            if items.is_empty() {
                String::new()
            } else {
                format!("\\begin{{{name}}}\n{items}\\end{{{name}}}\n\n")
            }
        }
        Block::Table(t) => {
            let columns = t.rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
            let mark =
                if t.origin == Origin::Simulated { " \\textcolor{red!60!black}{(simulated)}" } else { "" };
            let mut out = format!(
                "\\begin{{table}}[t]\n\\centering\n\\caption{{{}{mark}}}\n\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n\\begin{{tabular}}{{l{}}}\n\\toprule\n",
                escape(&t.caption),
                "r".repeat(columns - 1)
            );
            for (i, row) in t.rows.iter().enumerate() {
                let cells: Vec<String> =
                    (0..columns).map(|c| escape(row.get(c).map_or("", String::as_str))).collect();
                out += &format!("{} \\\\\n", cells.join(" & "));
                if i == 0 {
                    out += "\\midrule\n";
                }
            }
            out + "\\bottomrule\n\\end{tabular}}\n\\end{table}\n\n"
        }
    }
}
