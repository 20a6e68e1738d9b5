/** One run: upload what is not there yet, send the request, wait where the queue is full. */

import { ApiError } from "../api.js";
import { announce } from "../dom.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { imageOptions } from "./pictures.js";
import { picturesOf } from "./session.js";

const BUSY_S = 5; // where the gateway does not say how long

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./session.js").Run} Run */
/** @typedef {import("./session.js").Candidate} Candidate */

/** Runs the session, and single documents of a run again. */
export class Runner {
  /**
   * @param {import("../api.js").Api} api
   * @param {Session} session
   * @param {import("./pictures.js").Intake} intake
   * @param {() => {id: string, sees: boolean} | null} model the one in use
   */
  constructor(api, session, intake, model) {
    this.api = api;
    this.session = session;
    this.intake = intake;
    this.model = model;
    /** @type {AbortController | null} */
    this.current = null;
    /** Settles when all that was begun is over. @type {Promise<unknown>} */
    this.last = Promise.resolve();
  }

  get running() {
    return this.current !== null;
  }

  /** Stop what is in hand and what waits for its turn. */
  cancel() {
    this.current?.abort();
  }

  /**
   * Do `work` once all that was begun before is over. Errors end up in the session's progress too.
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} work
   * @returns {Promise<T | undefined>} nothing where it was cancelled
   */
  async inTurn(work) {
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

  /** Run what the session holds, where nothing else is in hand. Errors end up in its progress. */
  async run() {
    if (this.running || this.session.missing) return;
    await this.inTurn((signal) => this.rank(signal)).catch(() => {});
  }

  async rank(signal) {
    const { progress, runs } = this.session;
    await this.upload(signal);
    const candidates = this.session.candidates.now.filter(isSomething).map((candidate) => ({ ...candidate }));
    const queryPictures = this.session.usedQueryPictures;
    const asked = requestBody(this.session, this.model()?.id, candidates);
    const pictures = [...queryPictures, ...candidates.flatMap(picturesOf)];
    const { body, answer } = await this.ask(asked, pictures, signal);
    this.session.shown.now = runs.now.length + 1;
    this.session.beside.now = 0;
    runs.set([...runs.now, { ...this.record(body, answer, candidates), queryPictures }]);
    progress.set({ stage: "done", seconds: answer.timings?.total_s ?? 0 });
    announce(t("announce.done", { scored: answer.results.length, seconds: format.duration(answer.timings?.total_s) }));
  }

  async upload(signal) {
    const pictures = this.session.pictures;
    const pending = pictures.filter((picture) => !picture.uri);
    let done = pictures.length - pending.length;
    for (const picture of pending) {
      this.session.progress.set({ stage: "uploading", done, total: pictures.length });
      try {
        const uploaded = picture.error ? this.intake.uploadAgain(picture) : picture.uploaded;
        picture.uri = await unlessAborted(uploaded, signal);
      } catch (error) {
        if (signal.aborted) throw error;
        throw Object.assign(error, { message: `${picture.file.name}: ${error.message}` });
      }
      done += 1;
    }
  }

  /**
   * Send a request. Pictures of it that the storage has no more are uploaded anew, and it is sent again.
   * @returns {Promise<{body: object, answer: any}>} as it was sent last
   */
  async ask(request, pictures, signal) {
    const body = this.intake.addressed(request);
    const answer = await this.send(body, signal);
    const lost = lostOf(body, answer, pictures).filter((picture) => this.intake.canRenew(picture));
    if (!lost.length) return { body, answer };
    this.session.progress.set({ stage: "uploading", done: pictures.length - lost.length, total: pictures.length });
    await unlessAborted(Promise.all(lost.map((picture) => this.intake.renew(picture))), signal);
    const renewed = this.intake.addressed(body);
    return { body: renewed, answer: await this.send(renewed, signal) };
  }

  /** Send the request; where the queue is full wait as long as told and send it again. */
  async send(body, signal) {
    while (true) {
      this.session.progress.set({ stage: "sent" });
      try {
        return await this.api.rerankStaged(body, (stage) => this.session.progress.set(stage), signal);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 429) throw error;
        await this.waitOutBusy(error.retryAfterS || BUSY_S, signal);
      }
    }
  }

