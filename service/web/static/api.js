/** Calls of the service: the reader's key goes along, and every failure becomes a `Problem`. */

const KEY_NAME = "loadmaster.key";

/** A refused or failed call, in the service's own words. */
export class Problem extends Error {
  /** @param {string} detail @param {number} status 0 where there was no answer */
  constructor(detail, status = 0) {
    super(detail);
    this.status = status;
  }

  /** Whether this service does not have the route that was called. */
  get isMissing() {
    return this.status === 404 || this.status === 405;
  }

  /** Whether another key may help. */
  get wantsKey() {
    return this.status === 401;
  }
}

/** @returns {string} the key, empty without one */
export function apiKey() {
  return sessionStorage.getItem(KEY_NAME) ?? "";
}

/** @param {string} key empty to forget it */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY_NAME, key);
  else sessionStorage.removeItem(KEY_NAME);
}

/**
 * The address of a path, below wherever this page was loaded from.
 * @param {string} path without a leading slash
 * @param {Record<string, string|number|undefined|null>} query entries without a value are left out
 */
export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  url.hash = "";
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, String(value));
  }
  return url;
}

/**
 * Send one request and return the raw answer, whatever its status.
 * @param {string} method @param {string} path
 * @param {{query?: Record<string, any>, body?: unknown, signal?: AbortSignal, key?: string,
 *   headers?: Record<string, string>}} options a body that is a string is sent as it stands
 */
export async function send(method, path, { query, body, signal, key = apiKey(), headers = {} } = {}) {
  /** @type {Record<string, string>} */
  const sent = { ...headers };
  if (key) sent["Authorization"] = `Bearer ${key}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  try {
    return await fetch(address(path, query), { method, headers: sent, body: text, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem("the service could not be reached");
  }
}

/** @param {Response} answer @returns {Promise<Problem>} */
export async function problemOf(answer) {
  try {
    const { detail } = await answer.json();
    return new Problem(detail, answer.status);
  } catch {
    return new Problem(`the service answered ${answer.status}`, answer.status);
  }
}

/**
 * Send one request and return its JSON.
 * @param {string} method @param {string} path @param {Parameters<typeof send>[2]} options
 * @returns {Promise<any>} null where the answer is empty
 * @throws {Problem}
 */
export async function call(method, path, options = {}) {
  const answer = await send(method, path, options);
  if (!answer.ok) throw await problemOf(answer);
  return answer.status === 204 ? null : answer.json();
}

/** @param {string} path @param {Record<string, any>} [query] @returns {Promise<any>} */
export const get = (path, query) => call("GET", path, { query });

/** @param {string} path @param {unknown} [body] @returns {Promise<any>} */
export const post = (path, body) => call("POST", path, { body });
