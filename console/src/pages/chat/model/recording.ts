/** Parts of a spoken message that need no microphone: formats, errors, and how the text joins what is written. */

const KINDS = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4", "audio/webm"] as const;

/** Returns the first kind of recording that the browser makes and the server reads, or "" for the browser's own. */
export function kindOf(supported: (kind: string) => boolean): string {
  return KINDS.find(supported) ?? "";
}

/** Returns the name of a recording, whose ending says its format. */
export function nameOf(kind: string): string {
  const format = /^audio\/(webm|ogg|mp4)/.exec(kind)?.[1] ?? "webm";
  return `message.${format}`;
}

export type Problem = "voice.refused" | "voice.none" | "voice.taken";

/** Returns what to say where the browser does not open the microphone, by the name of its error. */
export function problemOf(name: string): Problem | null {
  if (name === "NotAllowedError" || name === "SecurityError") return "voice.refused";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "voice.none";
  return name === "NotReadableError" || name === "AbortError" ? "voice.taken" : null;
}

/** Returns a length of time as a clock shows it: 0:07, 12:30. */
export function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Returns a text with what was said behind it. Between two Chinese characters stands no space. */
export function joined(written: string, said: string): string {
  const text = said.trim();
  if (text === "" || written === "" || /\s$/.test(written)) return written + text;
  const wide = /[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]/;
  return wide.test(written.at(-1) ?? "") && wide.test(text[0] ?? "") ? written + text : `${written} ${text}`;
}

const RATE = 16_000; // samples a second
const HEADER = 44; // bytes

/** Returns a WAV file of silence. The model of the server is loaded by it, while the user still speaks. */
export function silence(seconds = 0.5): Blob {
  const bytes = Math.round(RATE * seconds) * 2;
  const view = new DataView(new ArrayBuffer(HEADER + bytes));
  const word = (at: number, text: string) => [...text].forEach((one, place) => view.setUint8(at + place, one.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, HEADER - 8 + bytes, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // one channel
  view.setUint32(24, RATE, true);
  view.setUint32(28, RATE * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  word(36, "data");
  view.setUint32(40, bytes, true);
  return new Blob([view.buffer], { type: "audio/wav" });
}
