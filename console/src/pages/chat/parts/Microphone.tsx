import { useEffect, useRef, useState } from "preact/hooks";
import { Button, CopyButton } from "../../../ui/Button";
import { Remedy } from "../../../ui/remedy/Remedy";
import { hush } from "../model/player";
import { NoMicrophone, prepared, Recorder, transcribed } from "../model/recorder";
import { clock } from "../model/recording";
import { say } from "../say";

const MULTILINGUAL = "deepwell pull whisper-base";
const MOST_S = 600; // of one recording, which then ends by itself

type State =
  | { name: "idle"; dropped?: boolean }
  | { name: "asking" | "working" }
  | { name: "recording"; since: number }
  | { name: "failed"; error: unknown; recording?: Blob };

/** A spoken message: it is recorded here, and written down by the server. */
export interface Voice {
  state: State;
  begin: () => void;
  finish: () => void;
  cancel: () => void;
  retry: (() => void) | undefined;
  /** Says to screen readers what goes on. */
  told: string;
}

/** Records from the microphone. `onText` takes what was said, `onSilent` learns that there were no words. */
export function useVoice(onText: (text: string) => void, onSilent: () => void): Voice {
  const [state, setState] = useState<State>({ name: "idle" });
  const [told, setTold] = useState("");
  const latest = useRef({ onText, onSilent });
  latest.current = { onText, onSilent };
  const left = useRef(new AbortController());
  const recorder = useRef<Recorder | null>(null);

  const drop = () => {
    left.current.abort();
    recorder.current?.cancel();
    recorder.current = null;
  };
  useEffect(() => drop, []);

  const failed = (error: unknown, recording?: Blob) => {
    drop();
    const known = error instanceof NoMicrophone ? new Error(say(error.reason)) : error;
    setState({ name: "failed", error: known, recording });
    setTold("");
  };
  const cancel = () => {
    drop();
    setState({ name: "idle", dropped: true });
    setTold("");
  };
  const begin = async () => {
    drop();
    hush(); // the microphone would hear it
    const own = (left.current = new AbortController());
    setState({ name: "asking" });
    setTold(say("voice.asking"));
    prepared(own.signal).catch((error: unknown) => {
      if (!own.signal.aborted) failed(error);
    });
    try {
      const begun = await Recorder.begin();
      if (own.signal.aborted) {
        begun.cancel();
        return;
      }
      recorder.current = begun;
      setState({ name: "recording", since: Date.now() });
      setTold(say("voice.recording"));
    } catch (error) {
      if (!own.signal.aborted) failed(error);
    }
  };
  const write = async (recording: Blob, own: AbortController) => {
    setState({ name: "working" });
    setTold(say("voice.working"));
    try {
      const text = (await transcribed(recording, own.signal)).trim();
      if (own.signal.aborted) return;
      setState({ name: "idle" });
      setTold(text === "" ? "" : say("voice.done", { text }));
      if (text === "") latest.current.onSilent();
      else latest.current.onText(text);
    } catch (error) {
      if (!own.signal.aborted) failed(error, recording);
    }
  };
  const finish = async () => {
    const made = recorder.current;
    const own = left.current;
    recorder.current = null;
    if (made) await write(await made.finish(), own);
  };
  const recording = state.name === "failed" ? state.recording : undefined;
  const retry = recording && (() => void write(recording, (left.current = new AbortController())));
  return { state, begin: () => void begin(), finish: () => void finish(), cancel, retry, told };
}

/** The button that begins and ends a recording, with its length beside it. */
export function Microphone({ voice, disabled }: { voice: Voice; disabled: boolean }) {
  const { state } = voice;
  const escape = (event: KeyboardEvent) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    voice.cancel();
  };
  return (
    <>
      <div class="unseen" role="status">
        {voice.told}
      </div>
      {state.name === "recording" ? (
        <span class="voice" onKeyDown={escape}>
          <Button kind="quiet" icon="trash" label={say("voice.cancel")} onClick={voice.cancel} />
          <Length since={state.since} onMost={voice.finish} />
          <Button class="voice-finish" icon="check" label={say("voice.finish")} onClick={voice.finish} focused />
        </span>
      ) : state.name === "asking" || state.name === "working" ? (
        <span class="voice" onKeyDown={escape}>
          <span class="muted small" aria-hidden="true">
            {say(`voice.${state.name}`)}
          </span>
          <Button kind="quiet" icon="close" label={say("voice.cancel")} onClick={voice.cancel} focused />
        </span>
      ) : (
        <Button
          kind="quiet"
          icon="microphone"
          label={say("voice.record")}
          disabled={disabled}
          onClick={voice.begin}
          focused={state.name === "idle" && state.dropped}
        />
      )}
    </>
  );
}

/** Says that the microphone hears English alone, and what brings a model that hears Chinese. */
export function EnglishAlone() {
  return (
    <p class="voice-english muted small" role="note">
      {say("voice.english")} <code>{MULTILINGUAL}</code>
      <CopyButton text={MULTILINGUAL} />
    </p>
  );
}

/** What went wrong with a spoken message. The recording is still here, and is sent again on the user's wish. */
export function VoiceFailure({ voice }: { voice: Voice }) {
  if (voice.state.name !== "failed") return null;
  return (
    <div class="voice-failure">
      <Remedy error={voice.state.error} onRetry={voice.retry} onClose={voice.cancel} />
    </div>
  );
}

/** The length of a recording, which grows. */
function Length({ since, onMost }: { since: number; onMost: () => void }) {
  const [seconds, setSeconds] = useState(0);
  const latest = useRef(onMost);
  latest.current = onMost;
  useEffect(() => {
    const timer = setInterval(() => {
      const passed = (Date.now() - since) / 1000;
      setSeconds(passed);
      if (passed >= MOST_S) latest.current();
    }, 250);
    return () => clearInterval(timer);
  }, [since]);
  return (
    <span class="voice-length">
      <span class="voice-dot" aria-hidden="true" />
      <span class="unseen">{say("voice.recording")} </span>
      <time>{clock(seconds)}</time>
    </span>
  );
}
