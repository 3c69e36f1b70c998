//! From what was typed to a recipe: a file or a built-in one, with changes over it.

use std::path::{Path, PathBuf};

use serde_json::json;
use training::{Kind, Recipe, mini, recipes};

use crate::args::{Format, TrainArgs};
use crate::commands::Outcome;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{columns, emit};

/// Stands in a recipe for the folder of `cycle`'s own files.
const HOME: &str = "$CYCLE_HOME";

/// The built-in recipes in a line each, or the text of one.
pub fn show(name: Option<&str>, format: Format) -> Result<Outcome, Failure> {
    let text = match (name, format) {
        (Some(name), Format::Json) => {
            let recipe = named(name)?;
            json!({"schema": "cycle.recipe/1", "name": name, "text": recipe.text}).to_string()
        }
        (Some(name), _) => named(name)?.text.to_string(),
        (None, Format::Json) => {
            let all = recipes::ALL.map(|r| json!({"name": r.name, "summary": r.summary()}));
            json!({"schema": "cycle.recipes/1", "recipes": all}).to_string()
        }
        (None, _) => {
            let rows: Vec<Vec<String>> =
                recipes::ALL.iter().map(|r| vec![r.name.into(), r.summary().into()]).collect();
            columns(&["recipe", "what it does"], &rows)
        }
    };
    emit(&text, None)?;
    Ok(Outcome::Done)
}

fn named(name: &str) -> Result<recipes::Shipped, Failure> {
    recipes::named(name).map_err(|near| {
        let names = recipes::ALL.map(|r| r.name).join(", ");
        Failure::new(Code::Usage, format!("no recipe {name:?}; did you mean {near}?"))
            .advise(format!("there are {names}"))
    })
}

/// A kind as recipes and the command line spell it.
pub fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Sft => "sft",
        Kind::Reward => "reward",
        Kind::Preference => "preference",
    }
}

/// The recipe that was named, with the command line over it and its paths resolved.
///
/// # Errors
/// If there is none, it is of another kind, or a value makes no sense.
pub fn chosen(context: &Context, kind: Kind, args: &TrainArgs) -> Result<Recipe, Failure> {
    let text = match (&args.config, &args.recipe) {
        (Some(path), _) => std::fs::read_to_string(path).map_err(|e| Failure::io(path, &e))?,
        (None, Some(name)) => named(name)?.text.to_string(),
        (None, None) => return Err(Failure::new(Code::Usage, "give --config FILE or --recipe NAME")),
    };
    let mut set = args.set.clone();
    if let Some(out) = &args.out {
        // As TOML writes a text, whatever stands in the path.
        set.push(format!("out={}", toml::Value::String(out.display().to_string())));
    }
    match args.dtype.as_deref() {
        None | Some("auto") => {}
        Some(dtype @ ("f32" | "bf16")) => set.push(format!("dtype={dtype:?}")),
        Some(other) => {
            return Err(Failure::new(
                Code::Usage,
                format!("--dtype {other}: a training computes in f32 or bf16 (auto: as the recipe says)"),
            ));
        }
    }
    set.extend(args.seed.map(|seed| format!("seed={seed}")));
    let named = |e| {
        let mut failure = Failure::from(e);
        if let Some(path) = &args.config {
            failure.what = format!("{}: {}", path.display(), failure.what);
        }
        failure
    };
    let mut recipe = Recipe::parse(&text, &set).map_err(named)?;
    if recipe.kind != kind {
        let (typed, is) = (word(kind), word(recipe.kind));
        let what = format!("the recipe is of kind {is}, the command says {typed}");
        return Err(Failure::new(Code::Usage, what).advise(format!("cycle train {is} … runs it")));
    }
    resolve(&mut recipe, context)?;
    Ok(recipe)
}

/// Puts `cycle`'s folder where a path begins with `$CYCLE_HOME`, and makes the mini model where it is asked for.
fn resolve(recipe: &mut Recipe, context: &Context) -> Result<(), Failure> {
    let home = &context.settings.home;
    let with_home = |text: &str| match text.strip_prefix(HOME) {
        Some(rest) if rest.starts_with('/') => Some(format!("{}{rest}", home.display())),
        _ => None,
    };
    let in_path = |path: &mut PathBuf| {
        if let Some(text) = with_home(&path.to_string_lossy()) {
            *path = text.into();
        }
    };
    for model in [Some(&mut recipe.model), recipe.reference_model.as_mut()].into_iter().flatten() {
        *model = with_home(model).unwrap_or_else(|| model.clone());
    }
    in_path(&mut recipe.data.train);
    recipe.data.eval.as_mut().map(in_path);
    recipe.lora.as_mut().and_then(|l| l.init.as_mut()).map(in_path);
    let folder = home.join("mini");
    let wanted = |path: &Path| path.starts_with(&folder);
    let asks = wanted(Path::new(&recipe.model)) || wanted(&recipe.data.train);
    if asks {
        mini::ensure(&folder)?;
    }
    Ok(())
}
