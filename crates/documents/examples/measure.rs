//! dump
fn main() {
    for a in std::env::args().skip(1) {
        let t = std::time::Instant::now();
        match documents::read(std::path::Path::new(&a), &documents::ReadOptions::default()) {
            Ok(d) => println!("{}", serde_json::to_string(&d).unwrap_or_default()),
            Err(e) => println!("{{\"error\":{:?}}}", e.to_string()),
        }
        eprintln!("{a} {:.2}s", t.elapsed().as_secs_f64());
    }
}
