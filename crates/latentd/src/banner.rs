//! The notice for users who did not name a model.

/// Three lines for users who did not name a model.
pub fn builtin_banner(command: &str) -> String {
    let (example, size) = (demo::EXAMPLE_PROMPTS[0], demo::SIZE);
    format!(
        "No model was named: using the built-in one, which draws {} things (try \"{example}\"),\n\
         all at {size}: other sizes, up to 4096x4096, are enlarged or reduced from that.\n\
         For a real model: latentd {command} Qwen/Qwen-Image (58 GB, downloaded once), or a folder in the diffusers layout.",
        demo::SUBJECTS.len(),
    )
}
