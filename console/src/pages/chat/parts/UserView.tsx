import { useState } from "preact/hooks";
import { t } from "../../../i18n";
import { Button, CopyButton } from "../../../ui/Button";
import * as session from "../model/session";
import type { Message } from "../model/types";
import { say } from "../say";
import { AttachedView } from "./Attached";
import { Branches } from "./Branches";

/** A turn of the user: its text as typed, its files, and the ways to change it. */
export function UserView({ message }: { message: Message }) {
  const [editing, setEditing] = useState<string | null>(null);
  if (editing !== null) {
    return (
      <form
        class="message-edit"
        onSubmit={(event) => {
          event.preventDefault();
          setEditing(null);
          session.edit(message.id, editing);
        }}
        onKeyDown={(event) => {
          if (event.key === "Escape") setEditing(null);
        }}
      >
        <textarea
          rows={Math.min(12, editing.split("\n").length + 1)}
          value={editing}
          aria-label={say("message.edit.label")}
          autofocus
          onInput={(event) => setEditing(event.currentTarget.value)}
        />
        <div class="dialog-actions">
          <Button onClick={() => setEditing(null)}>{t("action.cancel")}</Button>
          <Button kind="primary" submit disabled={editing.trim() === "" && !message.attachments}>
            {say("message.edit.send")}
          </Button>
        </div>
      </form>
    );
  }
  return (
    <>
      {message.content !== "" && <div class="message-text">{message.content}</div>}
      {message.attachments?.map((one, place) => (
        <AttachedView key={place} file={one} />
      ))}
      <div class="message-actions">
        <Branches id={message.id} />
        <CopyButton text={message.content} label={say("message.copy")} />
        <Button kind="quiet" small icon="edit" label={say("message.edit")} onClick={() => setEditing(message.content)} />
        <Button kind="quiet" small icon="trash" label={say("message.delete")} onClick={() => session.removeMessage(message.id)} />
      </div>
    </>
  );
}
