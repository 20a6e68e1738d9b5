/**
 * Images on the page. An image is loaded when it scrolls near the viewport, a few at a time, and its
 * object URL exists only while it loads, so that hundreds of images cost no more than those on screen.
 */

import { h } from "../dom.js";
import { Semaphore } from "../semaphore.js";

const NEAR = "400px";
const LOADED_AT_A_TIME = 8;

const loads = new Semaphore(LOADED_AT_A_TIME);
/** @type {WeakMap<Element, File>} */
const files = new WeakMap();

const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      loads.run(() => load(/** @type {HTMLImageElement} */ (target)));
    }
  },
  { rootMargin: NEAR },
);

/**
 * An `<img>` of a file, loaded when it scrolls near the viewport.
 * @param {File} file
 * @param {import("../dom.js").Props} props
 */
export function lazyImage(file, props) {
  const image = h("img", { decoding: "async", ...props });
  files.set(image, file);
  near.observe(image);
  return image;
}

/**
 * The first of the images (of a video, its first frame) as a thumbnail; a paragraph sign if there is none.
 * @param {import("./session.js").ImageFile[]} images
 */
export function thumbnail([image]) {
  if (image) return lazyImage(image.file, { class: "thumb", alt: "" });
  return h("span", { class: "thumb text", "aria-hidden": "true" }, "¶");
}

async function load(image) {
  if (!image.isConnected) return; // removed while it waited
  await withUrl(files.get(image), (url) => shown(image, url));
}

/** Resolves once the image has loaded or failed; unreadable files were reported when they were added. */
function shown(image, url) {
  return new Promise((resolve) => {
    image.onload = image.onerror = resolve;
    image.src = url;
  });
}

/**
 * Width and height of an image as displayed, with its orientation applied. Rejects if it cannot be decoded.
 * @param {File} file
 * @returns {Promise<{width: number, height: number}>}
 */
export async function measure(file) {
  return withUrl(file, async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    return { width: image.naturalWidth, height: image.naturalHeight };
  });
}

/**
 * Create an object URL for the duration of `use`.
 * @template T
 * @param {File} file
 * @param {(url: string) => Promise<T>} use
 */
async function withUrl(file, use) {
  const url = URL.createObjectURL(file);
  try {
    return await use(url);
  } finally {
    URL.revokeObjectURL(url);
  }
}
