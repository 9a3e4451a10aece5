//! Prints which files of a crate import from which, and the circles among them.
//!
//!     cargo run -p layering -- [CRATE...]

use std::path::Path;

use layering::{circles, crates, imports};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chosen: Vec<_> = std::env::args().skip(1).collect();
    for (name, root) in crates()? {
        if !chosen.is_empty() && !chosen.contains(&name) {
            continue;
        }
        let imports = imports(&root)?;
        println!("{name}: {} files", imports.len());
        if !chosen.is_empty() {
            for (file, targets) in &imports {
                println!("  {} -> {}", file.display(), list(targets.iter().map(|target| target.as_path())));
            }
        }
        for circle in circles(&imports) {
            println!("  circle of {}: {}", circle.len(), list(circle));
        }
    }
    Ok(())
}

fn list<'a>(files: impl IntoIterator<Item = &'a Path>) -> String {
    files.into_iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}
