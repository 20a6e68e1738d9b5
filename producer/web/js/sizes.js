/**
 * What the worker will make of a picture, by its own rule: the crop around the centre and the size
 * in multiples of 32 pixels. The worker has the last word; this draws the overlay and fills the
 * card until it has spoken.
 */

const SIDE_PX = 32;
const MIN_PIXELS = 4_096;
const MAX_PIXELS = 1_843_200;
const RATIOS = [
  [4, 3],
  [16, 9],
  [1, 1],
];
const LOSS_WEIGHT = 0.25; // of losing pixels, beside stretching

/**
 * @typedef {object} SizePlan
 * @property {[number, number, number, number]} box left, top, right, bottom in the source
 * @property {[number, number]} used what the model sees
 * @property {number} cropped share of the area that is cut away
 * @property {number} tokens
 */

/**
 * Plan a picture's size.
 * @param {number} width
 * @param {number} height
 * @param {{target: [number, number] | null, mode: string, maxCrop: number}} options
 *   target null: the model authors' own sizes
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

/** The box around the centre with the nearest usual shape, and the share that it cuts away. */
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

/** Multiples of 32 within the target's pixel count, close to the picture's shape. */
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
  const found = [];
  for (const w of neighbours(width)) {
    for (const h of neighbours(height)) {
      const short = Math.min(w, h);
      const long = Math.min(Math.max(w, h), Math.floor(Math.floor(budget / short) / SIDE_PX) * SIDE_PX);
      if (long >= SIDE_PX) found.push(w >= h ? [long, short] : [short, long]);
    }
  }
  return found;
}

function neighbours(side) {
  return [Math.floor, Math.ceil].map((round) => Math.max(SIDE_PX, round(side / SIDE_PX) * SIDE_PX));
}

/** Each side to a multiple of 32, between the authors' least and largest number of pixels. */
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

/** Halves go to the even neighbour, as in Python. */
function roundEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
