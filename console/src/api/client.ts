import { language, t } from "../i18n";
import { askForKey, keyHeaders } from "../state/key";
import { ApiError, errorOf } from "./errors";
import { events, type ServerEvent } from "./sse";
import type { Page } from "./types";

export interface Call {
  method?: "GET" | "POST" | "DELETE";
  /** Sent as JSON; FormData goes as it is. */
  body?: unknown;
  query?: Record<string, string | number | boolean | undefined>;
  signal?: AbortSignal;
  /** Sees the answer before its body is read, for its headers. */
  onResponse?: (response: Response) => void;
}

/** Calls the server and returns the body of its answer. Asks for a key when the server wants one. */
export async function api<T>(path: string, call: Call = {}): Promise<T> {
  const response = await send(path, call);
  const text = await response.text();
  try {
    return (text === "" ? null : JSON.parse(text)) as T;
  } catch {
    throw new ApiError(t("error.shape"), response.status, null, response.headers.get("x-request-id"));
  }
}

/** Calls the server and returns the bytes of its answer, for a download. */
export async function apiBlob(path: string, call: Call = {}): Promise<Blob> {
  return (await send(path, call)).blob();
}

/** Calls the server and returns its answer, whose body is read as it comes. */
export function apiResponse(path: string, call: Call = {}): Promise<Response> {
  return send(path, call);
}

/** Calls the server and yields the events of its answer as they come. Leaving the loop ends the request. */
export async function* apiStream(path: string, call: Call): AsyncGenerator<ServerEvent> {
  const left = new AbortController();
  const signal = call.signal ? AbortSignal.any([call.signal, left.signal]) : left.signal;
  try {
    const response = await send(path, { ...call, signal });
    call.onResponse?.(response);
    if (response.body !== null) yield* events(response.body);
  } finally {
    left.abort();
  }
}

/** Yields the items of a list, page after page, at most `most`. */
export async function* apiList<T extends { id: string }>(path: string, most: number, call: Call = {}): AsyncGenerator<T> {
  let after: string | undefined;
  for (let left = most; left > 0; ) {
    const query = { limit: Math.min(left, 100), ...call.query, after };
    const page: Page<T> = await api<Page<T>>(path, { ...call, query });
    yield* page.data;
    left -= page.data.length;
    after = page.data.at(-1)?.id;
    if (!page.has_more || after === undefined) return;
  }
}

async function send(path: string, call: Call): Promise<Response> {
  for (;;) {
    const response = await once(path, call);
    if (response.ok) return response;
    const requestId = response.headers.get("x-request-id");
    const error = errorOf(await response.json().catch(() => null), response.status, requestId);
    if (response.status !== 401 || !(await askForKey())) throw error;
  }
}

async function once(path: string, call: Call): Promise<Response> {
  const headers: Record<string, string> = { ...keyHeaders(), "Accept-Language": language.value };
  let body: BodyInit | undefined;
  if (call.body instanceof FormData) {
    body = call.body;
  } else if (call.body !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(call.body);
  }
  const given = Object.entries(call.query ?? {}).filter(([, value]) => value !== undefined);
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  const method = call.method ?? (body === undefined ? "GET" : "POST");
  try {
    return await fetch(query === "" ? path : `${path}?${query}`, {
      method,
      headers,
      body,
      signal: call.signal,
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (call.signal?.aborted) throw error;
    throw new ApiError(t("error.offline"), 0, null, null, t("error.offline.fix"));
  }
}
