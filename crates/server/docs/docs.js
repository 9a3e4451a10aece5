// Renders openapi.json: each route with its fields, types, bounds, answers, and a curl command to copy.

const base = new URL(".", location.href).href.replace(/\/$/, "");

// An element with attributes and children; text is never read as HTML.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

// A description: `words` as code, and its paragraphs.
function prose(text = "") {
  return text.split(/\n\n+/).filter(Boolean).map((paragraph) => element("p", {}, inline(paragraph)));
}

function inline(text = "") {
  return text.split(/`([^`]*)`/).map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

function resolved(spec, schema) {
  if (!schema?.$ref) return schema ?? {};
  return schema.$ref.slice(2).split("/").reduce((node, key) => node[key], spec);
}

// A schema's type in a few words: `integer 1–10`, `one of png, jpeg`, `list of EventRun`.
function typeOf(spec, schema) {
  if (schema.$ref) return element("a", { href: `#${schema.$ref.split("/").pop()}` }, schema.$ref.split("/").pop());
  const variants = (schema.oneOf ?? schema.anyOf ?? []).filter((variant) => variant.type !== "null");
  if (variants.length) return element("span", {}, variants.flatMap((variant, i) => [i ? " or " : "", typeOf(spec, variant)]));
  if (schema.enum) return `one of ${schema.enum.filter((value) => value !== null).join(", ")}`;
  if (schema.type === "array" || schema.items) {
    return element("span", {}, "list of ", typeOf(spec, schema.items ?? {}), bounds(schema.minItems, schema.maxItems));
  }
  if (schema.contentSchema) return element("span", {}, "JSON of ", typeOf(spec, schema.contentSchema));
  if (schema.contentMediaType) return "file";
  if (schema.properties) return element("span", {}, "{ ", Object.entries(schema.properties).flatMap(([name, field], i) =>
    [i ? ", " : "", name, ": ", typeOf(spec, field)]), " }");
  const kinds = [schema.type ?? "anything"].flat().filter((kind) => kind !== "null").join(" or ");
  const length = bounds(schema.minLength, schema.maxLength);
  return `${kinds}${bounds(schema.minimum ?? schema.exclusiveMinimum, schema.maximum)}${length && `${length} characters`}`;
}

function bounds(least, most) {
  if (most > Number.MAX_SAFE_INTEGER) most = null;
  if (least == null && most == null) return "";
  if (most == null) return `, at least ${least}`;
  return least == null ? `, at most ${most}` : `, ${least} to ${most}`;
}

function row(spec, name, schema, isRequired) {
  const aliases = schema["x-aliases"] ? ` (${schema["x-aliases"].join(", ")})` : "";
  return element("tr", {},
    element("td", {}, element("code", {}, name), element("span", { class: "faint" }, aliases),
      isRequired ? element("div", { class: "required" }, "required") : null),
    element("td", {}, element("div", {}, typeOf(spec, schema),
      schema.default === undefined ? null : element("span", { class: "faint" }, ` default ${JSON.stringify(schema.default)}`)),
      inline(schema.description)));
}

// A schema's own fields and those of the schemas it combines.
function merged(spec, schema) {
  const { properties = {}, required = [], allOf = [] } = resolved(spec, schema);
  const parts = [...allOf.map((part) => merged(spec, part)), { properties, required }];
  return {
    properties: Object.assign({}, ...parts.map((part) => part.properties)),
    required: parts.flatMap((part) => part.required),
  };
}

function fields(spec, schema) {
  const { properties, required } = merged(spec, schema);
  const rows = Object.entries(properties).map(([name, field]) => row(spec, name, field, required.includes(name)));
  return rows.length ? element("table", {}, element("tbody", {}, rows)) : null;
}

