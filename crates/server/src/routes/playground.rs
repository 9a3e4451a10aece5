//! The playground: a page of plain HTML, CSS and JavaScript, embedded from `playground/`.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{Redirect, Response};
use axum::routing::get;

use super::assets::{Asset, CSS, HTML, JS, SVG, answer, text};
use crate::api::error::ApiError;

static INDEX: Asset = text("index.html", HTML, include_str!("../../playground/index.html"));

/// Files of the page, below `/playground/`.
static ASSETS: &[Asset] = &[
    text("controls.css", CSS, include_str!("../../playground/controls.css")),
    text("gallery.css", CSS, include_str!("../../playground/gallery.css")),
    text("page.css", CSS, include_str!("../../playground/page.css")),
    text("stage.css", CSS, include_str!("../../playground/stage.css")),
    text("theme.css", CSS, include_str!("../../playground/theme.css")),
    text("icon.svg", SVG, include_str!("../../playground/icon.svg")),
    text("icons.svg", SVG, include_str!("../../playground/icons.svg")),
    text("api.js", JS, include_str!("../../playground/api.js")),
    text("audits.js", JS, include_str!("../../playground/audits.js")),
    text("app.js", JS, include_str!("../../playground/app.js")),
    text("code.js", JS, include_str!("../../playground/code.js")),
    text("compare.js", JS, include_str!("../../playground/compare.js")),
    text("dom.js", JS, include_str!("../../playground/dom.js")),
    text("examples.js", JS, include_str!("../../playground/examples.js")),
    text("gallery.js", JS, include_str!("../../playground/gallery.js")),
    text("inputs.js", JS, include_str!("../../playground/inputs.js")),
    text("key.js", JS, include_str!("../../playground/key.js")),
    text("making.js", JS, include_str!("../../playground/making.js")),
    text("noise.js", JS, include_str!("../../playground/noise.js")),
    text("pace.js", JS, include_str!("../../playground/pace.js")),
    text("settings.js", JS, include_str!("../../playground/settings.js")),
    text("sizes.js", JS, include_str!("../../playground/sizes.js")),
    text("slider.js", JS, include_str!("../../playground/slider.js")),
    text("snippets.js", JS, include_str!("../../playground/snippets.js")),
    text("sse.js", JS, include_str!("../../playground/sse.js")),
    text("stage.js", JS, include_str!("../../playground/stage.js")),
    text("steps.js", JS, include_str!("../../playground/steps.js")),
    text("store.js", JS, include_str!("../../playground/store.js")),
    text("theme.js", JS, include_str!("../../playground/theme.js")),
    text("timeline.js", JS, include_str!("../../playground/timeline.js")),
    text("words.js", JS, include_str!("../../playground/words.js")),
    Asset { name: "welcome.webp", content_type: "image/webp", body: include_bytes!("../../playground/welcome.webp") },
];

/// `GET /` and the page's files. They need no key, because the page asks the user for one.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    // The page's paths are relative, for proxies that serve it below a prefix, so it has one canonical URL.
    let home = || async { Redirect::temporary("./") };
    Router::new().route("/", get(index)).route("/playground", get(home)).route("/playground/{file}", get(asset))
}

async fn index(headers: HeaderMap) -> Response {
    answer(&INDEX, &headers)
}

