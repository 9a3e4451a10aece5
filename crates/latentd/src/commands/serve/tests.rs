//! Tests of settings from all origins: the resulting configuration, and the messages for invalid ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use clap::Arg;
use tempfile::TempDir;
use toml::{Table, Value};

use server::{AllowedHost, AllowedHosts};

use super::setting::{Origin, Setting, is_switch};
use super::typed::{Typed, command};
use super::{Mistakes, Readiness, Serve, Settled, config_file, lost, watch};
use latentd::trimmed;

/// The shipped file, which has every key with its default.
const SHIPPED: &str = include_str!("../../../../../config/server.toml");

/// A setting from the command line.
fn flag(key: &str, value: &str) -> Setting {
    Setting { key: key.into(), values: vec![value.into()], origin: Origin::Flag }
}

fn variable(key: &str, value: &str) -> Setting {
    let origin = Origin::Variable(format!("LATENTD_{}", key.to_uppercase()));
    Setting { origin, ..flag(key, value) }
}

/// Resolves these settings together with a file of this text. Returns the configuration, or all mistakes.
fn settle(file: &str, mut settings: Vec<Setting>) -> Result<Settled, Vec<String>> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("server.toml");
    fs::write(&path, file).unwrap();
    settings.push(flag("config", path.to_str().unwrap()));
    let mut mistakes = Mistakes::default();
    let serve: Option<Serve> = Typed::of(settings).meant(&mut mistakes);
    let settled = serve.and_then(|serve| serve.settle(&mut mistakes));
    let short = |line: String| line.replace(&format!("{}/", folder.path().display()), "");
    settled.filter(|_| mistakes.is_empty()).ok_or_else(|| mistakes.lines().map(short).collect())
}

fn refusals(file: &str, settings: Vec<Setting>) -> Vec<String> {
    match settle(file, settings) {
        Ok(_) => panic!("nothing is wrong"),
        Err(lines) => lines,
    }
}

/// The flags that can be keys of a file, by name.
fn flags() -> BTreeMap<String, Arg> {
    let command = command();
    config_file::keys(&command).map(|arg| (arg.get_id().to_string(), arg.clone())).collect()
}

/// Keys in comment lines such as `# port = 1`, each with the line without its `# `.
fn in_comments(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (key, _) = line.strip_prefix("# ")?.split_once(" = ")?;
        Some((key, &line[2..]))
    })
}

#[test]
fn the_shipped_file_has_every_key_once() {
    let table: Table = SHIPPED.parse().unwrap();
    let keys: Vec<_> = table.keys().map(String::as_str).chain(in_comments(SHIPPED).map(|(key, _)| key)).collect();
    let known: BTreeSet<_> = keys.iter().copied().collect();
    assert_eq!(known.len(), keys.len(), "{keys:?}");
    let flags = flags();
    assert_eq!(known, flags.keys().map(String::as_str).collect());
}

#[test]
fn the_shipped_file_is_the_defaults() {
    let table: Table = SHIPPED.parse().unwrap();
    for (key, arg) in flags() {
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
        let defaults = if is_switch(&arg) { vec!["false"] } else { defaults };
        let written: Vec<String> = match table.get(&key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items.iter().map(|item| item.as_str().unwrap().to_owned()).collect(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Integer(number)) => vec![number.to_string()],
            Some(Value::Boolean(flag)) => vec![flag.to_string()],
            Some(other) => panic!("{key}: {other:?}"),
        };
        assert_eq!(written, defaults, "{key}");
    }
    let (shipped, none) = (settle(SHIPPED, vec![]).unwrap(), settle("", vec![]).unwrap());
    // Available memory, and so the default budget, changes between the two calls.
    let bounds = |settled: &Settled| scheduler::SchedulerConfig { memory_budget: None, ..settled.scheduling };
    assert_eq!(bounds(&shipped), bounds(&none));
    assert_eq!(format!("{:?}", shipped.config), format!("{:?}", none.config));
}

#[test]
fn every_example_of_the_shipped_file_is_understood() {
    for (key, line) in in_comments(SHIPPED) {
        let needs_files = ["api_key_file", "otlp_endpoint"].contains(&key);
        let needed = match key {
            key if key.starts_with("cache_") && key != "cache_backend" => "cache_backend = \"cache_dit\"\n",
            "rate_limit" => "api_key = [\"sk\"]\n",
            "image_url_hosts" => "allow_image_urls = \"https\"\n",
            _ => "",
        };
        let lines = settle(&format!("{needed}{line}"), vec![]).err().unwrap_or_default();
        assert!(lines.is_empty() || needs_files, "{lines:?}");
        let is_misread = |line: &String| line.contains("not a setting") || line.contains(&format!("`{key}`: "));
        assert!(!lines.iter().any(is_misread), "{lines:?}");
    }
}

