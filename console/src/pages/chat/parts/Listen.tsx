import { useEffect } from "preact/hooks";
import { Button } from "../../../ui/Button";
import { Remedy } from "../../../ui/remedy/Remedy";
import { toast } from "../../../ui/Toast";
import { failure, hush, listen, playing } from "../model/player";
import type { Message } from "../model/types";
import { say } from "../say";

/** The button that has an answer read aloud, and ends it. */
export function Listen({ message }: { message: Message }) {
  const now = playing.value?.id === message.id ? playing.value : null;
  const begin = () => {
    if (!listen(message.id, message.content)) toast(say("listen.nothing"));
  };
  return (
    <>
      <Button
        kind="quiet"
        small
        icon={now ? "stop" : "listen"}
        label={say(now ? "listen.stop" : "listen.start")}
        pressed={now !== null}
        onClick={now ? hush : begin}
      />
      {now && !now.heard && (
        <span class="muted small" role="status">
          {say("listen.waiting")}
        </span>
      )}
    </>
  );
}

/** Why an answer could not be read aloud. */
export function ListenFailure({ message }: { message: Message }) {
  if (failure.value?.id !== message.id) return null;
  return <Remedy error={failure.value.error} onClose={() => (failure.value = null)} />;
}

/** Ends the reading when the page is left, or another conversation is opened. */
export function useHush(conversation: string | undefined): void {
  useEffect(() => hush, [conversation]);
}
