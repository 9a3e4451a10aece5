//! Routes in the API description, with what they accept and answer.

use serde_json::{Value, json};
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, Paths, Ref, Required, SecurityRequirement};

use super::answers::{
    content, events, job_taken, json as json_answer, link, picture_file, pictures, refusal, response,
};
use super::schema::{of, text};
use crate::api::bounds::MAX_KEY_LEN;

/// Names of the security schemes; either is sufficient.
pub(super) const BEARER: &str = "bearer";
pub(super) const API_KEY: &str = "api_key";

const IMAGES: &str = "Images";
const JOBS: &str = "Jobs and files";
const MODELS: &str = "Models";
const OPERATIONS: &str = "Operations";
/// Error statuses of requests for pictures.
const PICTURE_REFUSALS: [u16; 10] = [400, 401, 404, 408, 413, 415, 429, 500, 503, 504];

/// All routes, in the order of the page.
pub(super) fn paths() -> Paths {
    let mut paths = Paths::new();
    let routes = [images(), jobs(), models(), operations()];
    for (method, path, operation) in routes.into_iter().flatten() {
        paths.add_path_operation(path, vec![method], operation);
    }
    paths
}

type Route = (HttpMethod, &'static str, Operation);

fn images() -> Vec<Route> {
    let generation = json!({"prompt": PROMPT, "size": "auto", "n": 1, "seed": 42});
    let bodies = [("application/json", "GenerationRequest", generation)];
    let generate = operation(IMAGES, "generate", "Make pictures from text")
        .description(Some("All pictures or an error. The request is cancelled if its client leaves."))
        .parameters(Some(picture_headers()))
        .request_body(Some(request_body(bodies)));
    let form = json!({"prompt": PROMPT, "image": ["@fox.png"], "mask": "@mask.png"});
    let body = json!({"prompt": PROMPT, "images": [{"image_url": "data:image/png;base64,…"}]});
    let bodies = [("multipart/form-data", "EditForm", form), ("application/json", "EditRequest", body)];
    let edit = operation(IMAGES, "edit", "Edit pictures")
        .description(Some(
            "The same as a generation, with input pictures, and a mask if only a part of the first may change. 400 \
             `unsupported_value` if the model takes no pictures.",
        ))
        .parameters(Some(picture_headers()))
        .request_body(Some(request_body(bodies)));
    let vary = operation(IMAGES, "vary", "Retired")
        .description(Some("Always 400: OpenAI retired it. Use an edit with a prompt instead."));
    vec![
        (HttpMethod::Post, "/v1/images/generations", makes_pictures(generate)),
        (HttpMethod::Post, "/v1/images/edits", makes_pictures(edit)),
        (HttpMethod::Post, "/v1/images/variations", keyed(vary, &[400, 401, 429, 500])),
    ]
}

fn makes_pictures(operation: OperationBuilder) -> Operation {
    keyed(operation.response("200", pictures()).response("202", job_taken()), &PICTURE_REFUSALS)
}

fn jobs() -> Vec<Route> {
    let job = |id, summary| {
        let of = operation(JOBS, id, summary).parameter(path_parameter("id", "The job's id, from the 202 answer."));
        move |description| of.description(Some(description))
    };
    let ask = job("job", "The state of a job")("A job is visible only to the key that created it.")
        .response("200", json_answer("The job, with its answer once it is finished.", "ImageJob"));
    let cancel = job("cancel_job", "Cancel a job")("A job that has ended is forgotten.")
        .response("200", json_answer("The job's last state.", "ImageJob"));
    let follow =
        job("job_events", "Follow a job")("A client that leaves does not cancel the job.").response("200", events());
    let file = operation(JOBS, "file", "Fetch a picture by URL")
        .description(Some("No key is needed: the URL of an answer is signed, and valid for an hour."))
        .parameter(path_parameter("id", "The file's id."))
        .parameter(query_parameter("expires", "Expiry, in seconds since 1970."))
        .parameter(query_parameter("signature", "The server's signature of the URL."))
        .response("200", picture_file());
    let refusals = [400, 401, 404, 500];
    vec![
        (HttpMethod::Get, "/v1/images/jobs/{id}", keyed(ask, &refusals)),
        (HttpMethod::Delete, "/v1/images/jobs/{id}", keyed(cancel, &refusals)),
        (HttpMethod::Get, "/v1/images/jobs/{id}/events", keyed(follow, &refusals)),
        (HttpMethod::Get, "/v1/images/files/{id}", refusing(file, &[400, 403, 404, 500])),
    ]
}

fn models() -> Vec<Route> {
    let names = json_answer("Each name is listed as a model.", "ModelList");
    let names = names.link("retrieve_model", link("retrieve_model", "$response.body#/data/0/id"));
    let list = operation(MODELS, "list_models", "The served model's names").response("200", names);
    let retrieve = operation(MODELS, "retrieve_model", "One of the served model's names")
        .parameter(path_parameter("id", "A name. Its slashes may be plain or `%2F`."))
        .response("200", json_answer("The model.", "Model"));
    vec![
        (HttpMethod::Get, "/v1/models", keyed(list, &[401, 500])),
        (HttpMethod::Get, "/v1/models/{id}", keyed(retrieve, &[401, 404, 500])),
    ]
}

fn operations() -> Vec<Route> {
    let ready = || json_answer("The model is loaded and accepts requests.", "Ready");
    let alive = || json_answer("The process is alive.", "Alive");
    let probe = |id, summary| operation(OPERATIONS, id, summary);
    let samples = response("Samples.")
        .content("text/plain", content(text("Prometheus's own text."), None))
        .content("application/openmetrics-text", content(text("OpenMetrics, if the client asks for it."), None));
    let document =
        response("This document.").content("application/json", content(of(Type::Object, "OpenAPI 3.1."), None));
    let page = response("The page.").content("text/html", content(text("A page."), None));
    let routes = [
        ("/health", probe("health", "Whether requests are accepted").response("200", ready()), &[500, 503][..]),
        ("/readyz", probe("readyz", "The same, under Kubernetes's name").response("200", ready()), &[500, 503]),
        ("/livez", probe("livez", "Whether the process is alive").response("200", alive()), &[500]),
        ("/ping", probe("ping", "The same, under SageMaker's name").response("200", alive()), &[500]),
        (
            "/info",
            probe("info", "What this server is and accepts").response("200", json_answer("The server.", "Info")),
            &[500],
        ),
        (
            "/version",
            probe("version", "The program's version and build")
                .response("200", json_answer("The program.", "BuildInfo")),
            &[500],
        ),
        ("/metrics", probe("metrics", "Metrics for Prometheus").response("200", samples), &[500]),
        ("/openapi.json", probe("openapi", "This document").response("200", document), &[500]),
        ("/docs", probe("docs", "This document as a page").response("200", page), &[500]),
    ];
    let open = |(path, operation, refusals)| (HttpMethod::Get, path, refusing(operation, refusals));
    routes.into_iter().map(open).collect()
}

const PROMPT: &str = "a fox on a green background";

fn operation(tag: &str, id: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new().tag(tag).operation_id(Some(id)).summary(Some(summary))
}

/// An operation that needs a key on a server with keys.
fn keyed(operation: OperationBuilder, refusals: &[u16]) -> Operation {
    let none: [&str; 0] = [];
    let schemes = [
        SecurityRequirement::default(),
        SecurityRequirement::new(BEARER, none),
        SecurityRequirement::new(API_KEY, none),
    ];
    refusing(operation.securities(Some(schemes)), refusals)
}

fn refusing(operation: OperationBuilder, refusals: &[u16]) -> Operation {
    let all =
        refusals.iter().fold(operation, |operation, status| operation.response(status.to_string(), refusal(*status)));
    all.build()
}

/// A body with one alternative for each media type, with its schema and an example.
fn request_body<const N: usize>(forms: [(&str, &str, Value); N]) -> RequestBody {
    let body = RequestBodyBuilder::new().required(Some(Required::True));
    let with = |body: RequestBodyBuilder, (media_type, name, example): (&str, &str, Value)| {
        body.content(media_type, content(Ref::from_schema_name(name), Some(example)))
    };
    forms.into_iter().fold(body, with).build()
}

fn picture_headers() -> Vec<Parameter> {
    let seconds = of(Type::Number, "").exclusive_minimum(Some(0.0));
    vec![
        header_parameter(
            "x-request-timeout",
            "Seconds until the answer is of no use: a request that cannot make it is refused.",
            seconds,
        ),
        header_parameter(
            "x-request-id",
            "The request's name in the answer and in the log, where it is short and printable ASCII.",
            text(""),
        ),
        header_parameter(
            "idempotency-key",
            "The same request with the same key joins the one that runs, or has its answer again for a day; another \
             request with the same key is refused.",
            text("").pattern(Some(format!("^[!-~]{{1,{MAX_KEY_LEN}}}$"))),
        ),
        header_parameter("prefer", "`respond-async` is `async`, as of RFC 7240.", text("")),
    ]
}

fn header_parameter(name: &str, description: &str, schema: ObjectBuilder) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
    parameter.description(Some(description)).schema(Some(schema)).build()
}

fn path_parameter(name: &str, description: &str) -> Parameter {
    text_parameter(ParameterIn::Path, name, description)
}

fn query_parameter(name: &str, description: &str) -> Parameter {
    text_parameter(ParameterIn::Query, name, description)
}

fn text_parameter(place: ParameterIn, name: &str, description: &str) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(Required::True);
    parameter.description(Some(description)).schema(Some(text(""))).build()
}
