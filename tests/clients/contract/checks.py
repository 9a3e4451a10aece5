"""What schemathesis does not know of this API: how long a request may take, and which rules no schema can say."""

import json

import schemathesis

# Fields whose meaning depends on each other, on the model, or on the product of two numbers.
BEYOND_SCHEMAS = {
    "size", "width", "height", "n", "stream", "async", "preview_interval", "partial_images", "preview_method", "cache",
    "extra_body", "image", "images", "mask", "x-request-timeout", "idempotency-key", "prompt", "num_inference_steps",
}
# A form's parts that come twice, a key that comes with two bodies, and what is refused always.
BEYOND_SCHEMAS_CODES = {"invalid_multipart", "idempotency_key_reused", "unsupported_endpoint"}
# A step takes milliseconds, and a thousand of them seconds: nothing is learnt from those.
MOST = {"num_inference_steps": 2, "n": 2}


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict):
        for field, most in MOST.items():
            given = body.get(field)
            # 897.0 is an integer too.
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
