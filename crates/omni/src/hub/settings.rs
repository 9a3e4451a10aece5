//! The Hub's endpoint, token and cache folder, from the same environment variables as Python's client.

use std::path::{Path, PathBuf};

/// The Hub's settings in the environment.
pub(crate) struct HubSettings {
    /// The folder of all repositories.
    pub(crate) cache_dir: PathBuf,
    pub(crate) endpoint: String,
    pub(crate) token: Option<String>,
    /// Whether the network must not be used.
    pub(crate) offline: bool,
    pub(crate) user_agent: String,
}

impl HubSettings {
    pub(crate) fn from_env() -> Self {
        HubSettings::new(|name| std::env::var(name).ok())
    }

    /// Settings from the values of `variable`. The token may be in a file that one of them names.
    fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = home(&set);
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let origin = set("HF_HUB_USER_AGENT_ORIGIN").map(|origin| format!("; {origin}")).unwrap_or_default();
        HubSettings {
            cache_dir: cache.map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: token(&set, &home),
            offline: is_true(set("HF_HUB_OFFLINE")),
            user_agent: format!("latentd/{}{origin}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// The cache folder of Hugging Face's libraries.
fn home(set: &impl Fn(&str) -> Option<String>) -> PathBuf {
    let below = |folder: String, path: &str| Path::new(&folder).join(path);
    if let Some(home) = set("HF_HOME") {
        return home.into();
    }
    match set("XDG_CACHE_HOME") {
        Some(caches) => below(caches, "huggingface"),
        None => below(set("HOME").unwrap_or_else(|| "/tmp".into()), ".cache/huggingface"),
    }
}

/// The token from `HF_TOKEN`, else the one that `hf auth login` stored.
fn token(set: &impl Fn(&str) -> Option<String>, home: &Path) -> Option<String> {
    if is_true(set("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
        return None;
    }
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let tokens = [set("HF_TOKEN"), set("HF_TOKEN_PATH").and_then(|path| read(path.into())), read(home.join("token"))];
    tokens.into_iter().flatten().map(|token| token.trim().to_owned()).find(|token| !token.is_empty())
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        HubSettings::new(find)
    }

    #[test]
    fn the_cache_is_where_python_s_client_has_it() {
        let cases: [(&[(&str, &str)], &str); 5] = [
            (&[("HOME", "/home/a")], "/home/a/.cache/huggingface/hub"),
            (&[("HOME", "/home/a"), ("XDG_CACHE_HOME", "/caches")], "/caches/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/caches"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new"),
        ];
        for (variables, expected) in cases {
            assert_eq!(settings(variables).cache_dir, Path::new(expected), "{variables:?}");
        }
    }

    #[test]
    fn a_token_is_the_variable_s_or_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let other = folder.path().join("other");
        std::fs::write(folder.path().join("token"), "hf_home\n").unwrap();
        std::fs::write(&other, " hf_other ").unwrap();
        let token = |variables: &[(&str, &str)]| settings(&[&[("HF_HOME", home)], variables].concat()).token;
        let path = ("HF_TOKEN_PATH", other.to_str().unwrap());
        assert_eq!(token(&[]).as_deref(), Some("hf_home"));
        assert_eq!(token(&[("HF_TOKEN", "")]).as_deref(), Some("hf_home"));
        assert_eq!(token(&[path]).as_deref(), Some("hf_other"));
        assert_eq!(token(&[path, ("HF_TOKEN", "hf_set")]).as_deref(), Some("hf_set"));
        assert_eq!(token(&[("HF_TOKEN", "hf_set"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    }

    #[test]
    fn the_endpoint_and_being_offline_are_said() {
        let settings = |variables| settings(variables);
        assert_eq!(settings(&[]).endpoint, "https://huggingface.co");
        assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror")]).endpoint, "http://mirror");
        assert!(settings(&[("HF_HUB_OFFLINE", "True")]).offline && !settings(&[("HF_HUB_OFFLINE", "0")]).offline);
    }
}
