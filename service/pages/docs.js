"use strict";
// Shows /openapi.json. Everything becomes text nodes: nothing of the document is ever read as HTML.

const METHODS = ["get", "head", "post", "put", "patch", "delete"];
const DEPTH = 4;

function make(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

function write(text) {
  // `code` in backticks is the one thing that descriptions mark.
  return String(text || "").split(/(`[^`]+`)/).map((part) => (/^`.+`$/.test(part) ? make("code", {}, part.slice(1, -1)) : part));
}

function resolve(api, schema) {
  const name = schema && schema.$ref ? schema.$ref.split("/").pop() : null;
  return name ? { ...api.components.schemas[name], named: name } : schema || {};
}

function describe(api, schema) {
  if (!schema) return "anything";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const several = schema.anyOf || schema.oneOf;
  if (several) return several.map((one) => describe(api, one)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.type === "array") return `list of ${describe(api, schema.items || (schema.prefixItems || [])[0])}`;
  return [schema.type || "anything", schema.format].filter(Boolean).join(", ");
}

function limits(schema) {
  const named = { minimum: "at least", maximum: "at most", exclusiveMinimum: "above", exclusiveMaximum: "below",
    minLength: "characters at least", maxLength: "characters at most", maxItems: "entries at most", pattern: "like" };
  const found = Object.entries(named).filter(([key]) => key in schema).map(([key, words]) => `${words} ${schema[key]}`);
  if ("default" in schema) found.push(`default ${JSON.stringify(schema.default)}`);
  return found.join("; ");
}

function inner(api, schema) {
  const seen = resolve(api, schema);
  if (seen.properties) return seen;
  if (seen.type === "array" && seen.items) return inner(api, seen.items);
  const several = (seen.anyOf || seen.oneOf || []).map((one) => inner(api, one)).filter(Boolean);
  return several.length === 1 ? several[0] : null;
}

function listFields(api, schema, depth) {
  const seen = inner(api, schema);
  if (!seen || !seen.properties) return null;
  const required = new Set(seen.required || []);
  return make("ul", { class: "fields" }, Object.entries(seen.properties).map(([name, field]) => {
    const note = [describe(api, field), required.has(name) ? "required" : "", limits(field)].filter(Boolean).join(" · ");
    const head = [make("b", {}, name), " ", make("span", { class: "note" }, note)];
    const about = field.description ? make("div", {}, write(field.description)) : null;
    if (depth >= DEPTH || !inner(api, field)) return make("li", {}, head, about);
    const more = make("details", {}, make("summary", {}, head));
    more.addEventListener("toggle", () => {
      if (more.open && more.children.length === 1) more.append(...[listFields(api, field, depth + 1)].filter(Boolean));
    });
    return make("li", {}, more, about);
  }));
}

function showExample(value) {
  return make("pre", { tabindex: "0" }, typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

function showContent(api, content) {
  return Object.entries(content || {}).map(([media, body]) => {
    const name = body.schema && body.schema.$ref ? body.schema.$ref.split("/").pop() : "";
    const examples = "example" in body ? [["", body.example]] : Object.entries(body.examples || {}).map(([key, one]) => [key, one.value]);
    return [
      make("p", {}, make("code", {}, media), name ? ` ${name}` : ""),
      listFields(api, body.schema, 0),
      examples.map(([key, value]) => make("details", {}, make("summary", {}, key ? `Example: ${key}` : "Example"), showExample(value))),
    ].flat(2);
  });
}

function showParameters(operation) {
  const rows = (operation.parameters || []).map((one) => make("tr", {},
    make("th", {}, make("code", {}, one.name), " ", make("span", { class: "note" }, one.required ? `${one.in}, required` : one.in)),
    make("td", {}, write(one.description), one.schema ? make("div", { class: "note" }, limits(one.schema)) : null)));
  return rows.length ? [make("h4", {}, "Parameters"), make("table", {}, make("tbody", {}, rows))] : [];
}

function showResponse(api, status, response) {
  const kind = status < "300" ? "ok" : status < "400" ? "moved" : "bad";
  const headers = Object.entries(response.headers || {}).map(([name, one]) => make("tr", {}, make("th", {}, make("code", {}, name)), make("td", {}, write(one.description))));
  const body = showContent(api, response.content).flat();
  const head = make("summary", {}, make("span", { class: `status ${kind}` }, status), write(response.description));
  return make("details", {}, head, headers.length ? make("table", {}, make("tbody", {}, headers)) : null, body);
}

function writeCurl(path, method, operation) {
  const parts = [`curl -fsS ${location.origin}${path.replaceAll("{", "$").replaceAll("}", "")}`];
  if (!["get", "head"].includes(method)) parts.push(`-X ${method.toUpperCase()}`);
  if (method === "head") parts.push("--head");
  if ((operation.security || []).some((one) => Object.keys(one).length)) parts.push('-H "Authorization: Bearer $FAULTLINE_KEY"');
  const content = operation.requestBody ? Object.keys(operation.requestBody.content) : [];
  if (content.includes("application/json")) parts.push('-H "Content-Type: application/json" --data @request.json');
  else if (content.length) parts.push(`-H "Content-Type: ${content[0]}" --data-binary @file`);
  return parts.join(" \\\n  ");
}

function showOperation(api, path, method, operation) {
  const scopes = (operation.security || []).flatMap((one) => Object.values(one).flat());
  const body = operation.requestBody ? [make("h4", {}, "Body"), showContent(api, operation.requestBody.content)].flat(3) : [];
  return make("article", { id: operation.operationId },
    make("header", {}, make("span", { class: `method ${method}` }, method.toUpperCase()), make("h3", {}, path),
      make("span", { class: "scope" }, scopes.length ? `key: ${scopes.join(", ")}` : "no key")),
    make("div", {}, make("p", {}, write(operation.description || operation.summary)), showParameters(operation), body,
      make("h4", {}, "Answers"), Object.entries(operation.responses).map(([status, one]) => showResponse(api, status, one)),
      make("h4", {}, "By hand"), showExample(writeCurl(path, method, operation))));
}

function show(api) {
  const byTag = new Map();
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((name) => name in operations)) {
      const tag = (operations[method].tags || ["other"])[0];
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push({ path, method, operation: operations[method] });
    }
  }
  const main = document.getElementById("main");
  const contents = document.getElementById("contents");
  document.getElementById("version").textContent = api.info.version;
  main.replaceChildren(make("p", {}, write(api.info.description)));
  for (const [tag, entries] of byTag) {
    main.append(make("section", {}, make("h2", { class: "tag" }, tag), entries.map((one) => showOperation(api, one.path, one.method, one.operation))));
    contents.append(make("section", {}, make("h2", {}, tag), entries.map((one) => make("a", { href: `#${one.operation.operationId}` },
      make("span", { class: `method ${one.method}` }, one.method.toUpperCase()), make("span", { class: "name" }, one.path)))));
  }
  document.getElementById("search").addEventListener("input", (event) => filter(event.target.value.trim().toLowerCase()));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView({ behavior: "instant" });
}

function filter(words) {
  for (const link of document.querySelectorAll("#contents a")) {
    const article = document.getElementById(link.getAttribute("href").slice(1));
    const matches = !words || article.textContent.toLowerCase().includes(words);
    link.hidden = article.hidden = !matches;
  }
  for (const section of document.querySelectorAll("#contents section, main section")) {
    section.hidden = !section.querySelector("a:not([hidden]), article:not([hidden])");
  }
}

fetch("/openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`the service answered ${response.status}`))))
  .then(show)
  .catch((error) => { document.getElementById("state").textContent = `The description cannot be read: ${error.message}`; });