async fn asset(Path(file): Path<String>, method: Method, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let asset = ASSETS.iter().find(|asset| asset.name == file);
    let path = uri.path().chars().take(200).collect();
    let asset = asset.ok_or(ApiError::UnknownUrl { method, path, suggestion: Some("GET /") })?;
    Ok(answer(asset, &headers))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use scheduler::SchedulerConfig;
    use scheduler::fake::FakePipeline;
    use tower::ServiceExt;

    use super::*;
    use crate::app;
    use crate::tests::{self, config, configured_state};

    async fn get(path: &str, known: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
        let request = Request::get(path).header("if-none-match", known).body(Body::empty()).unwrap();
        let (parts, body) = routes::<()>().oneshot(request).await.unwrap().into_parts();
        (parts.status, parts.headers, to_bytes(body, usize::MAX).await.unwrap().into())
    }

    /// The folder's files without the README's screenshot.
    fn files() -> BTreeSet<String> {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/playground")).unwrap();
        let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !["index.html", "screenshot.png"].contains(&name.as_str())).collect()
    }

    #[tokio::test]
    async fn every_file_of_the_folder_is_served_with_its_type() {
        let served: BTreeSet<_> = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        assert_eq!(served, files());
        for name in served {
            let (status, headers, body) = get(&format!("/playground/{name}"), "").await;
            assert_eq!(status, 200, "{name}");
            let expected = match name.rsplit_once('.').unwrap().1 {
                "css" => "text/css; charset=utf-8",
                "js" => "text/javascript; charset=utf-8",
                "svg" => "image/svg+xml",
                "webp" => "image/webp",
                other => panic!("{name}: {other} has no type"),
            };
            assert_eq!(headers["content-type"], expected, "{name}");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            let path = format!("{}/playground/{name}", env!("CARGO_MANIFEST_DIR"));
            assert_eq!(body, std::fs::read(path).unwrap(), "{name}");
        }
    }

    #[tokio::test]
    async fn the_page_is_html_under_a_strict_policy() {
        let (status, headers, body) = get("/", "").await;
        assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"text/html; charset=utf-8".parse().unwrap()));
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; img-src"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert!(String::from_utf8(body).unwrap().starts_with("<!doctype html>"));
    }

    #[test]
    fn the_page_names_its_own_files_and_no_other_host() {
        let html = std::str::from_utf8(INDEX.body).unwrap();
        let loaded = html.split('"').filter_map(|part| part.strip_prefix("playground/"));
        let loaded: BTreeSet<_> = loaded.map(|path| path.split('#').next().unwrap()).collect();
        assert!(loaded.contains("app.js") && loaded.len() > 5, "{loaded:?}");
        for name in loaded {
            assert!(ASSETS.iter().any(|asset| asset.name == name), "{name} is not embedded");
        }
        for asset in ASSETS.iter().chain([&INDEX]) {
            let text = String::from_utf8_lossy(asset.body).replace("http://www.w3.org/2000/svg", "");
            for foreign in ["http://", "https://", "src=\"//", " style=", " onclick="] {
                assert!(!text.contains(foreign), "{} has {foreign}", asset.name);
            }
        }
    }

    #[tokio::test]
    async fn a_browser_that_has_the_file_is_not_sent_it_again() {
        let (_, headers, _) = get("/playground/app.js", "").await;
        assert_eq!(headers["cache-control"], "no-cache");
        let etag = headers["etag"].to_str().unwrap();
        for known in [etag.to_owned(), format!("\"other\", W/{etag}")] {
            let (status, headers, body) = get("/playground/app.js", &known).await;
            assert_eq!((status.as_u16(), headers["etag"].to_str().unwrap(), body.len()), (304, etag, 0));
        }
        assert_ne!(get("/", "").await.1["etag"], etag, "each file has its own");
        assert_eq!(get("/playground/app.js", "\"other\"").await.0, 200);
    }

    #[tokio::test]
    async fn the_page_needs_no_key_where_the_api_does() {
        let mut config = config();
        config.api_keys.add("sesame").unwrap();
        let app = app(configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await);
        for (path, status) in [("/", 200), ("/playground/app.js", 200), ("/v1/models", 401)] {
            assert_eq!(tests::get(&app, path).await.status, status, "{path}");
        }
    }

    #[tokio::test]
    async fn other_paths_lead_home_or_nowhere() {
        let (status, headers, _) = get("/playground", "").await;
        assert_eq!((status.as_u16(), &headers["location"]), (307, &"./".parse().unwrap()));
        assert_eq!(get("/playground/other.js", "").await.0, 404);
    }
}
