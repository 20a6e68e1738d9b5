/** The client of the gateway: all HTTP requests of the page are made here. */

import { Value } from "./value.js";

const KEY = "rerankfleet.key";
const ANSWER_TIMEOUT_MS = 15_000; // for an answer to a GET
const STREAM_TIMEOUT_MS = 30_000; // without data on an event stream; live ones send keep-alive comments
const UPLOAD_TIMEOUT_MS = 60_000; // without progress of an upload

const EVENT_STREAM = "text/event-stream";

/**
 * Progress of a request: queued behind `ahead` shards, or on a worker with `done` of `total` pairs scored.
 * @typedef {{stage: "queued", ahead: number} | {stage: "scoring", done: number, total: number}} Stage
 */

/** An error as the gateway reports it. `status` 0: it was not reached; -1: the page itself failed. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {{message: string, hint?: string, code?: string, param?: string}} error
   * @param {{requestId?: string, retryAfterS?: number}} [about]
   */
  constructor(status, error, about = {}) {
    super(error.message);
    this.status = status;
    this.hint = error.hint ?? "";
    this.code = error.code ?? "";
    this.param = error.param ?? "";
    this.requestId = about.requestId ?? "";
    this.retryAfterS = about.retryAfterS ?? 0;
  }
}

/** The gateway that served the page. */
export class Api {
  constructor() {
    /** Whether the gateway answers. @type {Value<boolean>} */
    this.reachable = new Value(true);
    /** Whether it refused a request for lack of a valid key. @type {Value<boolean>} */
    this.locked = new Value(false);
  }

  /** Whether a key is set. */
  get keyed() {
    return sessionStorage.getItem(KEY) !== null;
  }

  /** Use a key until the tab is closed. @param {string} key */
  unlock(key) {
    sessionStorage.setItem(KEY, key);
    this.locked.set(false);
  }

  /** @returns {Promise<any>} */
  presets() {
    return this.json("GET", "/v1/presets");
  }

  /** @returns {Promise<any[]>} */
  async models() {
    return (await this.json("GET", "/v1/models")).data;
  }

  /** The fleet now, and its history since an earlier answer's `at_s`. @param {number} since @returns {Promise<any>} */
  fleet(since) {
    return this.json("GET", `/v1/fleet${since ? `?since=${since}` : ""}`);
  }

  /** Score interactively. @param {object} body @returns {Promise<any>} */
  rerank(body) {
    return this.json("POST", "/v1/rerank", body);
  }

  /**
   * Score interactively, with progress while it waits.
   * @param {object} body
   * @param {(stage: Stage) => void} onStage
   * @param {AbortSignal} signal aborts it: the gateway cancels the request
   * @returns {Promise<any>}
   */
  async rerankStaged(body, onStage, signal) {
    const response = await this.request("POST", "/v1/rerank", body, signal, { Accept: EVENT_STREAM });
    for await (const { event, data } of this.readEvents(response, signal)) {
      if (event === "answer") return data;
      if (event === "error") throw new ApiError(data.status, data.error, about(response.headers));
      onStage({ stage: event, ...data });
    }
    throw this.unreachable(); // the stream ended without either
  }

  /** @param {number} limit @returns {Promise<any[]>} */
  async jobs(limit) {
    return (await this.json("GET", `/v1/jobs?limit=${limit}`)).data;
  }

  /** @param {string} id @returns {Promise<any>} */
  job(id) {
    return this.json("GET", jobPath(id));
  }

  /** @param {object} body @returns {Promise<any>} */
  createJob(body) {
    return this.json("POST", "/v1/jobs", body);
  }

  /** @param {string} id @param {"cancel" | "pause" | "resume" | "retry"} action @returns {Promise<any>} */
  act(id, action) {
    return this.json("POST", `${jobPath(id)}/${action}`);
  }

  /** The first lines of results that have errors. @param {string} id @param {number} limit @returns {Promise<any[]>} */
  async errors(id, limit) {
    const response = await this.request("GET", `${jobPath(id)}/errors?limit=${limit}`);
    const text = await response.text();
    return text
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  }

  /** The address of the results. @param {string} id @param {boolean} partial */
  resultsAddress(id, partial) {
    return `${jobPath(id)}/results${partial ? "?partial=true" : ""}`;
  }

  /**
   * The first files of a job's output, and how many there are.
   * @param {string} id
   * @param {number} limit
   * @returns {Promise<any>}
   */
  files(id, limit) {
    return this.json("GET", `${jobPath(id)}/files?limit=${limit}`);
  }

