//! What a recipe would do, shown.

use serde_json::json;
use training::{Plan, Recipe};

use crate::args::Format;
use crate::commands::doctor::memory;

/// The plan as text, or as `cycle.plan/1`.
pub fn shown(recipe: &Recipe, plan: &Plan, format: Format) -> String {
    if format == Format::Json {
        let available = memory().1;
        return json!({"schema": "cycle.plan/1", "recipe": recipe, "plan": plan, "available": available}).to_string();
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
         steps      {} of {} rows, {:.2} epochs\n  parameters {} trained{adapter}, {} frozen\n  memory     {}\n",
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
        needed(recipe, plan),
    )
}

/// The peak and its parts, and what would fit where this machine has less.
fn needed(recipe: &Recipe, plan: &Plan) -> String {
    let gb = |bytes: usize| format!("{:.2} GB", bytes as f64 / 1e9);
    let m = &plan.memory;
    let mut text = format!(
        "{} at the peak (frozen weights {}, what moves {}, activations {}, logits {})",
        gb(m.peak),
        gb(m.frozen),
        gb(m.moving),
        gb(m.activations),
        gb(m.logits)
    );
    let Some(available) = memory().1.map(|b| b as usize) else { return text };
    if m.peak <= available {
        let more = (available - m.peak) / m.per_token.max(1);
        text += &format!(";\n             {} are free: about {more} more tokens a micro-batch would fit", gb(available));
        return text;
    }
    let fixed = m.peak.saturating_sub(m.activations);
    let advice = if fixed > available && recipe.lora.is_none() {
        "train an adapter instead ([lora])".to_string()
    } else if fixed > available {
        "take a smaller or a quantised model (a GGUF of Q8_0 or Q4_1)".to_string()
    } else if recipe.optimizer.batch_size > 1 {
        "set optimizer.batch_size = 1 and raise gradient_accumulation_steps".to_string()
    } else {
        format!("set data.max_length below {}", (available - fixed) / m.per_token.max(1))
    };
    text += &format!(";\n             only {} are free: {advice}", gb(available));
    text
}
