import { computed, signal } from "@preact/signals";

export const PAGES = [
  "chat",
  "images",
  "models",
  "rollouts",
  "knowledge",
  "agents",
  "jobs",
  "safety",
  "batches",
  "labelling",
  "ratings",
  "usage",
] as const;
export type PageName = (typeof PAGES)[number];

export interface Route {
  page: PageName;
  /** What follows the page: `["vs_1"]` for `#/knowledge/vs_1`. */
  rest: string[];
}

const hash = signal(location.hash);
addEventListener("hashchange", () => {
  hash.value = location.hash;
});

/** The address shown, as a page and what follows it. An unknown page is the chat. */
export const route = computed<Route>(() => parseRoute(hash.value));

/** Parses the part of an address behind `#`. */
export function parseRoute(text: string): Route {
  const [name, ...rest] = text.replace(/^#?\/?/, "").split("/").filter(Boolean).map(decoded);
  const page = PAGES.find((one) => one === name);
  return page === undefined ? { page: "chat", rest: [] } : { page, rest };
}

/** The address of a page, for links. */
export function hrefOf(page: PageName, ...rest: string[]): string {
  return `#/${[page, ...rest.map(encodeURIComponent)].join("/")}`;
}

/** Goes to a page. With `replace`, Back skips the one before. */
export function go(to: { page: PageName; rest?: string[]; replace?: boolean }): void {
  const href = hrefOf(to.page, ...(to.rest ?? []));
  if (to.replace) {
    history.replaceState(null, "", href);
    hash.value = href;
  } else {
    location.hash = href;
  }
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
