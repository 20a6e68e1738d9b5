/** One run: upload what is missing, send the request, wait while the queue is full. */

import { ApiError } from "../api.js";
import { announce } from "../dom.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { imageOptions } from "./images.js";
import { imagesOf } from "./session.js";

const BUSY_S = 5; // if the gateway names no Retry-After

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./session.js").Run} Run */
/** @typedef {import("./session.js").Candidate} Candidate */

/** Runs the session, and reruns single documents of a run. */
export class Runner {
  /**
   * @param {import("../api.js").Api} api
   * @param {Session} session
   * @param {import("./images.js").Intake} intake
   * @param {() => {id: string, sees: boolean} | null} model the model in use
   */
  constructor(api, session, intake, model) {
    this.api = api;
    this.session = session;
    this.intake = intake;
    this.model = model;
    /** @type {AbortController | null} */
    this.current = null;
    /** Settles when all work started so far is done. @type {Promise<unknown>} */
    this.last = Promise.resolve();
  }

  get running() {
    return this.current !== null;
  }

  /** Cancel the work that is running or waiting. */
  cancel() {
    this.current?.abort();
  }

  /**
   * Run `work` once all earlier work is done. Errors are shown in the session's progress, too.
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} work
   * @returns {Promise<T | undefined>} undefined if it was cancelled
   */
  async enqueue(work) {
    const { progress } = this.session;
    const { signal } = (this.current ??= new AbortController());
    const turn = this.last.then(() => {
      signal.throwIfAborted();
      return work(signal);
    });
    const over = (this.last = turn.catch(() => {}));
    try {
      return await turn;
    } catch (error) {
      if (!signal.aborted) progress.set({ stage: "failed", error: asApiError(error) });
      else progress.set({ stage: "idle" });
      if (!signal.aborted) throw error;
    } finally {
      if (this.last === over) this.current = null;
    }
  }

  /** Run the session, unless something is running. Errors are shown in its progress. */
  async run() {
    if (this.running || this.session.missing) return;
    await this.enqueue((signal) => this.rank(signal)).catch(() => {});
  }

  async rank(signal) {
    const { progress, runs } = this.session;
    await this.upload(signal);
    const candidates = this.session.candidates.now.filter(hasContent).map((candidate) => ({ ...candidate }));
    const queryImages = this.session.usedQueryImages;
    const request = requestBody(this.session, this.model()?.id, candidates);
    const images = [...queryImages, ...candidates.flatMap(imagesOf)];
    const { body, answer } = await this.sendAndRenew(request, images, signal);
    this.session.shown.now = runs.now.length + 1;
    this.session.compared.now = 0;
    runs.set([...runs.now, { ...this.record(body, answer, candidates), queryImages }]);
    progress.set({ stage: "done", seconds: answer.timings?.total_s ?? 0 });
    announce(t("announce.done", { scored: answer.results.length, seconds: format.duration(answer.timings?.total_s) }));
  }

  async upload(signal) {
    const images = this.session.images;
    const pending = images.filter((image) => !image.uri);
    let done = images.length - pending.length;
    for (const image of pending) {
      this.session.progress.set({ stage: "uploading", done, total: images.length });
      try {
        const uploaded = image.error ? this.intake.uploadAgain(image) : image.uploaded;
        image.uri = await unlessAborted(uploaded, signal);
      } catch (error) {
        if (signal.aborted) throw error;
        throw Object.assign(error, { message: `${image.file.name}: ${error.message}` });
      }
      done += 1;
    }
  }

  /**
   * Send a request. If images of it are gone from the storage, upload them again and send it once more.
   * @returns {Promise<{body: object, answer: any}>} body: as it was sent last
   */
  async sendAndRenew(request, images, signal) {
    const body = this.intake.addressed(request);
    const answer = await this.send(body, signal);
    const lost = lostOf(body, answer, images).filter((image) => this.intake.canRenew(image));
    if (!lost.length) return { body, answer };
    this.session.progress.set({ stage: "uploading", done: images.length - lost.length, total: images.length });
    await unlessAborted(Promise.all(lost.map((image) => this.intake.renew(image))), signal);
    const renewed = this.intake.addressed(body);
    return { body: renewed, answer: await this.send(renewed, signal) };
  }

