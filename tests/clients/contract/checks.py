"""Hooks and checks for schemathesis: bounds on the work of a request, and the rules that no schema can express."""

import json

import schemathesis

# Fields whose meaning depends on each other, on the model, or on the product of two numbers.
BEYOND_SCHEMAS = {
    "size", "width", "height", "n", "stream", "async", "preview_interval", "partial_images", "preview_method", "cache",
    "extra_body", "image", "images", "mask", "x-request-timeout", "idempotency-key", "prompt", "num_inference_steps",
}
# Codes for a part that occurs twice in a form, a key that comes with two bodies, and an endpoint that is always
# refused.
BEYOND_SCHEMAS_CODES = {"invalid_multipart", "idempotency_key_reused", "unsupported_endpoint"}
# Upper bounds for the generated values. A thousand steps would take seconds and test nothing more.
MOST = {"num_inference_steps": 2, "n": 2}


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict):
        for field, most in MOST.items():
            given = body.get(field)
            # A float such as 897.0 is also a valid integer in JSON.
            if isinstance(given, (int, float)) and not isinstance(given, bool) and most < given <= 1000:
                body[field] = most
        body.setdefault("num_inference_steps", 2)
    return body


@schemathesis.check
def failures_have_the_one_shape(context, response, case):
    if response.status_code < 400:
        return
    error = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and isinstance(error["code"], str) and isinstance(error["type"], str), error


@schemathesis.check
def what_the_schema_allows_is_refused_only_by_known_rules(context, response, case):
    if response.status_code != 400 or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    error = json.loads(response.content)["error"]
    known = error["param"] in BEYOND_SCHEMAS or error["code"] in BEYOND_SCHEMAS_CODES
    assert known, f"the schema should say that this is refused: {error}"


@schemathesis.check
def every_answer_has_its_id(context, response, case):
    assert response.headers.get("x-request-id"), "no x-request-id"
