import { signal } from "@preact/signals";
import { apiResponse } from "../../../api/client";
import { Kept, piecesOf, SampleReader, spokenText } from "./speech";

/** The answer that is read aloud, one at a time. */

const RATE = 24_000; // samples a second of the server's `pcm`
const AHEAD_S = 0.08; // between the first samples and their sound
const kept = new Kept(RATE * 60 * 15); // a quarter of an hour: 86 MB

export interface Playing {
  /** Id of the message. */
  id: string;
  /** Whether there is sound already. */
  heard: boolean;
}

export const playing = signal<Playing | null>(null);
/** What went wrong with the answer that was to be read last. */
export const failure = signal<{ id: string; error: unknown } | null>(null);

let end: (() => void) | null = null;

/** Ends the reading. What has come of the sound is dropped, unless all of it is here. */
export function hush(): void {
  end?.();
  end = null;
  playing.value = null;
}

/** Reads an answer aloud. Returns whether it has anything to say. Call it in a click: browsers want one before a sound. */
export function listen(id: string, markdown: string): boolean {
  hush();
  failure.value = null;
  const text = spokenText(markdown);
  if (text === "") return false;
  const context = new AudioContext({ sampleRate: RATE });
  const left = new AbortController();
  const stop = () => {
    left.abort();
    void context.close();
  };
  end = stop;
  playing.value = { id, heard: false };
  const finished = () => {
    if (end === stop) hush();
  };
  play(id, text, context, left.signal).then(finished, (error: unknown) => {
    if (end !== stop) return; // the user has gone on
    hush();
    failure.value = { id, error };
  });
  return true;
}

/** Plays a text, from memory or as the server says it. Resolves at the end of the sound. */
async function play(id: string, text: string, context: AudioContext, signal: AbortSignal): Promise<void> {
  let at = 0;
  let last: AudioBufferSourceNode | null = null;
  const enqueue = (samples: Float32Array<ArrayBuffer>) => {
    if (samples.length === 0 || signal.aborted) return;
    const buffer = context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(samples, 0);
    last = context.createBufferSource();
    last.buffer = buffer;
    last.connect(context.destination);
    at = Math.max(at, context.currentTime + AHEAD_S);
    last.start(at);
    at += buffer.duration;
    if (!playing.peek()?.heard) playing.value = { id, heard: true };
  };
  const known = kept.get(text);
  if (known) {
    known.forEach(enqueue);
  } else {
    const sound: Float32Array<ArrayBuffer>[] = [];
    for (const piece of piecesOf(text)) {
      for await (const samples of spoken(piece, signal)) {
        sound.push(samples);
        enqueue(samples);
      }
    }
    if (!signal.aborted) kept.add(text, sound);
  }
  const node = last as AudioBufferSourceNode | null;
  if (node && !signal.aborted && context.currentTime < at) await new Promise((resolve) => (node.onended = resolve));
}

/** Yields the samples of a text as the server makes them. */
async function* spoken(input: string, signal: AbortSignal): AsyncGenerator<Float32Array<ArrayBuffer>> {
  const body = { model: "tts-1", voice: "alloy", input, response_format: "pcm" };
  const response = await apiResponse("/v1/audio/speech", { body, signal });
  const source = response.body?.getReader();
  const samples = new SampleReader();
  while (source) {
    const { done, value } = await source.read();
    if (done) return;
    yield samples.push(value);
  }
}
