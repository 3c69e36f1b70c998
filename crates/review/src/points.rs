//! A list as a reviewer writes it, point by point.

/// The points of a list, or the paragraphs of a text.
pub(crate) fn points(text: &str) -> Vec<String> {
    let mut points: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            open = false;
            continue;
        }
        let bare = trimmed.trim_start_matches(['-', '*', '•', '–']).trim_start();
        let numbered = bare.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_numbered = numbered.len() < bare.len() && numbered.starts_with(['.', ')']);
        let item = bare.len() < trimmed.len() && !trimmed.starts_with("**") || is_numbered;
        let content = if is_numbered {
            numbered[1..].trim_start()
        } else if item {
            bare
        } else {
            trimmed
        };
        match points.last_mut() {
            Some(last) if open && !item => {
                last.push(' ');
                last.push_str(content);
            }
            _ => points.push(content.to_string()),
        }
        open = true;
    }
    points.retain(|p| p.chars().any(char::is_alphanumeric));
    points
}
