/** Pictures and recordings of a message: which ones the server reads, how many, and as what they are sent. */
import type { Attachment, Medium, MediumType, TextFile } from "./types";

type Json = Record<string, unknown>;

/** How many pictures and recordings one request may have, as the server counts them. */
export const MOST_PARTS = 32;
/** The largest picture or recording that the server takes, in bytes. */
export const MOST_BYTES = 25 << 20;

/** Names that browsers and systems give to kinds of files, and the endings of files without one. */
const TYPES: Readonly<Record<string, MediumType>> = {
  "image/png": "image/png",
  "image/jpeg": "image/jpeg",
  "image/jpg": "image/jpeg",
  "image/webp": "image/webp",
  "image/gif": "image/gif",
  "audio/wav": "audio/wav",
  "audio/x-wav": "audio/wav",
  "audio/wave": "audio/wav",
  "audio/vnd.wave": "audio/wav",
  "audio/mpeg": "audio/mpeg",
  "audio/mp3": "audio/mpeg",
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  webp: "image/webp",
  gif: "image/gif",
  wav: "audio/wav",
  mp3: "audio/mpeg",
};

/** Returns as what a file is attached; null: it is no picture and no recording, or one that the server does not read here. */
export function mediumTypeOf(file: { name: string; type: string }): MediumType | null {
  const said = file.type.split(";", 1)[0]?.trim().toLowerCase() ?? "";
  const key = said !== "" ? said : (/\.([^.]+)$/.exec(file.name)?.[1] ?? "").toLowerCase();
  return Object.hasOwn(TYPES, key) ? (TYPES[key] ?? null) : null;
}

/** Whether a file is a picture, sound or film of another kind than those that are read. A drawing in SVG is text. */
export function isOtherMedium(file: { name: string; type: string }): boolean {
  return /^(image|audio|video)\/(?!svg)/.test(file.type) && mediumTypeOf(file) === null;
}

export function isMedium(one: Attachment): one is Medium {
  return "data" in one;
}

export function isPicture(one: Medium): boolean {
  return one.type.startsWith("image/");
}

/** Returns the pictures and recordings among attachments. */
export function mediaOf(attachments: readonly Attachment[] = []): Medium[] {
  return attachments.filter(isMedium);
}

/** The address under which a picture is shown, and sent. */
export function dataUrl(one: Medium): string {
  return `data:${one.type};base64,${one.data}`;
}

/** Returns the bytes behind a text in base64. */
export function sizeOf(one: Medium): number {
  const padding = /=*$/.exec(one.data)?.[0].length ?? 0;
  return Math.floor((one.data.length * 3) / 4) - padding;
}

/** A part of a chat message. */
export function chatPart(one: Medium): Json {
  return isPicture(one) ? { type: "image_url", image_url: { url: dataUrl(one) } } : soundPart(one);
}

/** A part of a message of the Responses API. */
export function inputPart(one: Medium): Json {
  return isPicture(one) ? { type: "input_image", image_url: dataUrl(one) } : soundPart(one);
}

/** A part of a message of the Responses API that is a text file. */
export function filePart(one: TextFile): Json {
  const bytes = Array.from(new TextEncoder().encode(one.text), (byte) => String.fromCharCode(byte));
  return { type: "input_file", filename: one.name, file_data: `data:text/plain;base64,${btoa(bytes.join(""))}` };
}

function soundPart(one: Medium): Json {
  return { type: "input_audio", input_audio: { data: one.data, format: one.type === "audio/wav" ? "wav" : "mp3" } };
}

/** Returns a file in base64. */
export function readBase64(file: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