#[test]
fn every_key_is_a_variable() {
    for (key, arg) in flags() {
        let variable = OsString::from(format!("LATENTD_{}", key.to_uppercase()));
        assert_eq!(arg.get_env(), Some(variable.as_os_str()), "{key}");
    }
}

#[test]
fn a_flag_stands_over_the_file_and_the_file_over_the_default() {
    let port = |file, settings| settle(file, settings).unwrap().serve.port;
    assert_eq!(port("", vec![]), 8091);
    assert_eq!(port("port = 1", vec![]), 1);
    assert_eq!(port("\u{feff}port = 1", vec![]), 1);
    assert_eq!(port("port = 1", vec![variable("port", "2")]), 2);
    assert_eq!(port("port = 1", vec![flag("port", "3")]), 3);

    let priorities = |file, settings| settle(file, settings).unwrap().scheduling.priorities;
    assert!(!priorities("no_priorities = true", vec![]));
    assert!(priorities("no_priorities = true", vec![variable("no_priorities", "off")]));
    assert!(!priorities("no_priorities = false", vec![flag("no_priorities", "true")]));
}

#[test]
fn every_kind_of_value_can_stand_in_a_file() {
    let file = r#"
        model = "builtin"
        served_model_name = ["a/b", "c"]
        memory_budget = 1000000
        api_key = ["team-a=sk-1", "sk-2"]
        rate_limit = "60:10"
        cors_allow_origin = ["*"]
        allow_image_urls = "any"
        image_url_hosts = ["images.example.com", "*.cdn.example.com:8443"]
        cache_backend = "cache_dit"
        cache_dit_residual_diff_threshold = 0.5
        [cache_config]
        max_warmup_steps = 6
    "#;
    let Settled { config, scheduling, .. } = settle(file, vec![]).unwrap();
    assert_eq!(config.api.served_model_names, ["a/b", "c"]);
    assert_eq!(scheduling.memory_budget, Some(1_000_000));
    assert_eq!(config.api_keys.names().len(), 2);
    let fetcher = format!("{:?}", config.uploads.image_urls.unwrap());
    assert!(["Any", "images.example.com", "8443"].iter().all(|part| fetcher.contains(part)), "{fetcher}");
    let cache = config.api.cache.unwrap();
    assert_eq!((cache.max_warmup_steps, cache.residual_diff_threshold), (6, 0.5));
    // A comma in a text separates values, as in a variable.
    assert_eq!(settle(r#"served_model_name = "a,b""#, vec![]).unwrap().config.api.served_model_names, ["a", "b"]);
}

#[test]
fn every_mistake_is_told_at_once() {
    let file = r#"
        max_batchs = 3
        max-waiting = 4
        nothing_like_it = 1
        port = "eighty"
        no_priorities = 1
        max_waiting = [1, 2]
        cache_backend = "cache_dit"
        cache_config = { max_warmup_stepz = 1 }
        api_key = ["team a=sk-1"]
        api_key_file = "/no/such/keys"
    "#;
    let settings = vec![
        variable("header_timeout", "0"),
        flag("dtype", "f8"),
        variable("cache_audit", "1.5"),
        flag("max_batch", "0"),
        flag("memory_budget", "0"),
        flag("model", "/no/such/model"),
        flag("cors_allow_origin", "app.example.com"),
        flag("public_url", "images.example.com"),
        flag("allow_image_urls", "ftp"),
        flag("image_url_hosts", "https://images.example.com"),
    ];
    let lines = refusals(file, settings);
    let expected = [
        "server.toml: `max_batchs` is not a setting. Near: max_batch",
        "server.toml: `max-waiting` is not a setting. Near: max_waiting",
        "server.toml: `nothing_like_it` is not a setting",
        "server.toml: `no_priorities` must be true or false, not an integer",
        "server.toml: `max_waiting` must be a single value, not an array",
        "server.toml: `port`: must be a whole number from 0 to 65535. Given: eighty",
        "LATENTD_HEADER_TIMEOUT: must be a whole number from 1 to 3600. Given: 0",
        "`--dtype`: must be one of f32, bf16, f16. Given: f8",
        "LATENTD_CACHE_AUDIT: must be a share from 0 to 1. Given: 1.5",
        "`--cors-allow-origin`: must be `*` or an origin as browsers send it, e.g. https://app.example.com. \
            Given: app.example.com",
        "`--public-url`: must begin with http:// or https://. Given: images.example.com",
        "`--allow-image-urls`: must be one of https, any. Given: ftp",
        "`--image-url-hosts`: must be HOST, HOST:PORT or *.HOST, without a scheme or a path. \
            Given: https://images.example.com",
        "`--max-batch` must be at least 1. Given: 0",
        "`--memory-budget` must be at least 1 byte. Given: 0",
        "server.toml: `api_key`, number 1: the name before `=` must have 1 to 64 letters, digits, `-`, `_` and `.`",
    ];
    for line in expected {
        assert!(lines.iter().any(|known| known == line), "{line}\nis not in\n{}", lines.join("\n"));
    }
    for part in ["Near: max_warmup_steps", "cannot read `/no/such/keys`", "/no/such/model"] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} is not in {lines:?}");
    }
    assert_eq!(lines.len(), expected.len() + 3, "{}", lines.join("\n"));
    assert!(!lines.concat().contains("sk-1"));
}

