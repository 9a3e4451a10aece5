// Results of the server's audits: pictures that it made again without the step cache.

import { readInfo } from "./api.js";
import { byId } from "./dom.js";
import { count } from "./words.js";

/** The server audits while it is idle: a moment after a picture. */
const AGAIN_MS = 2000;

let asking = null;

/** Shows the audits of /info. */
export function showAudits(audits) {
  byId("audits").hidden = audits === null;
  byId("audits").textContent = audits === null ? "" : line(audits);
  byId("audits").title = audits === null ? "" : audits.aims.map((aim) => `${aim.aim}: ${found(aim)}`).join("\n");
}

/** Asks the server again, a moment after a picture was made. */
export function refreshAudits() {
  clearTimeout(asking);
  asking = setTimeout(() => readInfo().then((info) => showAudits(info.cache_audits), () => {}), AGAIN_MS);
}

export function line(audits) {
  const share = `${Number((audits.share * 100).toPrecision(2))} %`;
  if (audits.done === 0) return `Audits: ${share} of the pictures made with a cache are made again without it, none so far.`;
  const tightened = audits.tightened_by_db > 0 ? `, plans tightened by ${audits.tightened_by_db.toFixed(1)} dB` : "";
  return `Audits: ${count(audits.done, "picture")} made again without the cache, ${found(audits)}${tightened}.`;
}

function found({ mean, promised_psnr_db: promised }) {
  const promise = promised === null ? "" : ` (${promised.toFixed(1)} promised)`;
  const ssim = mean.ssim === null ? "" : `, SSIM ${mean.ssim.toFixed(3)}`;
  return `${mean.psnr_db.toFixed(1)} dB in the mean${promise}${ssim}`;
}
