/** From a file to an image that a worker can read: size, hash, upload, and the worker's facts about it. */

import { ApiError } from "../api.js";
import { t } from "../i18n.js";
import { Semaphore } from "../semaphore.js";
import { Value } from "../value.js";
import { measure } from "./thumbnail.js";

const CONCURRENT_READS = 3;
const CONCURRENT_UPLOADS = 4;
const IMAGES_PER_REQUEST = 16;
const VIDEOS_PER_REQUEST = 2;
const HASHED_BYTES = 1 << 18; // per step, so that the page stays responsive
const DEBOUNCE_MS = 150;
const RETRY_MS = 4_000;
const REFUSED_MS = 30_000; // delay before a retryable failure is tried again
const RENEWED_MS = 60_000; // an upload that is gone this soon after it was repeated counts as an error
const PLACEHOLDER_QUERY = "image"; // only the facts of the images are used, not the scores

/** @typedef {import("./session.js").ImageFile} ImageFile */
/** @typedef {import("./session.js").Session} Session */

/** Reads, uploads and examines images in the background. */
export class Intake {
  /**
   * @param {import("../api.js").Api} api
   * @param {Session} session
   * @param {() => {id: string, sees: boolean, state: string} | null} model the model in use
   */
  constructor(api, session, model) {
    this.api = api;
    this.session = session;
    this.model = model;
    this.reading = new Semaphore(CONCURRENT_READS);
    this.uploading = new Semaphore(CONCURRENT_UPLOADS);
    this.examining = false;
    this.timer = 0;
    /** New addresses of images that were uploaded again, by their old ones. @type {Map<string, string>} */
    this.moved = new Map();
    const always = new AbortController().signal;
    session.settings.listen(() => this.examineSoon(), always);
    session.queryKind.listen(() => this.examineSoon(), always);
    session.queryImages.listen(() => this.examineSoon(), always);
    session.candidates.listen(() => this.examineSoon(), always);
  }

  /**
   * Read an image and start its upload. Rejects if the browser cannot decode it.
   * @param {File} file
   * @returns {Promise<ImageFile>}
   */
  async add(file) {
    const [size, hash] = await this.reading.run(() => Promise.all([sizeOf(file), hashOf(file)]));
    /** @type {ImageFile} */
    const image = {
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
    const duplicate = this.session.images.find((other) => other.hash === hash && !other.error);
    this.follow(image, duplicate ? duplicate.uploaded : this.upload(image));
    return image;
  }

  /** Record the outcome of an image's upload. @param {ImageFile} image @param {Promise<string>} uploaded */
  follow(image, uploaded) {
    image.uploaded = uploaded;
    uploaded
      .then(
        (uri) => {
          image.uri = uri;
          this.examineSoon();
        },
        (error) => {
          image.error = error.message;
        },
      )
      .finally(() => image.touched.change((n) => n + 1));
  }

  /** Retry a failed upload. @param {ImageFile} image */
  uploadAgain(image) {
    image.error = "";
    this.follow(image, this.upload(image));
    return image.uploaded;
  }

  /** Whether an image that is gone from the storage may be uploaded again. @param {ImageFile} image */
  canRenew(image) {
    return Date.now() - image.renewedMs > RENEWED_MS;
  }

  /** Upload an image again that is gone from the storage. @param {ImageFile} image */
  renew(image) {
    const lost = image.uri;
    Object.assign(image, { uri: "", sent: 0, renewedMs: Date.now() });
    const uploaded = this.uploadAgain(image);
    uploaded.then(
      (uri) => this.moved.set(lost, uri),
      () => {}, // `follow` records why
    );
    return uploaded;
  }

  /** A request with the current addresses of its images. @param {object} body */
  addressed(body) {
    const current = (_, value) => {
      while (this.moved.has(value)) value = this.moved.get(value);
      return value;
    };
    return JSON.parse(JSON.stringify(body), current);
  }

  upload(image) {
    return this.uploading.run(async () => {
      const { uri } = await this.api.upload(image.file, (share) => {
        image.sent = share;
        image.touched.change((n) => n + 1);
      });
      return uri;
    });
  }

  /** Ask a worker for missing facts about images, after a short delay. @param {number} [delayMs] */
  examineSoon(delayMs = DEBOUNCE_MS) {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.examine(), delayMs);
  }

