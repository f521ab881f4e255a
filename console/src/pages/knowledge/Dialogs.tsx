import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { VectorStore } from "../../api/types";
import { t, texts } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Confirm, Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { TextField } from "../../ui/Field";
import { toast, toastError } from "../../ui/Toast";
import { en } from "./en";
import { zh } from "./zh";

const say = texts(en, zh);

/** Makes a knowledge base and opens it. */
export function Create({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [size, setSize] = useState("");
  const [overlap, setOverlap] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const create = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const made = await api<VectorStore>("/v1/vector_stores", { body: { name: name.trim(), ...chunking(size, overlap) } });
      onClose();
      go({ page: "knowledge", rest: [made.id] });
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog title={say("new.title")} onClose={onClose}>
      <form onSubmit={(event) => void create(event)}>
        <TextField label={say("new.name")} hint={say("new.name.hint")} value={name} onInput={setName} autofocus />
        <details class="knowledge-more">
          <summary>{say("new.more")}</summary>
          <TextField
            label={say("new.size")}
            hint={say("new.size.hint")}
            type="number"
            min={100}
            max={4096}
            value={size}
            onInput={setSize}
          />
          <TextField
            label={say("new.overlap")}
            hint={say("new.overlap.hint")}
            type="number"
            min={0}
            max={2048}
            disabled={size === ""}
            value={overlap}
            onInput={setOverlap}
          />
        </details>
        {error !== null && <Failure error={error} />}
        <div class="dialog-actions">
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" submit busy={busy} disabled={name.trim() === ""}>
            {say("new.make")}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

function chunking(size: string, overlap: string): object {
  if (size === "") return {};
  const tokens = Number(size);
  const shared = overlap === "" ? Math.floor(tokens / 8) : Number(overlap);
  return { chunking_strategy: { type: "static", static: { max_chunk_size_tokens: tokens, chunk_overlap_tokens: shared } } };
}

/** Asks, and deletes a knowledge base. */
export function Delete({ store, onClose, onGone }: { store: VectorStore; onClose: () => void; onGone: () => void }) {
  const name = store.name || store.id;
  const remove = async () => {
    try {
      await api(`/v1/vector_stores/${encodeURIComponent(store.id)}`, { method: "DELETE" });
      toast(say("deleted", { name }));
      onGone();
    } catch (failure) {
      toastError(failure);
    }
  };
  return (
    <Confirm
      title={say("delete.title")}
      text={say("delete.text", { name })}
      action={say("delete.action")}
      onYes={() => void remove()}
      onClose={onClose}
    />
  );
}
