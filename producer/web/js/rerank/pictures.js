/** From a file to a picture that the worker knows: size, hash, upload, and what the model will see. */

import { ApiError } from "../api.js";
import { t } from "../i18n.js";
import { Turns } from "../turns.js";
import { Value } from "../value.js";
import { measure } from "./thumbnail.js";

const READ_AT_A_TIME = 3;
const UPLOADS_AT_A_TIME = 4;
const EXAMINED_AT_A_TIME = 16;
const FILMS_AT_A_TIME = 2;
const HASHED_BYTES = 1 << 18; // at once: the page stays awake in between
const GATHER_MS = 150;
const AGAIN_MS = 4_000;
const REFUSED_MS = 30_000; // what may pass by itself is asked about again after so long
const RENEWED_MS = 60_000; // what is gone again so soon after it was uploaded anew is an error
const EXAMINED_FOR = "picture"; // its score is of no interest: only the facts of the pictures are taken

/** @typedef {import("./session.js").Picture} Picture */
/** @typedef {import("./session.js").Session} Session */

/** Reads, uploads and examines pictures in the background. */
export class Intake {
  /**
   * @param {import("../api.js").Api} api
   * @param {Session} session
   * @param {() => {id: string, sees: boolean, state: string} | null} model the one in use
   */
  constructor(api, session, model) {
    this.api = api;
    this.session = session;
    this.model = model;
    this.reading = new Turns(READ_AT_A_TIME);
    this.uploading = new Turns(UPLOADS_AT_A_TIME);
    this.examining = false;
    this.timer = 0;
    /** New addresses of pictures that were uploaded anew, by the old ones. @type {Map<string, string>} */
    this.moved = new Map();
    const always = new AbortController().signal;
    session.settings.listen(() => this.examineSoon(), always);
    session.queryKind.listen(() => this.examineSoon(), always);
    session.queryPictures.listen(() => this.examineSoon(), always);
    session.candidates.listen(() => this.examineSoon(), always);
  }

  /**
   * Take a picture in, when its turn comes. Rejects when the browser cannot read it.
   * @param {File} file
   * @returns {Promise<Picture>}
   */
  async take(file) {
    const [size, hash] = await this.reading.take(() => Promise.all([sizeOf(file), hashOf(file)]));
    /** @type {Picture} */
    const picture = {
      id: this.session.nextId(),
      file,
      hash,
      ...size,
      uri: "",
      sent: 0,
      facts: new Map(),
      refusals: new Map(),
      renewedMs: 0,
      error: "",
      touched: new Value(0),
      uploaded: Promise.resolve(""),
    };
    const known = this.session.pictures.find((other) => other.hash === hash && !other.error);
    this.follow(picture, known ? known.uploaded : this.upload(picture));
    return picture;
  }

  /** Note what comes of a picture's upload. @param {Picture} picture @param {Promise<string>} uploaded */
  follow(picture, uploaded) {
    picture.uploaded = uploaded;
    uploaded
      .then(
        (uri) => {
          picture.uri = uri;
          this.examineSoon();
        },
        (error) => {
          picture.error = error.message;
        },
      )
      .finally(() => picture.touched.change((n) => n + 1));
  }

  /** Try a failed upload again. @param {Picture} picture */
  uploadAgain(picture) {
    picture.error = "";
    this.follow(picture, this.upload(picture));
    return picture.uploaded;
  }

  /** Whether a picture that the storage has no more may be uploaded anew. @param {Picture} picture */
  canRenew(picture) {
    return Date.now() - picture.renewedMs > RENEWED_MS;
  }

  /** Upload a picture anew that the storage has no more. @param {Picture} picture */
  renew(picture) {
    const lost = picture.uri;
    Object.assign(picture, { uri: "", sent: 0, renewedMs: Date.now() });
    const uploaded = this.uploadAgain(picture);
    uploaded.then(
      (uri) => this.moved.set(lost, uri),
      () => {}, // the picture says why
    );
    return uploaded;
  }

  /** A request with the present addresses of its pictures. @param {object} body */
  addressed(body) {
    const present = (_, value) => {
      while (this.moved.has(value)) value = this.moved.get(value);
      return value;
    };
    return JSON.parse(JSON.stringify(body), present);
  }

  upload(picture) {
    return this.uploading.take(async () => {
      const { uri } = await this.api.upload(picture.file, (share) => {
        picture.sent = share;
        picture.touched.change((n) => n + 1);
      });
      return uri;
    });
  }

