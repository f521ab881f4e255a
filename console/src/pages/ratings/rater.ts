const KEY = "deepwell.rater";

/** The name under which this tab rates; empty: none yet. */
export function rememberedRater(): string {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function rememberRater(name: string): void {
  try {
    sessionStorage.setItem(KEY, name);
  } catch {
    // Without storage the name is asked for again.
  }
}

/** A typed name as the server takes it. */
export function raterOf(typed: string): string {
  return typed.replace(/[\u0000-\u001f\u007f]/g, " ").trim().slice(0, 64);
}
