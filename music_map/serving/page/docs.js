// Shows the OpenAPI schema of this service and sends requests to it. All text is set as text, never as markup.
"use strict";

function add(parent, tag, text) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function resolved(schema, all) {
  return schema.$ref ? all.components.schemas[schema.$ref.split("/").pop()] : schema;
}

// A schema's type in words: "list of integer or string, at most 1024", "integer, 1 to 1000".
function typeOf(schema, all) {
  if (schema.anyOf) return [...new Set(schema.anyOf.map((one) => typeOf(one, all)))].join(" or ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  const limits = [];
  if (schema.minimum !== undefined) limits.push(`at least ${schema.minimum}`);
  const most = schema.maximum ?? schema.maxItems ?? schema.maxLength;
  if (most !== undefined) limits.push(`at most ${most}`);
  if (schema.exclusiveMaximum !== undefined) limits.push(`below ${schema.exclusiveMaximum}`);
  const name = schema.type === "array" ? `list of (${typeOf(schema.items, all)})` : schema.type ?? "any";
  return [name, ...limits].join(", ");
}

function fields(parent, schema, all) {
  const table = add(parent, "table");
  for (const [name, field] of Object.entries(resolved(schema, all).properties ?? {})) {
    const row = add(table, "tr");
    add(row, "th", name);
    const required = (resolved(schema, all).required ?? []).includes(name);
    const value = required ? "required" : field.default === undefined ? "" : `default ${JSON.stringify(field.default)}`;
    const cell = add(row, "td", [typeOf(field, all), value, field.description].filter(Boolean).join("; "));
    if (field.$ref) fields(cell, field, all);
  }
}

async function send(method, path, body, output) {
  const token = document.getElementById("token").value;
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  if (body !== null) headers["content-type"] = "application/json";
  try {
    const answer = await fetch(path, { method, headers, body });
    const text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON */ }
    output.textContent = `${answer.status} ${answer.statusText}\n${shown}`;
  } catch (error) {
    output.textContent = String(error);
  }
}

function operation(parent, method, path, one, all) {
  const section = add(parent, "section");
  add(section, "h2", `${method.toUpperCase()} ${path}`);
  add(section, "p", one.description ?? one.summary);
  const schema = one.requestBody?.content["application/json"].schema;
  let area = null;
  if (schema) {
    fields(section, schema, all);
    area = add(section, "textarea");
    area.setAttribute("aria-label", `body of ${path}`);
    area.value = JSON.stringify(resolved(schema, all).examples?.[0] ?? {});
  }
  const button = add(section, "button", "Send");
  const output = add(section, "pre");
  button.addEventListener("click", () => send(method.toUpperCase(), path, area ? area.value : null, output));
}

async function show() {
  const answer = await fetch("/openapi.json");
  const all = await answer.json();
  document.getElementById("about").textContent = all.info.description;
  const parent = document.getElementById("paths");
  for (const [path, methods] of Object.entries(all.paths)) {
    for (const [method, one] of Object.entries(methods)) operation(parent, method, path, one, all);
  }
}

show();