#[test]
fn what_hangs_on_a_mistake_is_not_one_itself() {
    let backend = vec![flag("cache_backend", "cache-dot"), flag("cache_config", "{}")];
    let expected = "`--cache-backend`: must be one of none, cache_dit, calibrated. Given: cache-dot";
    assert_eq!(refusals("", backend), [expected]);
    let key = vec![flag("rate_limit", "60"), flag("api_key", "")];
    assert_eq!(refusals("", key), ["`--api-key`, number 1: a key must not be empty"]);
    let hosts = vec![flag("image_url_hosts", "example.com")];
    let expected = "`--image-url-hosts` needs `--allow-image-urls`: nothing is fetched without it";
    assert_eq!(refusals("", hosts), [expected]);
    let key = vec![variable("api_key", "")];
    assert_eq!(refusals("", key), ["LATENTD_API_KEY, number 1: a key must not be empty"]);
    let none = vec![variable("max_batch", "0"), variable("rate_limit", "60")];
    assert_eq!(
        refusals("", none),
        [
            "LATENTD_MAX_BATCH must be at least 1. Given: 0",
            "LATENTD_RATE_LIMIT needs `--api-key` or `--api-key-file`: without keys nobody is told apart"
        ]
    );
    let none = vec![flag("rate_limit", "60")];
    assert_eq!(
        refusals("", none),
        ["`--rate-limit` needs `--api-key` or `--api-key-file`: without keys nobody is told apart"]
    );
}

#[test]
fn a_secret_ends_with_a_new_line_and_may_have_several() {
    let names = |value: &str| {
        let keys = settle("", vec![variable("api_key", value)]).unwrap().config.api_keys;
        keys.names().iter().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("team-a=sk-1\n"), ["team-a"]);
    assert_eq!(names("team-a=sk-1\r\nteam-b=sk-2\n"), ["team-a", "team-b"]);
    assert_eq!(names("4m1gJ3yZ0pX7+Qk/9sVbT2uR6wYcH8dLfA5eNoKxPjE=\n"), ["#1"]);
    assert_eq!(refusals("", vec![variable("api_key", "\n")]), ["LATENTD_API_KEY, number 1: a key must not be empty"]);
    assert_eq!(trimmed("9000\n".as_ref()), "9000");
}

#[test]
fn a_number_that_is_none_is_told_its_bounds() {
    for (setting, expected) in [
        (flag("port", "99999"), "`--port`: must be a whole number from 0 to 65535. Given: 99999"),
        (variable("port", "-1"), "LATENTD_PORT: must be a whole number from 0 to 65535. Given: -1"),
        (
            variable("memory_budget", "lots"),
            "LATENTD_MEMORY_BUDGET: must be a number of bytes, such as 4GiB or 500MB. Given: lots",
        ),
        (
            flag("body_limit", "4 apples"),
            "`--body-limit`: must be a number of bytes, such as 4GiB or 500MB. Given: 4 apples",
        ),
        (flag("body_timeout", "soon"), "`--body-timeout`: must be a whole number from 1 to 3600. Given: soon"),
        (flag("drain_timeout", "x"), "`--drain-timeout`: must be a whole number. Given: x"),
    ] {
        assert_eq!(refusals("", vec![setting]), [expected]);
    }
}

