//! Checks of the document against the router, and against itself.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::Value;

use crate::api::paths::KNOWN;
use crate::tests::{config, fake_app, get, send};

async fn served() -> Value {
    let answer = get(&fake_app().await, "/openapi.json").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    answer.json
}

/// Each operation with its method and path.
fn operations(document: &Value) -> Vec<(Method, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (method.to_uppercase().parse().unwrap(), path.clone(), operation))
    });
    operations.collect()
}

#[tokio::test]
async fn every_route_is_described_and_every_description_is_a_route() {
    let document = served().await;
    assert_eq!(document["openapi"], "3.1.0");
    let operations = operations(&document);
    let described: BTreeSet<_> = operations.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    for (path, shown) in KNOWN {
        assert!(shown.ends_with(path) && described.contains(shown), "{shown}");
    }
    let app = fake_app().await;
    for (method, path, _) in &operations {
        let path = path.replace("{id}", "x");
        let answer = send(&app, Request::builder().method(method).uri(&path).body(Body::empty()).unwrap()).await;
        let code = answer.json["error"]["code"].as_str().unwrap_or_default();
        assert!(!["unknown_url", "method_not_allowed"].contains(&code), "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn every_failure_has_the_one_shape_and_every_answer_its_id() {
    let document = served().await;
    for (method, path, operation) in operations(&document) {
        for (status, answer) in operation["responses"].as_object().unwrap() {
            assert!(answer["headers"].get("x-request-id").is_some(), "{method} {path} {status}");
            if !status.starts_with('2') {
                let schema = &answer["content"]["application/json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/ErrorResponse", "{method} {path} {status}");
            }
        }
        let is_keyed = path.starts_with("/v1/") && !path.starts_with("/v1/images/files");
        assert_eq!(operation.get("security").is_some(), is_keyed, "{method} {path}");
        assert_eq!(operation["responses"].get("401").is_some(), is_keyed, "{method} {path}");
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = served().await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 5, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn an_answer_has_the_fields_of_its_schema() {
    let document = served().await;
    let app = fake_app().await;
    for (path, name) in
        [("/info", "Info"), ("/version", "BuildInfo"), ("/v1/models", "ModelList"), ("/health", "Ready")]
    {
        let answer = get(&app, path).await;
        let schema = &document["components"]["schemas"][name];
        let fields: BTreeSet<_> = answer.json.as_object().unwrap().keys().collect();
        assert_eq!(fields, schema["properties"].as_object().unwrap().keys().collect(), "{path}");
    }
}

#[tokio::test]
async fn the_page_and_its_files_are_served_and_name_no_other_host() {
    let app = fake_app().await;
    let page = get(&app, "/docs").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    for path in ["docs/docs.css", "docs/docs.js", "openapi.json"] {
        assert!(page.text.contains(&format!("\"{path}\"")), "{path}");
        let file = get(&app, &format!("/{path}")).await;
        assert_eq!(file.status, 200, "{path}");
        assert!(!file.text.contains("http://") && !file.text.contains("https://"), "{path}");
    }
    assert_eq!(get(&app, "/docs/other.js").await.status, 404);
}

#[test]
fn the_models_names_are_those_of_the_server() {
    let document = serde_json::to_value(super::document(&config().api, false)).unwrap();
    let names = &document["components"]["schemas"]["EditForm"]["properties"]["model"]["enum"];
    assert_eq!(names, &serde_json::json!(["Fake/Fake-Image", "gpt-image-1"]));
}

#[test]
fn a_file_is_a_text_wherever_it_stands() {
    let document = serde_json::to_value(super::document(&config().api, false)).unwrap();
    let expected = serde_json::json!({
        "type": "string", "description": "The file in base64.", "contentEncoding": "base64",
    });
    for place in ["EventImage/properties/b64_json", "ImageData/properties/b64_json/oneOf/0"] {
        assert_eq!(document.pointer(&format!("/components/schemas/{place}")), Some(&expected), "{place}");
    }
}
