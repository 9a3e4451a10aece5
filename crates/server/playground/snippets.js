// The request as code for a shell and for Python.

const KEY = "LATENTD_API_KEY";

/**
 * One picture comes as a file, several as JSON. The key is left out, because copied code is often shared. `files` has
 * the names of the pictures to edit.
 */
export function curl(base, body, needsKey, files = []) {
  const isEdit = files.length > 0;
  const parts = [`curl --fail-with-body ${new URL(`v1/images/${isEdit ? "edits" : "generations"}`, base)}`];
  if (!isEdit) parts.push("-H 'content-type: application/json'");
  if (needsKey) parts.push(`-H "authorization: Bearer $${KEY}"`);
  if ((body.n ?? 1) === 1) {
    const format = body.output_format ?? "png";
    parts.push(`-H 'accept: image/${format}'`, `-o picture.${format}`);
  } else {
    parts.push("-o pictures.json");
  }
  if (isEdit) parts.push(...formParts(body, files));
  else parts.push(`-d ${shellQuoted(JSON.stringify(body, null, 2))}`);
  return parts.join(" \\\n  ");
}

/** `--form-string`, because `-F` reads a file for a value that begins with @. */
function formParts(body, files) {
  const quoted = (name) => `"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
  const pictures = files.map((name) => `-F ${shellQuoted(`image[]=@${quoted(name)}`)}`);
  return [...pictures, ...Object.entries(body).map(([name, value]) => `--form-string ${shellQuoted(`${name}=${value}`)}`)];
}

/** For the openai package: its own parameters by name, this server's in `extra_body`. */
export function python(base, body, needsKey, files = []) {
  const { model, prompt, size, n, output_format, ...extra } = body;
  const own = Object.entries({ model, prompt, size, n, output_format }).filter(([, value]) => value !== undefined);
  const lines = own.map(([name, value]) => `    ${name}=${literal(value)},`);
  const call = files.length > 0 ? "edit" : "generate";
  if (call === "edit") lines.unshift(`    image=[${files.map((name) => `open(${literal(name)}, "rb")`).join(", ")}],`);
  const extras = Object.entries(extra).map(([name, value]) => `${literal(name)}: ${literal(value)}`);
  if (extras.length > 0) lines.push(`    extra_body={${extras.join(", ")}},`);
  const key = needsKey ? `os.environ["${KEY}"]` : '"unused"';
  return `import base64
${needsKey ? "import os\n" : ""}
from openai import OpenAI

client = OpenAI(base_url=${literal(String(new URL("v1", base)))}, api_key=${key})
answer = client.images.${call}(
${lines.join("\n")}
)
for i, picture in enumerate(answer.data):
    with open(f"picture-{i}.${output_format ?? "png"}", "wb") as file:
        file.write(base64.b64decode(picture.b64_json))
`;
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Strings and finite numbers have the same syntax in JSON and Python. */
function literal(value) {
  return JSON.stringify(value);
}
