/**
 * The worker's rule for cropping and resizing: the centred crop and the size in multiples of 32
 * pixels. It draws the overlay and fills the card until the worker has reported its facts.
 */

const SIDE_PX = 32;
const MIN_PIXELS = 4_096;
const MAX_PIXELS = 1_843_200;
const RATIOS = [
  [4, 3],
  [16, 9],
  [1, 1],
];
const LOSS_WEIGHT = 0.25; // weight of lost pixels against distortion

/**
 * @typedef {object} SizePlan
 * @property {[number, number, number, number]} box left, top, right, bottom in the source
 * @property {[number, number]} used size that the model gets
 * @property {number} cropped share of the area that is cropped
 * @property {number} tokens
 */

/**
 * Plan an image's crop and size.
 * @param {number} width
 * @param {number} height
 * @param {{target: [number, number] | null, mode: string, maxCrop: number}} options
 *   target null: the model authors' sizes
 * @returns {SizePlan}
 */
export function planSize(width, height, { target, mode, maxCrop }) {
  const whole = /** @type {[number, number, number, number]} */ ([0, 0, width, height]);
  if (target === null) return plan(whole, authorsSize(width, height), 0);
  if (mode === "crop") {
    const { box, cropped } = cropBox(width, height);
    if (cropped <= maxCrop) return plan(box, sizeWithin(box[2] - box[0], box[3] - box[1], target), cropped);
  }
  return plan(whole, sizeWithin(width, height, target), 0);
}

function plan(box, used, cropped) {
  return { box, used, cropped, tokens: (used[0] / SIDE_PX) * (used[1] / SIDE_PX) };
}

/** The centred box with the nearest common aspect ratio, and the share that it crops. */
function cropBox(width, height) {
  const boxes = RATIOS.map((ratio) => inside(width, height, ratio));
  const [across, down] = boxes.reduce((best, box) => (box[0] * box[1] > best[0] * best[1] ? box : best));
  const left = Math.floor((width - across) / 2);
  const top = Math.floor((height - down) / 2);
  return { box: [left, top, left + across, top + down], cropped: 1 - (across * down) / (width * height) };
}

function inside(width, height, ratio) {
  const [across, down] = width >= height ? ratio : [ratio[1], ratio[0]];
  if (width * down > height * across) return [Math.max(1, roundEven((height * across) / down)), height];
  return [width, Math.max(1, roundEven((width * down) / across))];
}

/** Multiples of 32 within the target's pixel count, close to the image's aspect ratio. */
function sizeWithin(width, height, target) {
  const budget = Math.min(roundSide(target[0]) * roundSide(target[1]), MAX_PIXELS);
  const area = Math.min(target[0] * target[1], budget, Math.max(width * height, MIN_PIXELS));
  const scale = Math.sqrt(area / (width * height));
  const cost = ([w, h]) => {
    const wider = Math.log(w / (width * scale));
    const higher = Math.log(h / (height * scale));
    return Math.abs(wider - higher) + LOSS_WEIGHT * Math.abs(wider + higher);
  };
  const sizes = rounded(width * scale, height * scale, budget);
  return sizes.reduce((best, size) => (cost(size) < cost(best) ? size : best));
}

/** @returns {[number, number][]} */
function rounded(width, height, budget) {
  /** @type {[number, number][]} */
  const sizes = [];
  for (const w of neighbours(width)) {
    for (const h of neighbours(height)) {
      const short = Math.min(w, h);
      const long = Math.min(Math.max(w, h), Math.floor(Math.floor(budget / short) / SIDE_PX) * SIDE_PX);
      if (long >= SIDE_PX) sizes.push(w >= h ? [long, short] : [short, long]);
    }
  }
  return sizes;
}

function neighbours(side) {
  return [Math.floor, Math.ceil].map((round) => Math.max(SIDE_PX, round(side / SIDE_PX) * SIDE_PX));
}

/** Each side rounded to a multiple of 32, within the authors' minimum and maximum number of pixels. */
function authorsSize(width, height) {
  const wide = roundSide(width);
  const high = roundSide(height);
  if (wide * high > MAX_PIXELS) {
    const shrink = Math.sqrt((width * height) / MAX_PIXELS);
    return [width, height].map((side) => Math.max(SIDE_PX, Math.floor(side / shrink / SIDE_PX) * SIDE_PX));
  }
  if (wide * high < MIN_PIXELS) {
    const grow = Math.sqrt(MIN_PIXELS / (width * height));
    return [width, height].map((side) => Math.ceil((side * grow) / SIDE_PX) * SIDE_PX);
  }
  return [wide, high];
}

function roundSide(side) {
  return Math.max(SIDE_PX, roundEven(side / SIDE_PX) * SIDE_PX);
}

/** Rounds halves to even, like Python. */
function roundEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
