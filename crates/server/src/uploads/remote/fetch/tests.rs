//! Fetching from a server on this machine, which only these tests count as public.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use futures_util::stream;
use tokio::net::TcpListener;

use super::*;
use crate::uploads::remote::ImageUrlSchemes;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// The only public address in these tests: their own server's name resolves to it. 127.0.0.2 is this machine too.
fn is_ours(address: IpAddr) -> bool {
    address == LOOPBACK
}

/// Answers for names, one for each lookup.
fn named(answers: &'static [(&'static str, &'static [IpAddr])]) -> Lookup {
    let asked = Arc::new(AtomicUsize::new(0));
    Arc::new(move |name| {
        let of_name: Vec<_> = answers.iter().filter(|(known, _)| *known == name).map(|(_, found)| *found).collect();
        let nth = asked.fetch_add(1, Ordering::Relaxed);
        let found = of_name.get(nth.min(of_name.len().saturating_sub(1))).map(|found| found.to_vec());
        Box::pin(async { found.ok_or_else(|| io::Error::other("no such name")) })
    })
}

async fn served(app: Router) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

/// A server of pictures, non-pictures and redirects.
async fn pictures() -> u16 {
    let image = |body: Body| ([(header::CONTENT_TYPE, "image/png")], body).into_response();
    let endless = move || async move {
        let pieces = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[0; 1 << 16])));
        image(Body::from_stream(pieces))
    };
    let stalled = move || async move { image(Body::from_stream(stream::pending::<io::Result<Bytes>>())) };
    let to = |url: &'static str| get(move || async move { Redirect::temporary(url) });
    let app = Router::new()
        .route("/cat.png", get(move || async move { image(Body::from("a cat")) }))
        .route("/big.png", get(move || async move { image(Body::from(vec![0; MAX_IMAGE_BYTES + 1])) }))
        .route("/endless.png", get(endless))
        .route("/stalled.png", get(stalled))
        .route("/page", get(async || ([(header::CONTENT_TYPE, "text/html")], "secret")))
        .route("/gone", get(async || (StatusCode::GONE, "secret")))
        .route("/loop", to("/loop"))
        .route("/3", to("/2"))
        .route("/2", to("/1"))
        .route("/1", to("/cat.png"))
        .route("/to-literal", to("http://127.0.0.2/cat.png"))
        .route("/to-metadata", to("http://169.254.169.254/latest/meta-data"))
        .route("/to-private-name", to("http://private.example/cat.png"))
        .route("/to-file", to("file:///etc/passwd"))
        .route("/to-credentials", to("http://me:secret@public.example/cat.png"));
    served(app).await
}

/// A fetcher for the names in these tests.
fn fetcher(port: u16, answers: &'static [(&'static str, &'static [IpAddr])]) -> ImageFetcher {
    fetcher_within(Duration::from_secs(60), port, answers)
}

fn fetcher_within(timeout: Duration, port: u16, answers: &'static [(&'static str, &'static [IpAddr])]) -> ImageFetcher {
    let hosts = ["public.example", "private.example", "mixed.example", "unknown.example", "127.0.0.2"];
    let hosts = hosts.iter().flat_map(|host| [(*host).to_owned(), format!("{host}:{port}")]);
    let hosts = hosts.chain(["169.254.169.254".into()]).map(|host| host.parse().unwrap()).collect();
    let allowed = ImageUrls { schemes: ImageUrlSchemes::Any, hosts };
    ImageFetcher::with(allowed, is_ours, named(answers), timeout).unwrap()
}

const NAMES: &[(&str, &[IpAddr])] =
    &[("public.example", &[LOOPBACK]), ("private.example", &[PRIVATE]), ("mixed.example", &[LOOPBACK, PRIVATE])];

async fn fetched(fetcher: &ImageFetcher, url: &str) -> Result<Vec<u8>, FetchError> {
    let url = fetcher.check(url).unwrap();
    fetcher.fetch(url, Caller::Unknown, |_| Ok(())).await
}

