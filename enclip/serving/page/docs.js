// Renders openapi.json, so that this page cannot say anything that the service does not.
const $ = (id) => document.getElementById(id);
const LIMITS = { maxLength: "at most # characters", maxItems: "at most # values", minimum: "from #", maximum: "to #" };

const description = await (await fetch("openapi.json")).json();
const resolve = (schema) => (schema?.$ref ? description.components.schemas[schema.$ref.split("/").at(-1)] : (schema ?? {}));

/** The part of a schema that says something: `T or null` is T. */
function core(schema) {
  const found = resolve(schema);
  const choices = (found.anyOf ?? []).filter((choice) => choice.type !== "null");
  return choices.length === 1 ? { ...resolve(choices[0]), ...found, anyOf: undefined, type: resolve(choices[0]).type } : found;
}

function typeOf(schema) {
  const { type, items, contentEncoding } = core(schema);
  if (type === "array") return `list of ${typeOf(items)}`;
  return contentEncoding ?? type ?? "any";
}

function limitsOf(schema) {
  const found = core(schema);
  return Object.entries(LIMITS)
    .filter(([name]) => name in found)
    .map(([name, text]) => text.replace("#", found[name]))
    .join(", ");
}

/** Rows `[field, schema]` of an object, those of objects inside it included. */
function fieldsOf(schema, prefix = "") {
  return Object.entries(core(schema).properties ?? {}).flatMap(([name, field]) =>
    core(field).properties ? fieldsOf(field, `${prefix}${name}.`) : [[prefix + name, field]],
  );
}

function render(path, method, operation) {
  const section = $("operation").content.firstElementChild.cloneNode(true);
  section.querySelector(".method").textContent = method.toUpperCase();
  section.querySelector(".path").textContent = path.replace(":path}", "}");
  section.querySelector(".says").textContent = operation.summary;
  const body = operation.requestBody?.content["application/json"]?.schema;
  const rows = [
    ...(operation.parameters ?? []).map((parameter) => [parameter.in === "header" ? `header ${parameter.name}` : parameter.name, parameter.schema]),
    ...(body ? fieldsOf(body) : []),
  ];
  section.querySelector("table").hidden = !rows.length;
  for (const [name, schema] of rows) {
    const row = section.querySelector("tbody").insertRow();
    const standard = core(schema).default ?? "";
    const says = [core(schema).description, `${standard}` && `default ${standard}`].filter(Boolean).join(" ");
    for (const text of [name, typeOf(schema), limitsOf(schema), says]) row.insertCell().textContent = text;
  }
  const answers = Object.entries(operation.responses).filter(([status]) => status !== "200" && status !== "422");
  section.querySelector(".answers").textContent = answers.map(([status, { description }]) => `${status}: ${description}`).join(" ");
  return section;
}

const key = description.paths["/v1/search"].post.security ? '  -H "X-API-Key: $KEY" \\\n' : "";
$("curl").textContent = `curl ${new URL("v1/search", location.href)} \\
${key}  -H 'Content-Type: application/json' \\
  -d '{"text": "navy blue shirt", "filters": {"gender": "Men"}, "k": 5}'`;
$("operations").replaceChildren(
  ...Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => render(path, method, operation)),
  ),
);