// The curl command of a route for one media type of its body.
function curl(method, path, mediaType, example, needsKey) {
  const parts = [`curl ${base}${path}`];
  if (method === "post" && !mediaType) parts[0] += " -X POST";
  if (needsKey) parts.push(`-H "Authorization: Bearer $LATENTD_API_KEY"`);
  if (mediaType === "application/json") {
    parts.push(`-H "Content-Type: application/json"`, `-d '${JSON.stringify(example)}'`);
  } else if (mediaType) {
    const values = Object.entries(example).flatMap(([name, value]) => [value].flat().map((one) => `-F ${name}='${one}'`));
    parts.push(...values);
  }
  return parts.join(" \\\n  ");
}

function copyable(text) {
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return element("pre", {}, element("code", {}, text), button);
}

function answers(spec, operation) {
  const rows = Object.entries(operation.responses).sort().map(([status, answer]) => {
    const kinds = Object.entries(answer.content ?? {}).flatMap(([type, { schema }]) =>
      [element("div", {}, element("code", {}, type), " ", schema.$ref ? typeOf(spec, schema) : inline(schema.description))]);
    const headers = Object.keys(answer.headers ?? {}).map((name) => element("code", {}, name));
    return element("tr", {}, element("td", {}, status),
      element("td", {}, element("div", {}, inline(answer.description)), kinds,
        element("div", { class: "faint" }, headers.flatMap((header) => [header, " "]))));
  });
  return element("table", {}, element("tbody", {}, rows));
}

function route(spec, path, method, operation) {
  const forms = Object.entries(operation.requestBody?.content ?? {});
  const needsKey = Boolean(operation.security);
  const parameters = (operation.parameters ?? []).map((parameter) =>
    row(spec, parameter.name, { ...parameter.schema, description: parameter.description }, parameter.required));
  const commands = forms.length
    ? forms.flatMap(([type, { schema, example }]) => [
        element("h4", {}, "Body, ", element("code", {}, type)),
        copyable(curl(method, path, type, example, needsKey)),
        fields(spec, schema)])
    : [copyable(curl(method, path, null, null, needsKey))];
  return element("section", { id: operation.operationId },
    element("h3", {}, element("span", { class: `method ${method}` }, method.toUpperCase()), path),
    element("p", {}, element("b", {}, operation.summary), ". ", inline(operation.description)),
    parameters.length ? [element("h4", {}, "Parameters"), element("table", {}, element("tbody", {}, parameters))] : null,
    commands, element("h4", {}, "Answers"), answers(spec, operation));
}

function render(spec) {
  const nav = document.getElementById("nav");
  const main = document.getElementById("main");
  const routes = Object.entries(spec.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation })));
  const tags = [...new Set(routes.map(({ operation }) => operation.tags[0]))];
  nav.replaceChildren(element("a", { href: "./" }, "Playground"), element("a", { href: "openapi.json" }, "openapi.json"));
  for (const tag of tags) {
    const own = routes.filter(({ operation }) => operation.tags[0] === tag);
    nav.append(element("h2", {}, tag), ...own.map(({ path, method, operation }) =>
      element("a", { href: `#${operation.operationId}` }, `${method.toUpperCase()} ${path}`)));
  }
  const schemas = Object.entries(spec.components.schemas).filter(([, schema]) => schema.properties || schema.allOf || schema.oneOf);
  nav.append(element("h2", {}, "Schemas"), ...schemas.map(([name]) => element("a", { href: `#${name}` }, name)));
  main.replaceChildren(
    element("h1", {}, spec.info.title, " ", element("small", {}, spec.info.version)), ...prose(spec.info.description),
    ...routes.map(({ path, method, operation }) => route(spec, path, method, operation)),
    ...schemas.map(([name, schema]) => element("section", { id: name }, element("h3", {}, name),
      ...prose(schema.description), fields(spec, schema) ?? typeOf(spec, schema))));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

try {
  render(await (await fetch("openapi.json")).json());
} catch (error) {
  document.getElementById("main").replaceChildren(element("p", {}, `openapi.json could not be read: ${error.message}`));
}
