import type { Edit, Picture, Size, Wish } from "./types";

/** Requests for images, and what the page needs to know about their answers. */

/** Unfinished images that a stream shows on the way to each. */
export const PARTIALS = 3;
/** The largest seed that leaves room for nine more; see the API's `seed`. */
export const MAX_SEED = Number.MAX_SAFE_INTEGER - 10;

/** Returns a seed as a number; undefined: a random one; null: the text is none. */
export function seedOf(text: string): number | undefined | null {
  const plain = text.trim();
  if (plain === "") return undefined;
  const seed = /^\d{1,16}$/.test(plain) ? Number(plain) : Number.NaN;
  return seed <= MAX_SEED ? seed : null;
}

/** Returns the body of a request for new images. */
export function bodyOf(wish: Wish): Record<string, unknown> {
  const seed = seedOf(wish.seed);
  return {
    prompt: wish.prompt.trim(),
    n: wish.count,
    size: wish.size,
    quality: wish.quality,
    ...(typeof seed === "number" ? { seed } : {}),
    stream: true,
    partial_images: PARTIALS,
  };
}

/** Returns the square of an image that the model drew: what is beside it in a wide or a high one are bars. */
export function squareIn(size: Size): { x: number; y: number; side: number } {
  const [width = 0, height = 0] = size.split("x").map(Number);
  const side = Math.min(width, height);
  return { x: (width - side) / 2, y: (height - side) / 2, side };
}

/** Returns the form of an edit of an image's square; the mask is of the same size. A mask says what is painted anew; without one `strength` says how much is given up. */
export function editForm(square: Blob, size: Size, edit: Edit): FormData {
  const form = new FormData();
  form.append("image", square, "image.png");
  if (edit.mask) form.append("mask", edit.mask, "mask.png");
  else form.append("strength", String(edit.strength));
  form.append("prompt", edit.prompt.trim());
  form.append("size", size);
  form.append("stream", "true");
  form.append("partial_images", String(PARTIALS));
  return form;
}

/** Returns the form of a variation of an image's square. */
export function variationForm(square: Blob, size: Size): FormData {
  const form = new FormData();
  form.append("image", square, "image.png");
  form.append("size", size);
  return form;
}

/** Returns the bytes of a text in base64, as a PNG file. */
export function pngOf(base64: string): Blob {
  return new Blob([Uint8Array.from(atob(base64), (one) => one.charCodeAt(0))], { type: "image/png" });
}

/** Returns a name for a download: the first words of the prompt, and the seed that draws it again. */
export function fileName(picture: Pick<Picture, "prompt" | "seed">): string {
  const words = picture.prompt
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "");
  return `${[...words].slice(0, 40).join("").replace(/-+$/, "") || "image"}-${picture.seed}.png`;
}

/** Returns the place in an image of a point on the screen, where the image is shown in `frame`. */
export function placeIn(
  point: { x: number; y: number },
  frame: { left: number; top: number; width: number; height: number },
  image: { width: number; height: number },
): { x: number; y: number } {
  return {
    x: ((point.x - frame.left) / frame.width) * image.width,
    y: ((point.y - frame.top) / frame.height) * image.height,
  };
}
