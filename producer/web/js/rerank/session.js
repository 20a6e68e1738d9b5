/** What the Rerank tab works on: query, candidates, settings, runs. Plain data that can be watched. */

import { planSize } from "../sizes.js";
import { Value } from "../value.js";

/**
 * What the worker found out about a picture.
 * @typedef {object} Facts
 * @property {[number, number]} original
 * @property {[number, number]} used
 * @property {number} cropped share 0..1
 * @property {number} quality 0..1
 * @property {number} tokens
 */

/**
 * @typedef {object} Picture
 * @property {number} id
 * @property {File} file
 * @property {number} width
 * @property {number} height
 * @property {string} hash equal for equal bytes
 * @property {Promise<string>} uploaded its URI
 * @property {string} uri "" until it is uploaded
 * @property {number} sent share 0..1 of the upload
 * @property {Map<string, Facts>} facts by `Session.factsKey`
 * @property {string} error why it could not be uploaded, or ""
 * @property {Map<string, Refusal>} refusals by `Session.factsKey`: why the worker told nothing of it
 * @property {number} renewedMs when it was uploaded anew, as the storage had it no more; 0: never
 * @property {Value<number>} touched changes with every news of it
 */

/**
 * What the worker said instead of facts.
 * @typedef {object} Refusal
 * @property {Picture[] | null} film the frames among which the picture stood: of others nothing is said
 * @property {string} message "" where it said nothing at all
 * @property {number} againMs when it may be asked again
 */

/**
 * @typedef {object} Video
 * @property {Picture[]} frames in order, at least one
 * @property {number | null} fps how many of them stand for a second; null: as the authors have it
 */

/**
 * @typedef {object} Candidate
 * @property {number} id
 * @property {string} text its caption, if it has a picture or is a video
 * @property {Picture | null} picture
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
 * @property {object} body the request as it was sent
 * @property {any} answer
 * @property {Candidate[]} candidates as they were
 * @property {Settings} settings
 * @property {string} query in a few words
 * @property {Picture[]} queryPictures
 */

/**
 * @typedef {{stage: "idle"} | {stage: "uploading", done: number, total: number}
 *   | {stage: "sent"} | import("../api.js").Stage | {stage: "busy", untilMs: number}
 *   | {stage: "failed", error: import("../api.js").ApiError} | {stage: "done", seconds: number}} Progress
 */

export const QUALITY_THRESHOLD = 0.65;
export const MAX_CROP = 0.15;
const USUAL_TARGET = { width: 1024, height: 768 }; // of "general", until the gateway has told

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

/** The least and the most of settings that are numbers. @type {Record<string, [number, number]>} */
export const RANGES = { threshold: [0, 1], temperature: [0.1, 2] };