  /** Ask the worker about pictures that it has not told of yet, in a moment. @param {number} [delayMs] */
  examineSoon(delayMs = GATHER_MS) {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.examine(), delayMs);
  }

  async examine() {
    const model = this.model();
    if (this.examining || !model?.sees || model.state === "loading") return;
    const unknown = this.session.pictures.filter((picture) => this.asks(picture));
    const still = unknown.filter((picture) => !this.session.filmOf(picture)).slice(0, EXAMINED_AT_A_TIME);
    const films = this.session.films
      .filter((frames) => frames.some((frame) => unknown.includes(frame)) && frames.every((frame) => frame.uri))
      .slice(0, FILMS_AT_A_TIME);
    if (!still.length && !films.length) return;
    this.examining = true;
    try {
      await this.ask(model.id, still, films);
      this.examineSoon(0);
    } catch (error) {
      const later = error instanceof ApiError && [0, 401, 429, 503].includes(error.status);
      if (!later) for (const picture of [...still, ...films.flat()]) this.refuse(picture, this.use(picture), "");
      this.examineSoon(AGAIN_MS);
    } finally {
      this.examining = false;
      this.session.examined.change((n) => n + 1);
    }
  }

  asks(picture) {
    if (!picture.uri || this.session.facts(picture)) return false;
    const refusal = this.session.refusal(picture);
    return !refusal || Date.now() > refusal.againMs;
  }

  /** As what a picture is asked about. */
  use(picture) {
    return { key: this.session.factsKey(picture), film: this.session.filmOf(picture) };
  }

  refuse(picture, { key, film }, message, againMs = Infinity) {
    picture.refusals.set(key, { film, message, againMs });
  }

  /** One small request with each picture and each film as a document. */
  async ask(model, still, films) {
    const groups = [...still.map((picture) => [picture]), ...films];
    const uses = groups.map((group) => this.use(group[0]));
    const documents = [
      ...still.map(({ uri }) => ({ image: uri })),
      ...films.map((frames) => ({ video: { frames: frames.map(({ uri }) => uri) } })),
    ];
    const image = { ...imageOptions(this.session.settings.now), quality_action: "off" };
    const answer = await this.api.rerank({ model, query: EXAMINED_FOR, documents, image });
    for (const { index, images } of answer.results) {
      groups[index].forEach((picture, at) => {
        if (images?.[at]) picture.facts.set(uses[index].key, images[at]);
      });
    }
    const failed = new Map([...answer.errors, ...answer.rejected].map((entry) => [entry.index, entry]));
    groups.forEach((group, index) => {
      for (const picture of group) {
        if (!picture.facts.has(uses[index].key)) this.tellFailure(picture, uses[index], failed.get(index));
        picture.touched.change((n) => n + 1);
      }
    });
  }

  /** Note why the worker told nothing of a picture; one that the storage has no more is uploaded anew. */
  tellFailure(picture, use, { code, message, retryable } = { code: "", message: "", retryable: false }) {
    if (code === "not_found" && this.canRenew(picture)) this.renew(picture).catch(() => {});
    else this.refuse(picture, use, message, retryable ? Date.now() + REFUSED_MS : Infinity);
  }
}

/** The options of pictures as the gateway takes them. @param {import("./session.js").Settings} settings */
export function imageOptions(settings) {
  const own = settings.preset === "reference" ? {} : { resize_mode: settings.mode };
  return { preset: settings.preset, ...own };
}

async function sizeOf(file) {
  return measure(file).catch(() => {
    throw new Error(t("picture.unreadable"));
  });
}

/** Two 32-bit FNV-1a hashes and the length: tells duplicates apart, and needs no https as SubtleCrypto does. */
async function hashOf(file) {
  let one = 0x811c9dc5;
  let two = 0x01000193;
  for (let at = 0; at < file.size; at += HASHED_BYTES) {
    for (const byte of new Uint8Array(await file.slice(at, at + HASHED_BYTES).arrayBuffer())) {
      one = Math.imul(one ^ byte, 0x01000193);
      two = Math.imul(two ^ byte, 0x85ebca6b);
    }
  }
  return `${file.size}-${one >>> 0}-${two >>> 0}`;
}

/** Whether the page takes this file for a picture. @param {File} file */
export function isPicture(file) {
  return file.type.startsWith("image/") && file.type !== "image/svg+xml";
}