#[test]
fn a_service_link_is_no_port() {
    let mut typed = Typed::of(vec![variable("port", "tcp://10.0.0.7:8091"), variable("host", "::1")]);
    let links: Vec<_> = typed.without_service_links().iter().map(|link| link.to_string()).collect();
    assert_eq!(links, ["LATENTD_PORT"]);
    let serve = typed.meant(&mut Mistakes::default()).unwrap();
    assert_eq!((serve.port, serve.host.to_string()), (8091, "[::1]".into()));
    let lines = refusals("", vec![flag("port", "tcp://10.0.0.7:8091")]);
    assert!(lines[0].starts_with("`--port`: must be a whole number from 0 to 65535. Given: tcp:"), "{lines:?}");
}

#[test]
fn a_server_of_this_machine_alone_is_asked_by_its_own_names() {
    let hosts = |settings, local: &str| {
        let serve = settle("", settings).unwrap().serve;
        serve.http.allowed_hosts(&serve.host, local.parse().unwrap(), false)
    };
    assert_eq!(hosts(vec![], "0.0.0.0"), AllowedHosts::Any);
    let own = AllowedHost::Name("images.example.com".into());
    let public = vec![flag("public_url", "https://Images.example.com:8443/x"), flag("host", "gpu-3")];
    let expected = AllowedHosts::These(vec![own.clone(), AllowedHost::Name("gpu-3".into())]);
    assert_eq!(hosts(public, "127.0.0.1"), expected);
    let listed = vec![flag("allowed_hosts", "images.example.com"), flag("host", "10.0.0.7")];
    let expected = AllowedHosts::These(vec![own, "10.0.0.7".parse().unwrap()]);
    assert_eq!(hosts(listed, "10.0.0.7"), expected);
}

#[tokio::test]
async fn a_server_whose_scheduler_ends_ends_too() {
    let address = ([127, 0, 0, 1], 80).into();
    let (sender, readiness) = watch::channel(Readiness::Loading);
    drop(sender);
    let err = lost(readiness, address).await;
    assert_eq!((err.exit_code(), err.to_string().contains("scheduler has ended")), (1, true));
    let (sender, readiness) = watch::channel(Readiness::Draining);
    drop(sender);
    let ended = tokio::time::timeout(std::time::Duration::from_millis(10), lost(readiness, address)).await;
    assert!(ended.is_err(), "it was told to stop");
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_said() {
    let lines = refusals("port = 1\nhost = ", vec![]);
    assert!(matches!(&lines[..], [line] if line.starts_with("server.toml, line 2: ")), "{lines:?}");
    let mut mistakes = Mistakes::default();
    config_file::read(Path::new("/no/such/file.toml"), &command(), &mut mistakes);
    assert!(mistakes.lines().next().unwrap().starts_with("cannot read `/no/such/file.toml`"));
}

#[test]
fn keys_come_from_a_file_too() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keys");
    let with = |text: &str| {
        fs::write(&path, text).unwrap();
        settle("", vec![flag("api_key_file", path.to_str().unwrap()), flag("api_key", "a=sk-a")])
    };
    let keys = with("# ours\nb=sk-b\n\nsk-c\n").unwrap().config.api_keys;
    assert_eq!(keys.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "#3"]);
    let lines = with("b=sk-b\nc=sk b\nc=sk-a").err().unwrap();
    assert!(lines[0].ends_with("keys, line 2: a key must be printable ASCII without spaces"), "{lines:?}");
    assert!(lines[1].ends_with("keys, line 3: the keys of `a` and `c` are the same"), "{lines:?}");
    assert!(with("# none\n").err().unwrap()[0].ends_with("there is no key in it"));
}

#[test]
fn an_audit_needs_a_cache() {
    let audit = || flag("cache_audit", "0.01");
    let none = "`--cache-audit` must be 0 where no picture is made with a cache, by a `--cache-backend` that saves steps or by \
                `--allow-request-cache-config`. Given: 0.01";
    assert_eq!(refusals("", vec![audit()]), [none]);
    let backend = || flag("cache_backend", "cache_dit");
    let lossless = flag("cache_config", r#"{"quality":"lossless"}"#);
    assert_eq!(refusals("", vec![audit(), backend(), lossless]), [none]);
    let mistyped = refusals("", vec![audit(), backend(), flag("cache_config", "{")]);
    assert!(mistyped.len() == 1 && mistyped[0].starts_with("`--cache-config`"), "{mistyped:?}");
    for allowed in [vec![audit(), backend()], vec![audit(), flag("allow_request_cache_config", "true")]] {
        assert!(settle("", allowed).is_ok());
    }
}
