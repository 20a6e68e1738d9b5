/** The state of the Rerank tab: query, candidates, settings, runs. Observable data without any elements. */

import { planSize } from "../sizes.js";
import { Value } from "../value.js";

/**
 * What a worker reports about an image.
 * @typedef {object} Facts
 * @property {[number, number]} original
 * @property {[number, number]} used
 * @property {number} cropped share 0..1
 * @property {number} quality 0..1
 * @property {number} tokens
 */

/**
 * @typedef {object} ImageFile an image, its upload, and what is known about it
 * @property {number} id
 * @property {File} file
 * @property {number} width
 * @property {number} height
 * @property {string} hash equal for equal bytes
 * @property {Promise<string>} uploaded resolves to its URI
 * @property {string} uri "" until it is uploaded
 * @property {number} sent share of the upload that is sent, 0..1
 * @property {Map<string, Facts>} facts by `Session.factsKey`
 * @property {string} error why the upload failed, or ""
 * @property {Map<string, Refusal>} refusals by `Session.factsKey`: why there are no facts
 * @property {number} renewedMs when it was last uploaded again because it was gone from the storage; 0: never
 * @property {Value<number>} touched changes with every update of it
 */

/**
 * Why a worker reported no facts about an image.
 * @typedef {object} Refusal
 * @property {ImageFile[] | null} frames of the video it was part of; void once they change
 * @property {string} message "" if no reason is known
 * @property {number} retryMs when to ask again
 */

/**
 * @typedef {object} Video
 * @property {ImageFile[]} frames in order, at least one
 * @property {number | null} fps frame rate; null: the model authors' default
 */

/**
 * @typedef {object} Candidate
 * @property {number} id
 * @property {string} text its caption, if it has an image or is a video
 * @property {ImageFile | null} image
 * @property {Video | null} video
 */

/** @typedef {"text" | "image" | "both" | "video"} QueryKind */

/**
 * @typedef {object} Settings
 * @property {string} preset
 * @property {"crop" | "fit"} mode
 * @property {number} threshold
 * @property {"reject" | "downweight" | "off"} action what happens below the threshold
 * @property {number} temperature
 * @property {number | null} topN
 * @property {boolean} explain
 */

/**
 * @typedef {object} Run
 * @property {number} number from 1
 * @property {Date} at
 * @property {object} body the request as sent
 * @property {any} answer
 * @property {Candidate[]} candidates as they were then
 * @property {Settings} settings
 * @property {string} query its text or the name of its image
 * @property {ImageFile[]} queryImages
 */

/**
 * @typedef {{stage: "idle"} | {stage: "uploading", done: number, total: number}
 *   | {stage: "sent"} | import("../api.js").Stage | {stage: "busy", untilMs: number}
 *   | {stage: "failed", error: import("../api.js").ApiError} | {stage: "done", seconds: number}} Progress
 */

export const QUALITY_THRESHOLD = 0.65;
export const MAX_CROP = 0.15;
const DEFAULT_TARGET = { width: 1024, height: 768 }; // of "general", until the gateway has answered

/** @type {Settings} */
export const DEFAULTS = {
  preset: "general",
  mode: "crop",
  threshold: QUALITY_THRESHOLD,
  action: "reject",
  temperature: 1,
  topN: null,
  explain: true,
};

/** Minimum and maximum of the numeric settings. @type {Record<string, [number, number]>} */
export const RANGES = { threshold: [0, 1], temperature: [0.1, 2] };

/** Everything the tab holds. It survives a change of tab or language. */
export class Session {
  constructor() {
    this.instruction = new Value("");
    /** @type {Value<QueryKind>} */
    this.queryKind = new Value("text");
    this.queryText = new Value("");
    /** @type {Value<ImageFile[]>} */
    this.queryImages = new Value([]);
    /** Frame rate of a video query. @type {Value<number | null>} */
    this.queryFps = new Value(null);
    /** @type {Value<Candidate[]>} */
    this.candidates = new Value([]);
    /** Unreadable files among those added last. @type {Value<File[]>} */
    this.unreadable = new Value([]);
    /** What is wrong with the query's last files, or "". */
    this.queryMessage = new Value("");
    /** Number of images that are still being read before they become candidates. */
    this.reading = new Value(0);
    /** @type {Value<Settings>} */
    this.settings = new Value({ ...DEFAULTS });
    /** @type {Value<Run[]>} */
    this.runs = new Value([]);
    /** Numbers of the run that is shown and of the one it is compared with; 0: none. */
    this.shown = new Value(0);
    this.compared = new Value(0);
    /** Typed lines that are not added yet. */
    this.draft = "";
    /** @type {Value<Progress>} */
    this.progress = new Value({ stage: "idle" });
    /** Changes when new facts about images have arrived. */
    this.examined = new Value(0);
    /** @type {Value<string>} */
    this.view = new Value("list");
    /** @type {any} what the gateway offers: instructions, image presets, profiles */
    this.offers = { instructions: [], image_presets: [], profiles: [], defaults: {} };
    this.lastId = 0;
  }

  nextId() {
    this.lastId += 1;
    return this.lastId;
  }

