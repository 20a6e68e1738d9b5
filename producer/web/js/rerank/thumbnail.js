/**
 * Pictures on the page. An image is loaded once it comes near the window, a few at a time, and its
 * object URL lives only while it is loaded: hundreds of pictures cost what is seen of them.
 */

import { h } from "../dom.js";
import { Turns } from "../turns.js";

const NEAR = "400px";
const LOADED_AT_A_TIME = 8;

const turns = new Turns(LOADED_AT_A_TIME);
/** @type {WeakMap<Element, File>} */
const files = new WeakMap();

const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      turns.take(() => load(/** @type {HTMLImageElement} */ (target)));
    }
  },
  { rootMargin: NEAR },
);

/**
 * An image of a file, loaded when it is about to be seen.
 * @param {File} file
 * @param {import("../dom.js").Props} props
 */
export function imageOf(file, props) {
  const image = h("img", { decoding: "async", ...props });
  files.set(image, file);
  near.observe(image);
  return image;
}

/**
 * A picture or the first frame, small; where there is none the sign of text.
 * @param {import("./session.js").Picture[]} pictures
 */
export function thumbnail([picture]) {
  if (picture) return imageOf(picture.file, { class: "thumb", alt: "" });
  return h("span", { class: "thumb text", "aria-hidden": "true" }, "¶");
}

async function load(image) {
  if (!image.isConnected) return; // it was taken away before its turn came
  await withUrl(files.get(image), (url) => shown(image, url));
}

/** Resolves once the image has loaded or failed; that it cannot be read was said when it was taken in. */
function shown(image, url) {
  return new Promise((resolve) => {
    image.onload = image.onerror = resolve;
    image.src = url;
  });
}

/**
 * Width and height of a picture as they are shown, with the orientation applied. Rejects when it cannot be read.
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
 * Lend an object URL of a file for as long as `use` takes.
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