  /** The address of a file of a job's output. @param {string} id @param {string} name */
  fileAddress(id, name) {
    return `${jobPath(id)}/files/${encodeURIComponent(name)}`;
  }

  /**
   * Upload a file; `onProgress` gets the share that is sent. Fails when it stalls.
   * @param {File} file
   * @param {(share: number) => void} [onProgress]
   * @param {AbortSignal} [signal]
   * @returns {Promise<{id: string, uri: string, bytes: number}>}
   */
  upload(file, onProgress, signal) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest(); // fetch does not report upload progress
      request.open("POST", `/v1/uploads?name=${encodeURIComponent(file.name)}`);
      for (const [name, value] of Object.entries(this.headers())) request.setRequestHeader(name, value);
      request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
      const beganMs = performance.now();
      // a request's timeout counts from its start
      const extendTimeout = () => (request.timeout = performance.now() - beganMs + UPLOAD_TIMEOUT_MS);
      extendTimeout();
      request.upload.onprogress = (event) => {
        extendTimeout();
        if (event.lengthComputable) onProgress?.(event.loaded / event.total);
      };
      request.ontimeout = () => reject(new ApiError(-1, { message: "the upload stalled" }));
      request.onload = () => {
        this.reachable.set(true);
        if (request.status < 300) resolve(JSON.parse(request.responseText));
        else
          reject(
            this.refusal(request.status, request.responseText, { get: (name) => request.getResponseHeader(name) }),
          );
      };
      request.onerror = () => reject(this.unreachable());
      request.onabort = () => reject(new DOMException("aborted", "AbortError"));
      signal?.addEventListener("abort", () => request.abort(), { once: true });
      request.send(file);
    });
  }

  /**
   * A job's status about once a second, until it ends. Throws when the connection is lost.
   * Uses fetch, since an EventSource cannot send a key.
   * @param {string} id
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<{event: string, data: any}>}
   */
  async *events(id, signal) {
    const response = await this.request("GET", `${jobPath(id)}/events`, undefined, signal);
    yield* this.readEvents(response, signal);
  }

  /** The events of a response, as they arrive. @param {Response} response @param {AbortSignal} signal */
  async *readEvents(response, signal) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    while (true) {
      const timeout = setTimeout(() => reader.cancel(), STREAM_TIMEOUT_MS);
      const read = reader.read().finally(() => clearTimeout(timeout));
      const { value, done } = await read.catch((error) => {
        throw signal.aborted ? error : this.unreachable();
      });
      if (done) return;
      const blocks = (rest + value.replaceAll("\r", "")).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = readEvent(block);
        if (event) yield event;
      }
    }
  }

  /** @returns {Promise<any>} */
  async json(method, path, body) {
    const timeout = new AbortController();
    const timer = method === "GET" && setTimeout(() => timeout.abort(), ANSWER_TIMEOUT_MS);
    try {
      const response = await this.request(method, path, body, timeout.signal);
      return await response.json();
    } catch (error) {
      throw timeout.signal.aborted ? this.unreachable() : error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** @returns {Promise<Response>} */
  async request(method, path, body, signal, more = {}) {
    const headers = { ...this.headers(), ...more };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method,
        headers,
        signal,
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw this.unreachable();
    }
    this.reachable.set(true);
    if (response.ok) return response;
    throw this.refusal(response.status, await response.text(), response.headers);
  }

  headers() {
    const key = sessionStorage.getItem(KEY);
    if (key === null || this.locked.now) return {}; // a refused key is not sent again and again
    return { Authorization: `Bearer ${key}` };
  }

  unreachable() {
    this.reachable.set(false);
    return new ApiError(0, { message: "the gateway does not respond" });
  }

  refusal(status, text, headers) {
    const error = readError(text, status);
    if (status === 401 || error.code === "too_many_wrong_keys") this.locked.set(true);
    return new ApiError(status, error, about(headers));
  }
}

/** What the headers of a response tell about an error. @param {{get: (name: string) => string | null}} headers */
function about(headers) {
  return { requestId: headers.get("X-Request-Id") ?? "", retryAfterS: Number(headers.get("Retry-After") ?? 0) };
}

function jobPath(id) {
  return `/v1/jobs/${encodeURIComponent(id)}`;
}

function readError(text, status) {
  try {
    const { error, detail } = JSON.parse(text);
    return error ?? { message: typeof detail === "string" ? detail : `HTTP ${status}` };
  } catch {
    return { message: `HTTP ${status}` };
  }
}

/** One server-sent event; null for a comment. */
function readEvent(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  if (!data.length && event === "message") return null;
  return { event, data: data.length && data[0] ? JSON.parse(data.join("\n")) : null };
}