  async waitOutBusy(seconds, signal) {
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
   * Score one document of a run again, and put what comes of it into the run's answer, as that is
   * by then. Waits for what is in hand.
   * @param {Run} run
   * @param {number | null} index null: all of it, since it failed for its query
   * @param {boolean} anyway whether quality is left out of account
   */
  async again(run, index, anyway) {
    const image = run.body.image && { ...run.body.image, ...(anyway && { quality_action: "off" }) };
    const { top_n, ...one } = { ...run.body, image };
    const request = index === null ? { ...one, top_n } : { ...one, documents: [one.documents[index]] };
    const pictures = [...run.queryPictures, ...run.candidates.flatMap(picturesOf)];
    await this.inTurn(async (signal) => {
      const { answer } = await this.ask(request, pictures, signal);
      const marked = { ...answer, results: answer.results.map((result) => ({ ...result, anyway })) };
      const put = (now) => ({ ...now, answer: index === null ? marked : merged(now.answer, marked, index) });
      this.session.runs.change((runs) => runs.map((now) => (now.number === run.number ? put(now) : now)));
      this.session.progress.set({ stage: "idle" });
      announce(t(answer.results.length ? "announce.anyway" : "announce.failed"));
    });
  }
}

/**
 * The request of a session, as the gateway takes it. Pictures must be uploaded.
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
  if (session.pictures.length) {
    body.image = { ...imageOptions(settings), quality_threshold: settings.threshold, quality_action: settings.action };
  }
  return body;
}

/** A run's answer with a new one about the document at `index`. */
function merged(whole, about, index) {
  const others = (entries) => entries.filter((entry) => entry.index !== index);
  const place = (entries) => entries.map((entry) => ({ ...entry, index }));
  return {
    ...whole,
    results: [...others(whole.results), ...place(about.results)].sort((a, b) => b.margin - a.margin),
    rejected: [...others(whole.rejected), ...place(about.rejected)],
    errors: [...others(whole.errors), ...place(about.errors)],
  };
}

/** Pictures of the documents that were not found, and of the query they were asked with. */
function lostOf(body, answer, pictures) {
  const missing = answer.errors.filter(({ code }) => code === "not_found");
  if (!missing.length) return [];
  const asked = JSON.stringify([body.query, ...missing.map(({ index }) => body.documents[index])]);
  return pictures.filter(({ uri }) => uri && asked.includes(JSON.stringify(uri)));
}

function isSomething(candidate) {
  return picturesOf(candidate).length > 0 || candidate.text.trim() !== "";
}

function queryContent(session) {
  const text = session.queryText.now.trim();
  const uris = session.usedQueryPictures.map((picture) => picture.uri);
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

function documentContent({ text, picture, video }) {
  const words = text.trim();
  if (!picture && !video) return words;
  const seen = picture
    ? { image: picture.uri }
    : {
        video: videoContent(
          video.frames.map(({ uri }) => uri),
          video.fps,
        ),
      };
  return words ? { text: words, ...seen } : seen;
}

function videoContent(frames, fps) {
  return fps === null ? { frames } : { frames, fps };
}

function queryLabel(session) {
  const [picture] = session.usedQueryPictures;
  const text = session.queryKind.now === "text" || session.queryKind.now === "both" ? session.queryText.now.trim() : "";
  return [picture?.file.name, text].filter(Boolean).join(" + ");
}

function asApiError(error) {
  return error instanceof ApiError ? error : new ApiError(-1, { message: String(error?.message ?? error) });
}

/** What the promise comes to; rejects as soon as the signal is aborted. */
function unlessAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    promise.then(resolve, reject);
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** Resolves to true after a while, to false as soon as the signal is aborted. */
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
