import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Button } from "../../../ui/Button";
import { toast } from "../../../ui/Toast";
import { joined } from "../model/recording";
import { mediaOf } from "../model/media";
import { mediaSent, problems } from "../model/request";
import * as session from "../model/session";
import type { Attachment, Message } from "../model/types";
import { say } from "../say";
import { Enclosed, readAttachment } from "./Attached";
import { EnglishAlone, Microphone, useVoice, VoiceFailure } from "./Microphone";

/** Drafts by conversation, so that looking at another one loses nothing. */
const drafts = new Map<string, string>();

interface ComposerProps {
  onSend: (content: string, attachments: Attachment[]) => void;
  disabled: boolean;
  /** Whether the microphone does not hear the language of the interface. */
  foreign: boolean;
}

/** Where the next message is written, and the answer stopped. */
export function Composer({ onSend, disabled, foreign }: ComposerProps) {
  const conversation = session.current.value?.id ?? "";
  const [text, setText] = useState(drafts.get(conversation) ?? "");
  const files = useSignal<Attachment[]>([]);
  const [over, setOver] = useState(false);
  const [told, setTold] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  const busy = session.writing() !== null;

  useEffect(() => {
    setText(drafts.get(conversation) ?? "");
    if (matchMedia("(min-width: 800px)").matches) area.current?.focus();
  }, [conversation]);

  useLayoutEffect(() => {
    const box = area.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight * 0.4)}px`;
  }, [text]);

  const write = (value: string) => {
    drafts.set(conversation, value);
    setText(value);
  };
  const voice = useVoice(
    (said) => {
      write(joined(area.current?.value ?? "", said));
      area.current?.focus();
    },
    () => toast(say("voice.silent"), "error"),
  );
  const wrong = Object.keys(problems(session.settings())).length > 0;
  const ready = !disabled && !busy && !wrong && (text.trim() !== "" || files.value.length > 0);
  const send = () => {
    if (!ready) return;
    const [content, attachments] = [text, files.value];
    drafts.delete(conversation);
    setText("");
    files.value = [];
    onSend(content, attachments);
  };
  const attach = async (chosen: Iterable<File>) => {
    for (const file of chosen) {
      const found = await readAttachment(file, mediaSent(session.settings(), branch()) + mediaOf(files.value).length);
      if ("problem" in found) {
        toast(found.problem, "error");
      } else {
        files.value = [...files.value, found];
        setTold(say("composer.added", { name: found.name }));
      }
    }
  };
  const drop = (file: Attachment) => {
    files.value = files.value.filter((one) => one !== file);
    setTold(say("composer.removed", { name: file.name }));
    area.current?.focus();
  };
  const paste = (event: ClipboardEvent) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    // Text that is copied together with its picture, as from a table, is pasted as text.
    if (pasted.length === 0 || event.clipboardData?.types.includes("text/plain")) return;
    event.preventDefault();
    void attach(pasted);
  };
  const key = (event: KeyboardEvent) => {
    // While characters are being composed, as Chinese ones are, Enter chooses among them.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape" && busy) {
      session.stop();
    }
  };
  return (
    <div
      class={over ? "composer over" : "composer"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        void attach(event.dataTransfer?.files ?? []);
      }}
    >
      <form
        class="composer-box"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        <Enclosed files={files.value} onRemove={drop} />
        <VoiceFailure voice={voice} />
        <textarea
          ref={area}
          rows={1}
          value={text}
          placeholder={over ? say("composer.drop") : say("composer.placeholder")}
          aria-label={say("composer.label")}
          onInput={(event) => write(event.currentTarget.value)}
          onKeyDown={key}
          onPaste={paste}
        />
        <div class="composer-row">
          <input
            ref={picker}
            type="file"
            multiple
            hidden
            onChange={(event) => {
              void attach([...(event.currentTarget.files ?? [])]);
              event.currentTarget.value = "";
            }}
          />
          <Button kind="quiet" icon="attach" label={say("composer.attach")} onClick={() => picker.current?.click()} />
          <Microphone voice={voice} disabled={disabled} />
          {wrong ? (
            <span class="field-error grow">{say("composer.wrong")}</span>
          ) : (
            <span class="muted small grow composer-hint">{say("composer.hint")}</span>
          )}
          {/* Keys: were it one element, the click that stops could send what is written. */}
          {busy ? (
            <Button key="stop" icon="stop" label={say("composer.stop")} onClick={session.stop} />
          ) : (
            <Button key="send" kind="primary" icon="send" label={say("composer.send")} submit disabled={!ready} />
          )}
        </div>
        {foreign && <EnglishAlone />}
      </form>
      <div class="unseen" role="status">
        {told}
      </div>
      <Announcer />
    </div>
  );
}

/** The messages that are shown, which go along with the next one. */
function branch(): Message[] {
  return session.path.peek().flatMap((id) => session.messageOf(id)?.peek() ?? []);
}

/** Says to screen readers that an answer is being written, and what it was when it is whole. */
function Announcer() {
  const [text, setText] = useState("");
  const id = session.writing();
  const before = useRef<string | null>(null);
  useEffect(() => {
    if (id !== null) setText(say("status.writing"));
    else if (before.current !== null) {
      const content = session.messageOf(before.current)?.peek().content ?? "";
      setText(say("status.done", { text: content.slice(0, 2000) }));
    }
    before.current = id;
  }, [id]);
  return (
    <div class="unseen" role="status" aria-live="polite">
      {text}
    </div>
  );
}
