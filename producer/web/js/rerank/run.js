/** One run: upload what is not there yet, send the request, wait where the queue is full. */

import { ApiError } from "../api.js";
import { announce } from "../dom.js";
import * as format from "../format.js";
import { t } from "../i18n.js";
import { imageOptions } from "./pictures.js";

const LOOK_MS = 600;
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
  }

  get running() {
    return this.current !== null;
  }

  cancel() {
    this.current?.abort();
  }

  /** Run what the session holds. Errors end up in its progress. */
  async run() {
    if (this.running || this.session.missing) return;
    const stop = (this.current = new AbortController());
    const { progress, runs } = this.session;
    try {
      await this.upload(stop.signal);
      const candidates = this.session.candidates.now.filter(isSomething).map((candidate) => ({ ...candidate }));
      const body = requestBody(this.session, this.model()?.id, candidates);
      const answer = await this.send(body, stop.signal);
      runs.set([...runs.now, this.record(body, answer, candidates)]);
      progress.set({ stage: "done", seconds: answer.timings?.total_s ?? 0 });
      announce(
        t("announce.done", { scored: answer.results.length, seconds: format.duration(answer.timings?.total_s) }),
      );
    } catch (error) {
      if (stop.signal.aborted) progress.set({ stage: "idle" });
      else progress.set({ stage: "failed", error: asApiError(error) });
    } finally {
      this.current = null;
    }
  }

  async upload(signal) {
    const pictures = this.session.pictures;
    const pending = pictures.filter((picture) => !picture.uri);
    let done = pictures.length - pending.length;
    for (const picture of pending) {
      this.session.progress.set({ stage: "uploading", done, total: pictures.length });
      try {
        picture.uri = await (picture.error ? this.intake.uploadAgain(picture) : picture.uploaded);
      } catch (error) {
        throw Object.assign(error, { message: `${picture.file.name}: ${error.message}` });
      }
      signal.throwIfAborted();
      done += 1;
    }
  }

  /** Send the request; where the queue is full wait as long as told and send it again. */
  async send(body, signal) {
    while (true) {
      const watching = new AbortController();
      this.watchQueue(body.model, AbortSignal.any([signal, watching.signal]));
      try {
        return await this.api.rerank(body, signal);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 429) throw error;
        watching.abort();
        await this.waitOutBusy(error.retryAfterS || BUSY_S, signal);
      } finally {
        watching.abort();
      }
    }
  }

  /** Tell queued from scoring by what waits in the model's queue. */
  async watchQueue(model, signal) {
    this.session.progress.set({ stage: "queued", waiting: 0 });
    while (await pause(LOOK_MS, signal)) {
      const models = await this.api.models().catch(() => []);
      const waiting = models.find(({ id }) => id === model)?.stats?.queue_absolute ?? 0;
      if (signal.aborted) return;
      this.session.progress.set(waiting > 1 ? { stage: "queued", waiting } : { stage: "scoring" });
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
   * Score one document of a run again, with its quality left out of account, and put what comes of
   * it into the run's answer.
   * @param {Run} run
   * @param {number} index
   */
  async again(run, index) {
    const { top_n, ...body } = run.body;
    const image = body.image && { ...body.image, quality_action: "off" };
    const answer = await this.send(
      { ...body, image, documents: [body.documents[index]] },
      new AbortController().signal,
    ).finally(() => this.session.progress.set({ stage: "idle" }));
    const place = (entries, more) => entries.map((entry) => ({ ...entry, index, ...more }));
    const others = (entries) => entries.filter((entry) => entry.index !== index);
    const merged = {
      ...run.answer,
      results: [...others(run.answer.results), ...place(answer.results, { anyway: true })].sort(
        (a, b) => b.margin - a.margin,
      ),
      rejected: [...others(run.answer.rejected), ...place(answer.rejected, {})],
      errors: [...others(run.answer.errors), ...place(answer.errors, {})],
    };
    this.session.runs.change((runs) => runs.map((other) => (other === run ? { ...run, answer: merged } : other)));
    announce(t(answer.results.length ? "announce.anyway" : "announce.failed"));
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

function isSomething({ text, picture }) {
  return picture !== null || text.trim() !== "";
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
      return { video: { frames: uris } };
  }
}

function documentContent({ text, picture }) {
  const words = text.trim();
  if (!picture) return words;
  return words ? { text: words, image: picture.uri } : { image: picture.uri };
}

function queryLabel(session) {
  const [picture] = session.usedQueryPictures;
  const text = session.queryKind.now === "text" || session.queryKind.now === "both" ? session.queryText.now.trim() : "";
  return [picture?.file.name, text].filter(Boolean).join(" + ");
}

function asApiError(error) {
  return error instanceof ApiError ? error : new ApiError(-1, { message: String(error?.message ?? error) });
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