  /** The images that a query of the present kind uses. @returns {ImageFile[]} */
  get usedQueryImages() {
    const kind = this.queryKind.now;
    if (kind === "text") return [];
    return kind === "video" ? this.queryImages.now : this.queryImages.now.slice(0, 1);
  }

  /** @returns {ImageFile[]} */
  get images() {
    return [...this.usedQueryImages, ...this.candidates.now.flatMap(imagesOf)];
  }

  /** The frames of each video, the query's first. @returns {ImageFile[][]} */
  get videos() {
    const own = this.candidates.now.flatMap(({ video }) => (video ? [video.frames] : []));
    return this.queryKind.now === "video" ? [this.queryImages.now, ...own] : own;
  }

  /** All frames of the video that an image is part of; null for a still image. @param {ImageFile} image */
  framesWith(image) {
    if (this.queryKind.now === "video" && this.queryImages.now.includes(image)) return this.queryImages.now;
    return this.candidates.now.find(({ video }) => video?.frames.includes(image))?.video?.frames ?? null;
  }

  /** Change settings; a preset that is not offered becomes the default. @param {Partial<Settings>} changes */
  configure(changes) {
    const settings = { ...this.settings.now, ...changes };
    const { image_presets: offered } = this.offers;
    if (offered.length && !offered.some(({ name }) => name === settings.preset)) settings.preset = DEFAULTS.preset;
    this.settings.set(settings);
  }

  /** @param {{text?: string, image?: ImageFile, video?: Video}[]} added */
  add(added) {
    const candidates = added.map(({ text = "", image = null, video = null }) => ({
      id: this.nextId(),
      text,
      image,
      video,
    }));
    this.candidates.set([...this.candidates.now, ...candidates]);
  }

  /** @param {number} id */
  remove(id) {
    this.candidates.set(this.candidates.now.filter((candidate) => candidate.id !== id));
  }

  /** Change a candidate, if it still exists. @param {number} id @param {Partial<Candidate>} changes */
  replace(id, changes) {
    this.candidates.set(
      this.candidates.now.map((candidate) => (candidate.id === id ? { ...candidate, ...changes } : candidate)),
    );
  }

  /** What an image's facts depend on. @param {ImageFile} image */
  factsKey(image) {
    const { preset, mode } = this.settings.now;
    return [preset, preset === "reference" ? "" : mode, this.framesWith(image)?.length ?? ""].join("|");
  }

  /** What a worker reported about an image under the present settings. @param {ImageFile} image */
  facts(image) {
    return image.facts.get(this.factsKey(image)) ?? null;
  }

  /** Why there are no facts about an image as it is used now. @param {ImageFile} image @returns {Refusal | null} */
  refusal(image) {
    const refusal = image.refusals.get(this.factsKey(image));
    return refusal?.frames === this.framesWith(image) ? refusal : null;
  }

  /** Why an image cannot be used as it is, or "". @param {ImageFile} image */
  error(image) {
    return image.error || (this.refusal(image)?.message ?? "");
  }

  /** How a worker will crop and resize an image. @param {ImageFile} image */
  plan(image) {
    const { preset, mode } = this.settings.now;
    const offer = this.offers.image_presets.find(({ name }) => name === preset);
    const { width, height } = offer?.width ? offer : DEFAULT_TARGET;
    /** @type {[number, number] | null} */
    const target = preset === "reference" ? null : [width, height];
    return planSize(image.width, image.height, { target, mode, maxCrop: MAX_CROP });
  }

  /** Whether an image's quality is known to be below the threshold. @param {ImageFile} image */
  poor(image) {
    const facts = this.facts(image);
    return facts !== null && facts.quality < this.settings.now.threshold;
  }

  /** Whether the query has such an image; this affects every candidate. */
  get poorQuery() {
    return this.usedQueryImages.some((image) => this.poor(image));
  }

  /** Whether a candidate has such an image. @param {Candidate} candidate */
  poorCandidate(candidate) {
    return imagesOf(candidate).some((image) => this.poor(image));
  }

  /**
   * For each candidate with the same content as an earlier one, by id: that one's position from 1.
   * @returns {Map<number, number>}
   */
  get duplicates() {
    /** @type {Map<string, number>} */
    const firsts = new Map();
    const duplicates = new Map();
    this.candidates.now.forEach((candidate, at) => {
      const key = contentKey(candidate);
      if (!key) return;
      if (firsts.has(key)) duplicates.set(candidate.id, firsts.get(key));
      else firsts.set(key, at + 1);
    });
    return duplicates;
  }

  /** What is missing before a run can start, as a dictionary key; or "". */
  get missing() {
    const kind = this.queryKind.now;
    if (kind !== "text" && !this.queryImages.now.length) return kind === "video" ? "need.frames" : "need.image";
    if ((kind === "text" || kind === "both") && !this.queryText.now.trim()) return "need.query";
    return this.candidates.now.length ? "" : "need.candidates";
  }
}

/** A candidate's image, or its frames. @param {Candidate} candidate @returns {ImageFile[]} */
export function imagesOf({ image, video }) {
  return image ? [image] : (video?.frames ?? []);
}

function contentKey(candidate) {
  const words = candidate.text.trim();
  const hashes = imagesOf(candidate).map(({ hash }) => hash);
  return hashes.length || words ? [...hashes, candidate.video?.fps ?? "", words].join("|") : "";
}
