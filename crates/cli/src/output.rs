//! Where results go: standard output, or files that appear by rename.

use std::io::Write;
use std::path::Path;

use crate::failure::{Code, Failure};

/// Prints, or writes to `out`.
///
/// # Errors
/// If the disk is full or the place cannot be written. A reader that went away ends the command quietly.
pub fn emit(text: &str, out: Option<&Path>) -> Result<(), Failure> {
    match out {
        Some(path) => write(path, text.as_bytes()),
        None => {
            let mut stdout = std::io::stdout().lock();
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(end.as_bytes()));
            match written.and_then(|()| stdout.flush()) {
                Ok(()) => Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                    Err(Failure::new(Code::Unread, "nobody reads standard output"))
                }
                Err(e) => {
                    Err(Failure::new(Code::Resources, format!("standard output cannot be written: {e}")))
                }
            }
        }
    }
}

/// Writes a file under another name and renames it; makes the folder.
///
/// # Errors
/// If the disk is full or the place cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::new(Code::Usage, format!("{}: is a folder; name a file in it", path.display())));
    }
    let partial = path.with_file_name(format!(
        ".{}.partial-{}",
        path.file_name().map_or_else(|| "out".into(), |n| n.to_string_lossy().into_owned()),
        std::process::id()
    ));
    let result = (|| {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    })();
    result.map_err(|e: std::io::Error| {
        let _ = std::fs::remove_file(&partial);
        Failure::writing(path, &e)
    })
}

/// Rows as CSV (RFC 4180), quoted where needed.
pub fn csv(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let field = |text: &str| {
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_string()
        }
    };
    let mut out = header.join(",") + "\n";
    for row in rows {
        out += &(row.iter().map(|f| field(f)).collect::<Vec<_>>().join(",") + "\n");
    }
    out
}

/// Rows in aligned columns, two spaces apart.
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
        cells.chain([header[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        padded.join("  ").trim_end().to_string()
    };
    let mut lines = vec![line(header.to_vec())];
    lines.extend(rows.iter().map(|r| line(r.iter().map(String::as_str).collect())));
    lines.join("\n")
}