  /**
   * Send the request; while the queue is full, wait as long as the gateway says and send it again. A key
   * that is over its rate is no such case: that may last for hours.
   */
  async send(body, signal) {
    while (true) {
      this.session.progress.set({ stage: "sent" });
      try {
        return await this.api.rerankStaged(body, (stage) => this.session.progress.set(stage), signal);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 429 || error.code === "rate_limited") throw error;
        await this.waitForQueue(error.retryAfterS || BUSY_S, signal);
      }
    }
  }

  async waitForQueue(seconds, signal) {
    const untilMs = Date.now() + seconds * 1000;
    while (Date.now() < untilMs) {
      this.session.progress.set({ stage: "busy", untilMs });
      if (!(await pause(250, signal))) signal.throwIfAborted();
    }
  }

  record(body, answer, candidates) {
    return {
      number: this.session.runs.now.length + 1,
      at: new Date(),
      body,
      answer,
      candidates,
      settings: { ...this.session.settings.now },
      query: queryLabel(this.session),
    };
  }

  /**
   * Score one document of a run again, and merge the outcome into the run's answer as it is by then.
   * Waits for earlier work.
   * @param {Run} run
   * @param {number | null} index null: all documents, since the query caused the failure
   * @param {boolean} anyway whether to ignore the quality
   */
  async again(run, index, anyway) {
    const options = run.body.image && { ...run.body.image, ...(anyway && { quality_action: "off" }) };
    const { top_n, ...one } = { ...run.body, image: options };
    const request = index === null ? { ...one, top_n } : { ...one, documents: [one.documents[index]] };
    const images = [...run.queryImages, ...run.candidates.flatMap(imagesOf)];
    await this.enqueue(async (signal) => {
      const { answer } = await this.sendAndRenew(request, images, signal);
      const marked = { ...answer, results: answer.results.map((result) => ({ ...result, anyway })) };
      const updated = (now) => ({ ...now, answer: index === null ? marked : merged(now.answer, marked, index) });
      this.session.runs.change((runs) => runs.map((now) => (now.number === run.number ? updated(now) : now)));
      this.session.progress.set({ stage: "idle" });
      announce(t(answer.results.length ? "announce.anyway" : "announce.failed"));
    });
  }
}

/**
 * The body of the session's request. All images must be uploaded.
 * @param {Session} session
 * @param {string | undefined} model
 * @param {Candidate[]} candidates
 */
export function requestBody(session, model, candidates) {
  const settings = session.settings.now;
  const body = { query: queryContent(session), documents: candidates.map(documentContent) };
  if (model) body.model = model;
  if (session.instruction.now.trim()) body.instruction = session.instruction.now.trim();
  if (settings.topN !== null) body.top_n = settings.topN;
  if (settings.temperature !== 1) body.temperature = settings.temperature;
  if (settings.explain) body.explain = true;
  if (session.images.length) {
    body.image = { ...imageOptions(settings), quality_threshold: settings.threshold, quality_action: settings.action };
  }
  return body;
}

/** A run's answer, updated with a new answer about the document at `index`. */
function merged(whole, update, index) {
  const others = (entries) => entries.filter((entry) => entry.index !== index);
  const place = (entries) => entries.map((entry) => ({ ...entry, index }));
  return {
    ...whole,
    results: [...others(whole.results), ...place(update.results)].sort((a, b) => b.margin - a.margin),
    rejected: [...others(whole.rejected), ...place(update.rejected)],
    errors: [...others(whole.errors), ...place(update.errors)],
  };
}

/** Images of the query and of the documents that the storage did not have. */
function lostOf(body, answer, images) {
  const missing = answer.errors.filter(({ code }) => code === "not_found");
  if (!missing.length) return [];
  const affected = JSON.stringify([body.query, ...missing.map(({ index }) => body.documents[index])]);
  return images.filter(({ uri }) => uri && affected.includes(JSON.stringify(uri)));
}

function hasContent(candidate) {
  return imagesOf(candidate).length > 0 || candidate.text.trim() !== "";
}

function queryContent(session) {
  const text = session.queryText.now.trim();
  const uris = session.usedQueryImages.map((image) => image.uri);
  switch (session.queryKind.now) {
    case "text":
      return text;
    case "image":
      return { image: uris[0] };
    case "both":
      return { text, image: uris[0] };
    default:
      return { video: videoContent(uris, session.queryFps.now) };
  }
}

function documentContent({ text, image, video }) {
  const words = text.trim();
  if (!image && !video) return words;
  const visual = image
    ? { image: image.uri }
    : {
        video: videoContent(
          video.frames.map(({ uri }) => uri),
          video.fps,
        ),
      };
  return words ? { text: words, ...visual } : visual;
}

function videoContent(frames, fps) {
  return fps === null ? { frames } : { frames, fps };
}

function queryLabel(session) {
  const [image] = session.usedQueryImages;
  const text = session.queryKind.now === "text" || session.queryKind.now === "both" ? session.queryText.now.trim() : "";
  return [image?.file.name, text].filter(Boolean).join(" + ");
}

function asApiError(error) {
  return error instanceof ApiError ? error : new ApiError(-1, { message: String(error?.message ?? error) });
}

/** The promise's value; rejects as soon as the signal is aborted. */
function unlessAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    promise.then(resolve, reject);
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** Resolves to true after the time, to false as soon as the signal is aborted. */
function pause(ms, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve(false);
    const timer = setTimeout(() => resolve(true), ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve(false);
      },
      { once: true },
    );
  });
}
