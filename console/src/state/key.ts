import { signal } from "@preact/signals";

const NAME = "deepwell.key";

/**
 * The API key of this tab. It lives in sessionStorage, goes into the Authorization header and nowhere else: never into
 * an address, a log or the page.
 */
let current = sessionStorage.getItem(NAME) ?? "";

/** Whether this tab has a key. */
export const hasKey = signal(current !== "");

/** Counts the keys of this tab, so that what was refused without one, or with another, is loaded again. */
export const keyRound = signal(0);

/** A question for the key, while one is open: `refused` says that the server did not take the last one. */
export const keyQuestion = signal<{ refused: boolean } | null>(null);

let waiting: ((given: boolean) => void)[] = [];

/** Returns the headers that carry the key. */
export function keyHeaders(): Record<string, string> {
  return current === "" ? {} : { Authorization: `Bearer ${current}` };
}

/** Asks for a key, once for all requests that wait for it. Resolves to false if the user gives none. */
export function askForKey(): Promise<boolean> {
  keyQuestion.value ??= { refused: current !== "" };
  return new Promise((resolve) => waiting.push(resolve));
}

/** Opens the question on the user's own wish. */
export function changeKey(): void {
  keyQuestion.value ??= { refused: false };
}

/** Takes a key, or, if it is empty, forgets the one there was. */
export function setKey(key: string): void {
  current = key.trim();
  if (current === "") sessionStorage.removeItem(NAME);
  else sessionStorage.setItem(NAME, current);
  hasKey.value = current !== "";
  keyRound.value += 1;
  answer(current !== "");
}

/** Closes the question without a key. */
export function declineKey(): void {
  answer(false);
}

function answer(given: boolean): void {
  keyQuestion.value = null;
  const asked = waiting;
  waiting = [];
  for (const resolve of asked) resolve(given);
}
