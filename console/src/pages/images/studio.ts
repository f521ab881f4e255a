import { signal } from "@preact/signals";
import { api, apiStream, type Call } from "../../api/client";
import { errorOf, isRecord } from "../../api/errors";
import type { Edit, ImageEvent, Images, Picture, Size, Wish } from "./types";
import { bodyOf, editForm, PARTIALS, pngOf, squareIn, variationForm } from "./wish";

/** The images of this session, and the one that is being drawn. They outlast the page, and end with the tab. */

export interface Work {
  prompt: string;
  /** Images that come, and parts of them that have come, of `PARTIALS` + 1 each; a variation has no parts. */
  count: number;
  done: number;
  total: number | undefined;
  /** Address of the newest unfinished image. */
  url: string | null;
}

export const wish = signal<Wish>({ prompt: "", size: "512x512", count: 1, seed: "", quality: "medium" });
export const gallery = signal<readonly Picture[]>([]);
export const work = signal<Work | null>(null);
export const failure = signal<unknown>(null);

let left = new AbortController();
let made = 0;

/** Draws what the form asks for. */
export function draw(asked: Wish): Promise<void> {
  const call = { body: bodyOf(asked) };
  return during(asked.prompt, asked.count, (signal) => stream("/v1/images/generations", { ...call, signal }, "drawn", asked.prompt));
}

/** Changes an image as a text says. */
export function edit(picture: Picture, asked: Edit): Promise<void> {
  return during(asked.prompt, 1, async (signal) => {
    const body = editForm(await squareOf(picture), picture.size, asked);
    await stream("/v1/images/edits", { body, signal }, "edited", asked.prompt);
  });
}

/** Draws an image like another one. */
export function vary(picture: Picture): Promise<void> {
  return during(picture.prompt, 0, async (signal) => {
    const body = variationForm(await squareOf(picture), picture.size);
    const found = await api<Images>("/v1/images/variations", { body, signal });
    for (const one of found.data) add("varied", picture.prompt, one.b64_json, one.seed, found.size, found.drawn_size);
  });
}

/** Ends the drawing; finished images stay. */
export function stop(): void {
  left.abort();
}

export function remove(picture: Picture): void {
  gallery.value = gallery.value.filter((one) => one.id !== picture.id);
  URL.revokeObjectURL(picture.url);
}

export function removeAll(): void {
  for (const one of gallery.value) URL.revokeObjectURL(one.url);
  gallery.value = [];
}

async function during(prompt: string, count: number, run: (signal: AbortSignal) => Promise<void>): Promise<void> {
  if (work.peek()) return;
  const own = (left = new AbortController());
  failure.value = null;
  work.value = { prompt, count, done: 0, total: count === 0 ? undefined : count * (PARTIALS + 1), url: null };
  try {
    await run(own.signal);
  } catch (error) {
    if (!own.signal.aborted) failure.value = error;
  } finally {
    show(null);
    work.value = null;
  }
}

async function stream(path: string, call: Call, kind: Picture["kind"], prompt: string): Promise<void> {
  let finished = 0;
  let parts = 0;
  for await (const { data } of apiStream(path, { ...call, method: "POST" })) {
    const told: unknown = JSON.parse(data);
    if (isRecord(told) && isRecord(told.error)) throw errorOf(told, 0, null);
    const event = told as ImageEvent;
    if (event.type.endsWith(".completed")) {
      add(kind, prompt, event.b64_json, event.seed, event.size, event.drawn_size);
      finished += 1;
      parts = 0;
      show(null);
    } else {
      parts += 1;
      show(URL.createObjectURL(pngOf(event.b64_json)));
    }
    const now = work.peek();
    if (now) work.value = { ...now, done: finished * (PARTIALS + 1) + parts };
  }
}

/** Returns an image without its bars, which would get further ones around them. */
async function squareOf(picture: Picture): Promise<Blob> {
  const { x, y, side } = squareIn(picture.size);
  if (x === 0 && y === 0) return picture.blob;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  canvas.getContext("2d")?.drawImage(await createImageBitmap(picture.blob, x, y, side, side), 0, 0);
  return new Promise((resolve) => canvas.toBlob((made) => resolve(made ?? picture.blob), "image/png"));
}

/** Shows an unfinished image in the place of the one before. */
function show(url: string | null): void {
  const now = work.peek();
  if (!now) return;
  if (now.url) URL.revokeObjectURL(now.url);
  work.value = { ...now, url };
}

function add(kind: Picture["kind"], prompt: string, base64: string, seed: number, size: Size, drawn: string): void {
  const blob = pngOf(base64);
  const picture = { id: ++made, kind, prompt: prompt.trim(), seed, size, drawn, blob, url: URL.createObjectURL(blob) };
  gallery.value = [picture, ...gallery.value];
}