/** Everything that the tab holds. It outlives a change of tab or language. */
export class Session {
  constructor() {
    this.instruction = new Value("");
    /** @type {Value<QueryKind>} */
    this.queryKind = new Value("text");
    this.queryText = new Value("");
    /** @type {Value<Picture[]>} */
    this.queryPictures = new Value([]);
    /** Of a query of video frames. @type {Value<number | null>} */
    this.queryFps = new Value(null);
    /** @type {Value<Candidate[]>} */
    this.candidates = new Value([]);
    /** Files of the last ones that were brought which cannot be read. @type {Value<File[]>} */
    this.unreadable = new Value([]);
    /** What is wrong with what was last brought as query, or "". */
    this.querySaid = new Value("");
    /** Pictures that were brought and are not among the candidates yet. */
    this.reading = new Value(0);
    /** @type {Value<Settings>} */
    this.settings = new Value({ ...DEFAULTS });
    /** @type {Value<Run[]>} */
    this.runs = new Value([]);
    /** Number of the run that is shown, and of the one beside it; 0: none. */
    this.shown = new Value(0);
    this.beside = new Value(0);
    /** Lines that were typed and not added yet. */
    this.draft = "";
    /** @type {Value<Progress>} */
    this.progress = new Value({ stage: "idle" });
    /** Changes when the worker has told of pictures. */
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

  /** Pictures of the query that its kind uses. @returns {Picture[]} */
  get usedQueryPictures() {
    const kind = this.queryKind.now;
    if (kind === "text") return [];
    return kind === "video" ? this.queryPictures.now : this.queryPictures.now.slice(0, 1);
  }

  /** @returns {Picture[]} */
  get pictures() {
    return [...this.usedQueryPictures, ...this.candidates.now.flatMap(picturesOf)];
  }

  /** The frames of each video, of the query's first. @returns {Picture[][]} */
  get films() {
    const own = this.candidates.now.flatMap(({ video }) => (video ? [video.frames] : []));
    return this.queryKind.now === "video" ? [this.queryPictures.now, ...own] : own;
  }

  /** The frames that a picture stands among; null for a still one. @param {Picture} picture */
  filmOf(picture) {
    if (this.queryKind.now === "video" && this.queryPictures.now.includes(picture)) return this.queryPictures.now;
    return this.candidates.now.find(({ video }) => video?.frames.includes(picture))?.video?.frames ?? null;
  }

  /** Change settings; a preset that is not offered becomes the usual one. @param {Partial<Settings>} changes */
  configure(changes) {
    const settings = { ...this.settings.now, ...changes };
    const { image_presets: offered } = this.offers;
    if (offered.length && !offered.some(({ name }) => name === settings.preset)) settings.preset = DEFAULTS.preset;
    this.settings.set(settings);
  }

  /** @param {{text?: string, picture?: Picture, video?: Video}[]} added */
  add(added) {
    const made = added.map(({ text = "", picture = null, video = null }) => ({
      id: this.nextId(),
      text,
      picture,
      video,
    }));
    this.candidates.set([...this.candidates.now, ...made]);
  }

  /** @param {number} id */
  remove(id) {
    this.candidates.set(this.candidates.now.filter((candidate) => candidate.id !== id));
  }

  /** Change a candidate, where it is still there. @param {number} id @param {Partial<Candidate>} changes */
  replace(id, changes) {
    this.candidates.set(
      this.candidates.now.map((candidate) => (candidate.id === id ? { ...candidate, ...changes } : candidate)),
    );
  }

  /** What a picture's facts depend on. @param {Picture} picture */
  factsKey(picture) {
    const { preset, mode } = this.settings.now;
    return [preset, preset === "reference" ? "" : mode, this.filmOf(picture)?.length ?? ""].join("|");
  }

  /** What the worker said of a picture under the present settings. @param {Picture} picture */
  facts(picture) {
    return picture.facts.get(this.factsKey(picture)) ?? null;
  }

  /** Why the worker told nothing of a picture as it is used now. @param {Picture} picture @returns {Refusal | null} */
  refusal(picture) {
    const found = picture.refusals.get(this.factsKey(picture));
    return found?.film === this.filmOf(picture) ? found : null;
  }

  /** Why a picture cannot be used as it is, or "". @param {Picture} picture */
  error(picture) {
    return picture.error || (this.refusal(picture)?.message ?? "");
  }

  /** What the worker will make of a picture, by its rule. @param {Picture} picture */
  plan(picture) {
    const { preset, mode } = this.settings.now;
    const found = this.offers.image_presets.find((offer) => offer.name === preset);
    const { width, height } = found?.width ? found : USUAL_TARGET;
    /** @type {[number, number] | null} */
    const target = preset === "reference" ? null : [width, height];
    return planSize(picture.width, picture.height, { target, mode, maxCrop: MAX_CROP });
  }

  /** Whether a picture's quality is known to lie below the threshold. @param {Picture} picture */
  poor(picture) {
    const facts = this.facts(picture);
    return facts !== null && facts.quality < this.settings.now.threshold;
  }

  /** Whether the query has such a picture: then no candidate is scored as it would be. */
  get poorQuery() {
    return this.usedQueryPictures.some((picture) => this.poor(picture));
  }

  /** Whether a candidate has such a picture. @param {Candidate} candidate */
  poorCandidate(candidate) {
    return picturesOf(candidate).some((picture) => this.poor(picture));
  }

  /** Candidates with the content of one before them: its position from 1, by id. @returns {Map<number, number>} */
  get duplicates() {
    /** @type {Map<string, number>} */
    const firsts = new Map();
    const found = new Map();
    this.candidates.now.forEach((candidate, at) => {
      const key = contentKey(candidate);
      if (!key) return;
      if (firsts.has(key)) found.set(candidate.id, firsts.get(key));
      else firsts.set(key, at + 1);
    });
    return found;
  }

  /** What is missing before it can run, as a key of the dictionary; or "". */
  get missing() {
    const kind = this.queryKind.now;
    if (kind !== "text" && !this.queryPictures.now.length) return kind === "video" ? "need.frames" : "need.picture";
    if ((kind === "text" || kind === "both") && !this.queryText.now.trim()) return "need.query";
    return this.candidates.now.length ? "" : "need.candidates";
  }
}

/** What is seen of a candidate: its picture, or its frames. @param {Candidate} candidate @returns {Picture[]} */
export function picturesOf({ picture, video }) {
  return picture ? [picture] : (video?.frames ?? []);
}

function contentKey(candidate) {
  const words = candidate.text.trim();
  const seen = picturesOf(candidate).map(({ hash }) => hash);
  return seen.length || words ? [...seen, candidate.video?.fps ?? "", words].join("|") : "";
}
