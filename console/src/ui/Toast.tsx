import { signal } from "@preact/signals";
import { t } from "../i18n";
import { Button } from "./Button";

interface Note {
  id: number;
  text: string;
  kind: "plain" | "error";
}

const SHOWN_MS = 6000;
const notes = signal<readonly Note[]>([]);
let made = 0;

/** Shows a short message for a while; screen readers read it out. */
export function toast(text: string, kind: Note["kind"] = "plain"): void {
  const note = { id: ++made, text, kind };
  notes.value = [...notes.value.slice(-3), note];
  if (kind === "plain") setTimeout(() => dismiss(note.id), SHOWN_MS);
}

/** Shows what went wrong until it is dismissed. */
export function toastError(error: unknown): void {
  toast(error instanceof Error ? error.message : String(error), "error");
}

function dismiss(id: number): void {
  notes.value = notes.value.filter((note) => note.id !== id);
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {notes.value.map((note) => (
        <div key={note.id} class={`toast ${note.kind}`}>
          <span>{note.text}</span>
          <Button kind="quiet" small icon="close" label={t("toast.dismiss")} onClick={() => dismiss(note.id)} />
        </div>
      ))}
    </div>
  );
}
