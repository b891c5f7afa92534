/** Names of a bundle's files: plain ones that stay inside it and mean the same on every system. */

import { BundleError, shown } from "./errors.js";

const LONGEST_PATH = 240; // characters
const DEEPEST = 8; // folders; both are what every system holds
const DEVICES = /^(con|prn|aux|nul|com\p{Nd}|lpt\p{Nd})(\..*)?$/iu; // what Windows takes for a device
const UNPRINTABLE = /[\p{C}\p{Z}]/u;

/** BundleError unless `path` is a relative POSIX path that stays inside the bundle. */
export function checkPath(path) {
  const parts = path.split("/");
  const leaves = parts.some((part) => part === "" || part === "." || part === "..");
  if (leaves || /[\\:]/.test(path) || [...path].length > LONGEST_PATH || parts.length > DEEPEST) {
    throw new BundleError(`path ${shown(path)} leaves the bundle: refused`);
  }
  for (const part of parts) {
    const unprintable = UNPRINTABLE.test(part.replaceAll(" ", ""));
    if (part !== part.trim() || part.endsWith(".") || unprintable || DEVICES.test(part)) {
      throw new BundleError(`path ${shown(path)} is no plain name on every system: refused`);
    }
  }
  return path;
}

/** BundleError for names that are one file where case or Unicode's forms do not count. */
export function checkDistinct(paths) {
  const seen = new Map();
  for (const path of paths) {
    const key = path.normalize("NFC").toUpperCase().toLowerCase().normalize("NFC");
    if (seen.has(key)) {
      throw new BundleError(`${shown(path)} and ${shown(seen.get(key))} are one file on some systems: refused`);
    }
    seen.set(key, path);
  }
}

/** The folder of a path, with its slash; "" at the top. */
export function folderOf(path) {
  return path.slice(0, path.lastIndexOf("/") + 1);
}
