/** The files of a finished job: results, parts, manifest, errors. */

import { announce, fill, h, icon, offerFile } from "../dom.js";
import * as format from "../format.js";
import { counted, t } from "../i18n.js";

const SHOWN = 24;

/** @typedef {import("../api.js").Api} Api */

/**
 * A link that downloads a file. If a key is set, which a link cannot send, a button instead: it
 * streams to disk if the browser lets pages write files, and otherwise buffers in memory.
 * @param {Api} api
 * @param {{address: string, file: string, label: string, props?: import("../dom.js").Props}} options
 */
export function downloadLink(api, { address, file, label, props = {} }) {
  if (!api.keyed) return h("a", { ...props, href: address, download: file }, icon("download"), label);
  const save = () => saveFile(api, address, file).catch((error) => announce(error.message));
  return h("button", { ...props, type: "button", onclick: save }, icon("download"), label);
}

async function saveFile(api, address, file) {
  const handle = await window.showSaveFilePicker?.({ suggestedName: file });
  const response = await api.request("GET", address);
  if (handle) await response.body.pipeTo(await handle.createWritable());
  else offerFile(file, response.headers.get("Content-Type") ?? "", await response.blob());
}

/** The panel with a job's files; hidden while there are none. */
export class Downloads {
  /** @param {Api} api @param {string} id the job's */
  constructor(api, id) {
    this.api = api;
    this.id = id;
    this.element = h("section", {
      class: "panel downloads",
      id: "downloads",
      hidden: true,
      "aria-labelledby": "downloads-label",
    });
  }

  /** Fetch the list of files and show it. */
  async show() {
    const { data, count } = await this.api.files(this.id, SHOWN).catch(() => ({ data: [], count: 0 }));
    this.element.hidden = data.length === 0;
    fill(
      this.element,
      h("h2", { class: "panel-title", id: "downloads-label" }, t("downloads")),
      h(
        "ul",
        { class: "files" },
        data.map((file) => this.item(file)),
      ),
      count > data.length && h("p", { class: "hint" }, t("downloads.more", { n: format.number(count - data.length) })),
    );
  }

  item({ name, rows }) {
    const about = [t(`downloads.${kindOf(name)}`), rows !== null && counted("downloads.rows", rows)];
    return h(
      "li",
      {},
      downloadLink(this.api, {
        address: this.api.fileAddress(this.id, name),
        file: name,
        label: name,
        props: { class: "button", "data-file": name },
      }),
      h("span", { class: "hint" }, about.filter(Boolean).join(" · ")),
    );
  }
}

function kindOf(name) {
  if (name.endsWith(".parquet")) return "parquet";
  return name.startsWith("part-") ? "jsonl" : name.split(".")[0];
}
