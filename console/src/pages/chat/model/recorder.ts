import { api } from "../../../api/client";
import { ApiError } from "../../../api/errors";
import { kindOf, nameOf, problemOf, silence, type Problem } from "./recording";

const PATH = "/v1/audio/transcriptions";

/** The sound as it is: what browsers do to calls against noise and echo costs words, and nothing plays while one records. */
const SOUND: MediaTrackConstraints = { channelCount: 1, echoCancellation: false, noiseSuppression: false };

/** The microphone cannot be used; `reason` is the text that says why. */
export class NoMicrophone extends Error {
  constructor(readonly reason: Problem | "voice.insecure" | "voice.old") {
    super(reason);
  }
}

/** A recording from the microphone, which is under way. */
export class Recorder {
  readonly #stream: MediaStream;
  readonly #recorder: MediaRecorder;
  readonly #parts: Blob[] = [];

  private constructor(stream: MediaStream) {
    const mimeType = kindOf((kind) => MediaRecorder.isTypeSupported(kind));
    this.#stream = stream;
    this.#recorder = new MediaRecorder(stream, { audioBitsPerSecond: 64_000, ...(mimeType === "" ? {} : { mimeType }) });
    this.#recorder.ondataavailable = (event) => this.#parts.push(event.data);
    this.#recorder.start();
  }

  /** Asks for the microphone and begins. @throws NoMicrophone */
  static async begin(): Promise<Recorder> {
    const devices = navigator.mediaDevices as MediaDevices | undefined; // absent where the page is not secure
    if (!devices) throw new NoMicrophone(isSecureContext ? "voice.old" : "voice.insecure");
    if (!("MediaRecorder" in globalThis)) throw new NoMicrophone("voice.old");
    try {
      return new Recorder(await devices.getUserMedia({ audio: SOUND }));
    } catch (error) {
      const problem = error instanceof DOMException ? problemOf(error.name) : null;
      throw problem === null ? error : new NoMicrophone(problem);
    }
  }

  /** Ends the recording and gives the microphone back. */
  async finish(): Promise<Blob> {
    if (this.#recorder.state !== "inactive") {
      await new Promise((resolve) => {
        this.#recorder.onstop = resolve;
        this.#recorder.stop();
      });
    }
    this.cancel();
    return new Blob(this.#parts, { type: this.#recorder.mimeType });
  }

  /** Gives the microphone back. */
  cancel(): void {
    for (const track of this.#stream.getTracks()) track.stop();
  }
}

/** Returns what is said in a recording. */
export async function transcribed(recording: Blob, signal: AbortSignal): Promise<string> {
  const form = new FormData();
  form.append("model", "whisper-1");
  form.append("file", recording, recording.type === "audio/wav" ? "silence.wav" : nameOf(recording.type));
  return (await api<{ text: string }>(PATH, { body: form, signal })).text;
}

let warm = false;

/** Has the server load its model, so that it is ready once the user has spoken. @throws ApiError if there is none. */
export async function prepared(signal: AbortSignal): Promise<void> {
  if (warm) return;
  try {
    await transcribed(silence(), signal);
    warm = true;
  } catch (error) {
    // Whatever else is wrong with silence tells nothing about what the user says.
    if (error instanceof ApiError && (error.status === 401 || error.status === 403 || error.status === 404 || error.status >= 500)) throw error;
  }
}
