import { keyHeaders } from "./key.js";

/**
 * What the service answers, with the key of this tab.
 * Throws an Error with the service's own words; `passing` where it is back soon, `locked` where it asks for a key,
 * `missing` where there is no such thing.
 */
export async function fetchJson(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The search service does not answer."), { passing: true });
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  throw Object.assign(new Error(body.detail || `The service answered ${response.status}.`), {
    passing: response.status === 503 || response.status === 429,
    locked: response.status === 401,
    missing: response.status === 404,
  });
}

/** The answer to a body sent as JSON; throws as `fetchJson`. */
export function postJson(path, body, options = {}) {
  const headers = { "Content-Type": "application/json" };
  return fetchJson(path, { ...options, method: "POST", headers, body: JSON.stringify(body) });
}