  async examine() {
    const model = this.model();
    if (this.examining || !model?.sees || model.state === "loading") return;
    const unknown = this.session.images.filter((image) => this.needsFacts(image));
    const stills = unknown.filter((image) => !this.session.framesWith(image)).slice(0, IMAGES_PER_REQUEST);
    const videos = this.session.videos
      .filter((frames) => frames.some((frame) => unknown.includes(frame)) && frames.every((frame) => frame.uri))
      .slice(0, VIDEOS_PER_REQUEST);
    if (!stills.length && !videos.length) return;
    this.examining = true;
    try {
      await this.requestFacts(model.id, stills, videos);
      this.examineSoon(0);
    } catch (error) {
      const temporary = error instanceof ApiError && [0, 401, 429, 503].includes(error.status);
      if (!temporary) for (const image of [...stills, ...videos.flat()]) this.refuse(image, this.use(image), "");
      this.examineSoon(RETRY_MS);
    } finally {
      this.examining = false;
      this.session.examined.change((n) => n + 1);
    }
  }

  needsFacts(image) {
    if (!image.uri || this.session.facts(image)) return false;
    const refusal = this.session.refusal(image);
    return !refusal || Date.now() > refusal.retryMs;
  }

  /** How an image is used now: under which settings, and as a frame of which video. */
  use(image) {
    return { key: this.session.factsKey(image), frames: this.session.framesWith(image) };
  }

  refuse(image, { key, frames }, message, retryMs = Infinity) {
    image.refusals.set(key, { frames, message, retryMs });
  }

  /** Send one small request with each still image and each video as a document, and record the facts. */
  async requestFacts(model, stills, videos) {
    const groups = [...stills.map((image) => [image]), ...videos];
    const uses = groups.map((group) => this.use(group[0]));
    const documents = [
      ...stills.map(({ uri }) => ({ image: uri })),
      ...videos.map((frames) => ({ video: { frames: frames.map(({ uri }) => uri) } })),
    ];
    const options = { ...imageOptions(this.session.settings.now), quality_action: "off" };
    const answer = await this.api.rerank({ model, query: PLACEHOLDER_QUERY, documents, image: options });
    for (const { index, images } of answer.results) {
      groups[index].forEach((image, at) => {
        if (images?.[at]) image.facts.set(uses[index].key, images[at]);
      });
    }
    const failed = new Map([...answer.errors, ...answer.rejected].map((entry) => [entry.index, entry]));
    groups.forEach((group, index) => {
      for (const image of group) {
        if (!image.facts.has(uses[index].key)) this.recordFailure(image, uses[index], failed.get(index));
        image.touched.change((n) => n + 1);
      }
    });
  }

  /** Record why there are no facts about an image; one that is gone from the storage is uploaded again. */
  recordFailure(image, use, { code, message, retryable } = { code: "", message: "", retryable: false }) {
    if (code === "not_found" && this.canRenew(image)) this.renew(image).catch(() => {});
    else this.refuse(image, use, message, retryable ? Date.now() + REFUSED_MS : Infinity);
  }
}

/** The image options of a request. @param {import("./session.js").Settings} settings */
export function imageOptions(settings) {
  const mode = settings.preset === "reference" ? {} : { resize_mode: settings.mode };
  return { preset: settings.preset, ...mode };
}

async function sizeOf(file) {
  return measure(file).catch(() => {
    throw new Error(t("image.unreadable"));
  });
}

/** Two 32-bit FNV-1a hashes and the length: enough to find duplicates, and unlike SubtleCrypto needs no https. */
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

/** Whether the page treats a file as an image. @param {File} file */
export function isImage(file) {
  return file.type.startsWith("image/") && file.type !== "image/svg+xml";
}
