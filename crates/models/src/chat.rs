//! Chat templates: messages to the text a checkpoint was trained on, rendered as Python's Jinja does.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig};
use serde::Serialize;

use crate::error::ModelError;
use crate::moment::Moment;

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

    /// Renders a dialogue whose last message the model is to continue (`continue_final_message` of transformers): the
    /// text ends within that message.
    ///
    /// # Errors
    /// As [`Self::render`]; if there is no last message with a text, or the template leaves it out.
    pub fn render_continued(
        &self,
        messages: &impl Serialize,
        variables: &serde_json::Map<String, serde_json::Value>,
        now: Option<Moment>,
    ) -> Result<String, ModelError> {
        const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
        let fail = |what: &str| ModelError::Template(what.to_string());
        let mut messages = serde_json::to_value(messages).map_err(|e| fail(&e.to_string()))?;
        let last = messages.as_array_mut().and_then(|m| m.last_mut()).and_then(|m| m.get_mut("content"));
        match last {
            Some(serde_json::Value::String(text)) => text.push_str(MARK),
            _ => return Err(fail("the dialogue ends with no text that could be continued")),
        }
        let text = self.render_with(&messages, false, variables, now)?;
        let at =
            text.rfind(MARK.trim_end()).ok_or_else(|| fail("the template leaves the last message out"))?;
        // A template that trims its messages has trimmed the mark's space too.
        Ok(if text[at..].starts_with(MARK) { &text[..at] } else { text[..at].trim_end() }.to_string())
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
        let template = environment.get_template("chat").map_err(|e| ModelError::Template(message(&e)))?;
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
            out = out
                .replace(&format!("{open} {word} {close}"), &format!("{open} if true {close}{{% endif %}}"));
        }
    }
    out
}

fn message(error: &Error) -> String {
    error.detail().map_or_else(|| error.to_string(), str::to_string)
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
    environment.add_function("strftime_now", move |pattern: String| {
        now.unwrap_or_else(Moment::now).format(&pattern)
    });
    environment.add_filter("tojson", to_json);
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_template("chat", source).map_err(fail)?;
    Ok(environment)
}

/// HTML escapes as Python's markupsafe spells them.
fn escape(text: &Value) -> Value {
    let text = text.to_string();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Value::from_safe_string(out)
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
