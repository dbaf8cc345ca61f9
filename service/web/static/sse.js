/** Server-sent events by `fetch`: `EventSource` cannot send a key. */

import { problemOf, send } from "./api.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;

/**
 * Follow a stream until it is ended by `signal`, or by `onEvent` returning false. A stream that breaks is taken up
 * again where it ended.
 * @param {string} path
 * @param {(event: {type: string, data: any, id: string}) => boolean|void} onEvent
 * @param {AbortSignal} signal
 * @throws {import("./api.js").Problem} where the service refuses
 */
export async function follow(path, onEvent, signal) {
  let last = "";
  let pause_ms = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
      const answer = await send("GET", path, { signal, headers });
      if (!answer.ok) throw await problemOf(answer);
      for await (const event of events(/** @type {ReadableStream<Uint8Array>} */ (answer.body))) {
        last = event.id || last;
        pause_ms = FIRST_PAUSE_MS;
        if (onEvent({ ...event, data: parsed(event.data) }) === false) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (/** @type {any} */ (error).status) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, pause_ms * (0.5 + Math.random())));
    pause_ms = Math.min(2 * pause_ms, LONGEST_PAUSE_MS);
  }
}

/** @param {ReadableStream<Uint8Array>} body */
async function* events(body) {
  let rest = "";
  const reader = body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parseBlock(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block @returns {{type: string, data: string, id: string}|null} null for a mere comment */
function parseBlock(block) {
  const event = { type: "message", data: "", id: "" };
  let told = false;
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (name === "data") event.data += (told ? "\n" : "") + value;
    if (name === "data") told = true;
    if (name === "event") event.type = value;
    if (name === "id") event.id = value;
  }
  return told ? event : null;
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