#[tokio::test]
async fn a_picture_is_fetched_and_what_is_none_is_told() {
    let port = pictures().await;
    let fetcher = fetcher(port, NAMES);
    for (path, expected) in [
        ("cat.png", Ok(b"a cat".to_vec())),
        ("3", Ok(b"a cat".to_vec())),
        ("loop", Err(FetchError::Redirects)),
        ("big.png", Err(FetchError::TooLarge)),
        ("endless.png", Err(FetchError::TooLarge)),
        ("page", Err(FetchError::NoPicture("text/html".into()))),
        ("gone", Err(FetchError::Status(410))),
        ("to-literal", Err(FetchError::Refused(Refusal::Address))),
        ("to-metadata", Err(FetchError::Refused(Refusal::Address))),
        ("to-private-name", Err(FetchError::Refused(Refusal::Address))),
        ("to-file", Err(FetchError::Status(307))),
        ("to-credentials", Err(FetchError::Refused(Refusal::Credentials))),
    ] {
        assert_eq!(fetched(&fetcher, &format!("http://public.example:{port}/{path}")).await, expected, "{path}");
    }
}

#[tokio::test]
async fn a_picture_that_does_not_come_is_given_up() {
    let port = pictures().await;
    let fetcher = fetcher_within(Duration::from_millis(200), port, NAMES);
    let fetched = fetched(&fetcher, &format!("http://public.example:{port}/stalled.png")).await;
    assert_eq!(fetched, Err(FetchError::TimedOut));
}

#[tokio::test]
async fn a_name_must_lead_to_public_addresses_only() {
    let port = pictures().await;
    let fetcher = fetcher(port, NAMES);
    for (host, expected) in [
        ("private.example", FetchError::Refused(Refusal::Address)),
        ("mixed.example", FetchError::Refused(Refusal::Address)),
        ("unknown.example", FetchError::Unreachable),
    ] {
        assert_eq!(fetched(&fetcher, &format!("http://{host}:{port}/cat.png")).await, Err(expected), "{host}");
    }
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_the_next_time_is_judged_again() {
    const REBOUND: &[(&str, &[IpAddr])] = &[("public.example", &[LOOPBACK]), ("public.example", &[PRIVATE])];
    let port = pictures().await;
    let fetcher = fetcher(port, REBOUND);
    let url = format!("http://public.example:{port}/cat.png");
    assert_eq!(fetched(&fetcher, &url).await, Ok(b"a cat".to_vec()), "it is asked for once, and connected to");
    assert_eq!(fetched(&fetcher, &url).await, Err(FetchError::Refused(Refusal::Address)));
}

#[tokio::test]
async fn pieces_are_shown_as_they_come() {
    let port = pictures().await;
    let fetcher = fetcher(port, NAMES);
    let url = fetcher.check(&format!("http://public.example:{port}/endless.png")).unwrap();
    let mut seen = 0;
    let refused = fetcher.fetch(url, Caller::Unknown, |piece| {
        seen += piece.len();
        if seen > 1 << 20 { Err(FetchError::Status(0)) } else { Ok(()) }
    });
    assert_eq!(refused.await, Err(FetchError::Status(0)));
}

#[tokio::test]
async fn nothing_of_the_client_or_the_server_goes_along() {
    let told = get(async |headers: axum::http::HeaderMap| {
        let names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
        ([(header::CONTENT_TYPE, "image/png")], names.join(","))
    });
    let port = served(Router::new().route("/", told)).await;
    let names = fetched(&fetcher(port, NAMES), &format!("http://public.example:{port}/")).await.unwrap();
    let mut names: Vec<_> = std::str::from_utf8(&names).unwrap().split(',').collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "host", "user-agent"]);
}

/// A proxy would resolve names itself, and could reach other networks.
#[test]
fn no_proxy_is_asked() {
    let proxy = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let fetching = "uploads::remote::fetch::tests::a_picture_is_fetched_and_what_is_none_is_told";
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let output = again.args(["--exact", fetching]).env("http_proxy", url).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("1 passed"), "{told}");
    assert!(proxy.accept().is_err());
}
