//! What a recipe would do, shown.

use serde_json::json;
use training::{Plan, Recipe};

use crate::args::Format;

/// The plan as text, or as `cycle.plan/1`.
pub fn shown(recipe: &Recipe, plan: &Plan, format: Format) -> String {
    if format == Format::Json {
        return json!({"schema": "cycle.plan/1", "recipe": recipe, "plan": plan}).to_string();
    }
    let adapter = match (&recipe.lora, plan.frozen) {
        (Some(lora), _) if lora.init.is_some() => " (an adapter that goes on)".to_string(),
        (Some(lora), _) => format!(" (an adapter of rank {})", lora.r),
        (None, 0) => " (all)".into(),
        (None, _) => " (a head)".into(),
    };
    let overlong = match plan.overlong {
        0 => String::new(),
        n => format!(", {n} longer than max_length ({:?})", recipe.data.overlong).to_lowercase(),
    };
    format!(
        "{} training of {} into {}\n  rows       {}{overlong}; {} held out\n  tokens     {} an epoch, {} the largest row\n  \
         steps      {} of {} rows, {:.2} epochs\n  parameters {} trained{adapter}, {} frozen\n",
        super::recipe::word(recipe.kind),
        recipe.model,
        recipe.out.display(),
        plan.rows,
        plan.eval_rows,
        plan.tokens_per_epoch,
        plan.longest,
        plan.steps,
        recipe.optimizer.batch_size * recipe.optimizer.gradient_accumulation_steps,
        plan.epochs,
        plan.trained,
        plan.frozen,
    )
}
