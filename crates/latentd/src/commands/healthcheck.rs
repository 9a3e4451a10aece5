//! `latentd healthcheck`: asks a running server for its health. It is for containers, whose image has no curl.

use std::ffi::OsString;
use std::time::Duration;

use clap::value_parser;
use latentd::Error;
use serde_json::Value;

use super::serve::address;

/// Ask a running server whether it is healthy: exit code 0 if it is, 1 and a line if not
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  latentd healthcheck\n  latentd healthcheck --port 9000\n  latentd healthcheck --ready --url http://10.0.0.7:8091 --timeout-seconds 1"
)]
pub(super) struct Healthcheck {
    /// URL of the server, instead of its host and port
    #[arg(long)]
    url: Option<String>,
    /// Host of the server; without it, what LATENTD_HOST or the file LATENTD_CONFIG says, or this machine
    #[arg(long)]
    host: Option<OsString>,
    /// Port of the server; without it, what LATENTD_PORT or the file LATENTD_CONFIG says, or 8091
    #[arg(long)]
    port: Option<OsString>,
    /// Maximum time to wait for the answer
    #[arg(long, default_value_t = 3, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    timeout_seconds: u64,
    /// Ask whether the model is loaded and accepts requests, not only whether the server is alive
    #[arg(long)]
    ready: bool,
}

impl Healthcheck {
    pub(super) fn run(self) -> Result<(), Error> {
        let url = self.probe(|name| std::env::var_os(name))?;
        let unreachable = |err: reqwest::Error| Error::Unhealthy(format!("{url} does not answer: {}", cause(&err)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|err| Error::Unhealthy(format!("cannot ask {url}: {err}")))?;
        let (status, body) = runtime.block_on(self.ask(&url)).map_err(unreachable)?;
        verdict(&url, status, &body)
    }

    /// The URL to request.
    ///
    /// # Errors
    /// The server's own settings have no valid address.
    fn probe(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<String, Error> {
        let path = if self.ready { "/readyz" } else { "/livez" };
        if let Some(url) = &self.url {
            return Ok(format!("{}{path}", url.trim_end_matches('/')));
        }
        let (host, port) = address([("host", self.host.as_ref()), ("port", self.port.as_ref())], variable)?;
        Ok(format!("http://{}:{port}{path}", host.reached()))
    }

    async fn ask(&self, url: &str) -> reqwest::Result<(u16, String)> {
        // The proxy settings are for the Hub. A proxy cannot reach this container's 127.0.0.1.
        let client =
            http_client::http_client().no_proxy().timeout(Duration::from_secs(self.timeout_seconds)).build()?;
        let response = client.get(url).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }
}

/// The innermost cause, which is more specific than the library's own message.
fn cause(err: &dyn std::error::Error) -> String {
    let mut innermost = err;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Status 200 is healthy. Any other status is an error, with the message of an OpenAI error body if there is one.
fn verdict(url: &str, status: u16, body: &str) -> Result<(), Error> {
    if status == 200 {
        return Ok(());
    }
    let body = serde_json::from_str::<Value>(body).unwrap_or_default();
    let reason = body["error"]["message"].as_str().and_then(|message| message.lines().next());
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    Err(Error::Unhealthy(format!("{url} answered {status}{reason}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        healthcheck: Healthcheck,
    }

    fn probe(arguments: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let line = Line::try_parse_from(["healthcheck"].into_iter().chain(arguments.split_whitespace()));
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        line.unwrap_or_else(|err| panic!("{err}")).healthcheck.probe(variable).map_err(|err| err.to_string())
    }

    #[test]
    fn the_flags_say_where_and_what_to_ask() {
        for (arguments, url) in [
            ("", "http://127.0.0.1:8091/livez"),
            ("--port 9000 --ready", "http://127.0.0.1:9000/readyz"),
            ("--host ::1", "http://[::1]:8091/livez"),
            ("--host gpu-3 --port 9000", "http://gpu-3:9000/livez"),
            ("--url http://gpu-3:80", "http://gpu-3:80/livez"),
            ("--port 9000 --url http://gpu-3:80/ --ready", "http://gpu-3:80/readyz"),
        ] {
            assert_eq!(probe(arguments, &[]), Ok(url.into()), "{arguments}");
        }
    }

    #[test]
    fn a_server_is_asked_where_its_own_settings_have_it_listen() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("server.toml");
        std::fs::write(&path, "port = 9001\nhost = \"::\"\nnothing_like_it = 1\n").unwrap();
        let config = ("LATENTD_CONFIG", path.to_str().unwrap());
        for (variables, at) in [
            (&[("LATENTD_PORT", "9000")][..], "127.0.0.1:9000"),
            (&[("LATENTD_PORT", "9000\n")], "127.0.0.1:9000"),
            (&[("LATENTD_PORT", "tcp://10.0.0.7:8091")], "127.0.0.1:8091"),
            (&[("LATENTD_HOST", "::1")], "[::1]:8091"),
            (&[("LATENTD_HOST", "[::1]"), ("LATENTD_PORT", "9000")], "[::1]:9000"),
            (&[("LATENTD_HOST", "0.0.0.0")], "127.0.0.1:8091"),
            (&[("LATENTD_HOST", "10.0.0.7")], "10.0.0.7:8091"),
            (&[("LATENTD_HOST", "localhost")], "localhost:8091"),
            (&[config], "[::1]:9001"),
            (&[config, ("LATENTD_PORT", "9000")], "[::1]:9000"),
            (&[config, ("LATENTD_PORT", "tcp://10.0.0.7:8091")], "[::1]:9001"),
            (&[config, ("LATENTD_HOST", "127.0.0.1")], "127.0.0.1:9001"),
            (&[config, ("LATENTD_PORT", ""), ("LATENTD_HOST", " ")], "[::1]:9001"),
        ] {
            assert_eq!(probe("", variables), Ok(format!("http://{at}/livez")), "{variables:?}");
        }
        let flags = "--port 9002 --host localhost";
        assert_eq!(probe(flags, &[config, ("LATENTD_PORT", "9000")]), Ok("http://localhost:9002/livez".into()));
        for (flags, variables, expected) in [
            (
                "",
                &[("LATENTD_PORT", "eighty")][..],
                "LATENTD_PORT: must be a whole number from 0 to 65535. Given: eighty",
            ),
            ("--port 99999", &[], "`--port`: must be a whole number from 0 to 65535. Given: 99999"),
            ("--host a:1", &[], "`--host`: must be an address or a name, e.g. 127.0.0.1, ::1 or localhost. Given: a:1"),
        ] {
            assert_eq!(probe(flags, variables), Err(expected.into()));
        }
    }

    #[test]
    fn only_200_is_well() {
        let told = |status, body| verdict("U", status, body).map_err(|err| (err.exit_code(), err.to_string()));
        assert_eq!(told(200, "anything"), Ok(()));
        for (status, body, line) in [
            (503, r#"{"error":{"message":"The model is loading\nreally"}}"#, "U answered 503: The model is loading"),
            (503, r#"{"error":"loading"}"#, "U answered 503"),
            (404, "<html>\n</html>", "U answered 404"),
            (204, "", "U answered 204"),
        ] {
            assert_eq!(told(status, body), Err((1, line.to_owned())));
        }
    }
}
