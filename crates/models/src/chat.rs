//! Chat templates: messages to the text a checkpoint was trained on, rendered as Python's Jinja does.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig};
use serde::Serialize;

use crate::error::ModelError;

/// A compiled chat template with the checkpoint's special tokens.
#[derive(Clone)]
pub struct ChatTemplate {
    source: String,
    /// The texts of bos, eos, pad and unk as `tokenizer_config.json` spells them.
    pub tokens: TemplateTokens,
}

/// Special tokens that templates refer to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TemplateTokens {
    /// Beginning of sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// End of sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
    /// Unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
}

/// Used where a checkpoint has no template of its own.
pub const FALLBACK_TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + \
                                     '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ \
                                     '<|im_start|>assistant\\n' }}{% endif %}";

impl ChatTemplate {
    /// A template from its source.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn new(source: &str, tokens: TemplateTokens) -> Result<Self, ModelError> {
        let source = without_generation_marks(source);
        let template = Self { source, tokens };
        environment(&template.source, None)?;
        Ok(template)
    }

    /// Its source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders messages (objects with `role` and `content`) and, at the end, the opening of the assistant's turn.
    ///
    /// # Errors
    /// If the template refuses the dialogue (its own message) or fails.
    pub fn render(
        &self,
        messages: &impl Serialize,
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        self.render_with(messages, add_generation_prompt, &serde_json::Map::new(), None)
    }

    /// As [`Self::render`], with further variables and a clock for `strftime_now`.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_with(
        &self,
        messages: &impl Serialize,
        add_generation_prompt: bool,
        variables: &serde_json::Map<String, serde_json::Value>,
        now: Option<Moment>,
    ) -> Result<String, ModelError> {
        let environment = environment(&self.source, now)?;
        let template =
            environment.get_template("chat").map_err(|e| ModelError::Template(message(&e)))?;
        let fixed = context! {
            messages => Value::from(minijinja::value::Serde(messages)),
            add_generation_prompt,
            tools => Value::from(()),
            documents => Value::from(()),
        };
        let tokens = Value::from(minijinja::value::Serde(&self.tokens));
        let variables = Value::from(minijinja::value::Serde(variables));
        template
            .render(context! { ..variables, ..fixed, ..tokens })
            .map_err(|e| ModelError::Template(message(&e)))
    }
}

/// `{% generation %}` marks the assistant's tokens for training; it renders to nothing.
fn without_generation_marks(source: &str) -> String {
    let mut out = source.to_string();
    for word in ["generation", "endgeneration"] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            out = out.replace(&format!("{open} {word} {close}"), &format!("{open} if true {close}{{% endif %}}"));
        }
    }
    out
}

fn message(error: &Error) -> String {
    error.detail().map_or_else(|| error.to_string(), str::to_string)
}

/// A point in time, for `strftime_now`.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Seconds since 1970, local time.
    pub seconds: i64,
}

impl Moment {
    /// The clock's time (UTC).
    pub fn now() -> Self {
        let seconds = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64);
        Self { seconds }
    }

    fn format(self, pattern: &str) -> String {
        const MONTHS: [&str; 12] = [
            "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
            "November", "December",
        ];
        const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
        let days = self.seconds.div_euclid(86_400);
        let rest = self.seconds.rem_euclid(86_400);
        // Howard Hinnant's civil_from_days.
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let weekday = DAYS[days.rem_euclid(7) as usize];
        let month_name = MONTHS[(month - 1) as usize];
        let mut out = String::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let field = match chars.next() {
                Some('d') => format!("{day:02}"),
                Some('m') => format!("{month:02}"),
                Some('Y') => year.to_string(),
                Some('y') => format!("{:02}", year.rem_euclid(100)),
                Some('B') => month_name.to_string(),
                Some('b') => month_name[..3].to_string(),
                Some('A') => weekday.to_string(),
                Some('a') => weekday[..3].to_string(),
                Some('j') => {
                    let january = if month > 2 { doy + 60 + i64::from(leap(year)) } else { doy - 305 };
                    format!("{january:03}")
                }
                Some('H') => format!("{:02}", rest / 3600),
                Some('M') => format!("{:02}", rest / 60 % 60),
                Some('S') => format!("{:02}", rest % 60),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            out.push_str(&field);
        }
        out
    }
}

/// True for years of 366 days.
fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn environment(source: &str, now: Option<Moment>) -> Result<Environment<'_>, ModelError> {
    let fail = |e: Error| ModelError::Template(message(&e));
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fail)?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |text: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, text))
    });
    environment.add_function("strftime_now", move |pattern: String| now.unwrap_or_else(Moment::now).format(&pattern));
    environment.add_filter("tojson", to_json);
    environment.add_template("chat", source).map_err(fail)?;
    Ok(environment)
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=, separators=, sort_keys=)`: no HTML escapes.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent").ok().flatten();
    let sort: bool = options.get::<Option<bool>>("sort_keys").ok().flatten().unwrap_or(false);
    let separators: Option<Vec<String>> = options.get("separators").ok().flatten();
    let _ = options.get::<Option<bool>>("ensure_ascii");
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ if indent.is_some() => (",".into(), ": ".into()),
        _ => (", ".into(), ": ".into()),
    };
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "cannot write JSON").with_source(e))?;
    if value.kind() == ValueKind::Undefined {
        return Err(Error::new(ErrorKind::InvalidOperation, "Undefined is not JSON"));
    }
    let mut out = String::new();
    write_json(&json, &Style { indent, item, key, sort }, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

struct Style {
    indent: Option<usize>,
    item: String,
    key: String,
    sort: bool,
}

fn write_json(value: &serde_json::Value, style: &Style, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(n) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n * depth));
        }
    };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item);
                }
                line(depth + 1, out);
                write_json(item, style, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            let mut fields: Vec<_> = fields.iter().collect();
            if style.sort {
                fields.sort_by(|a, b| a.0.cmp(b.0));
            }
            out.push('{');
            for (i, (name, item)) in fields.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item);
                }
                line(depth + 1, out);
                out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                out.push_str(&style.key);
                write_json(item, style, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}
