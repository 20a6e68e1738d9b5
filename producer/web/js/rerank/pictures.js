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
    /** @type {Set<string>} what was asked and not answered, so that it is not asked for ever */
    this.refused = new Set();
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
      if (!later) for (const picture of [...still, ...films.flat()]) this.refused.add(this.question(picture));
      this.examineSoon(AGAIN_MS);
    } finally {
      this.examining = false;
      this.session.examined.change((n) => n + 1);
    }
  }

  asks(picture) {
    return picture.uri && !picture.error && !this.session.facts(picture) && !this.refused.has(this.question(picture));
  }

  question(picture) {
    return `${picture.id}|${this.session.factsKey(picture)}`;
  }

  /** One small request with each picture and each film as a document. */
  async ask(model, still, films) {
    const groups = [...still.map((picture) => [picture]), ...films];
    const keys = groups.map((group) => this.session.factsKey(group[0]));
    const documents = [
      ...still.map(({ uri }) => ({ image: uri })),
      ...films.map((frames) => ({ video: { frames: frames.map(({ uri }) => uri) } })),
    ];
    const image = { ...imageOptions(this.session.settings.now), quality_action: "off" };
    const answer = await this.api.rerank({ model, query: EXAMINED_FOR, documents, image });
    for (const { index, images } of answer.results) {
      groups[index].forEach((picture, at) => {
        if (images?.[at]) picture.facts.set(keys[index], images[at]);
      });
    }
    for (const { index, message } of [...answer.errors, ...answer.rejected]) {
      for (const picture of groups[index] ?? []) {
        picture.error = message;
        this.refused.add(this.question(picture));
      }
    }
    for (const picture of groups.flat()) {
      if (!this.session.facts(picture)) this.refused.add(this.question(picture));
      picture.touched.change((n) => n + 1);
    }
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
