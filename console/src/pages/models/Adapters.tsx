import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { ApiError } from "../../api/errors";
import { count, t } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Command } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { CheckField, SelectField, TextField } from "../../ui/Field";
import { toast } from "../../ui/Toast";
import { say } from "./say";
import type { LoadedAdapter } from "./types";

interface Props {
  onClose: () => void;
  onChange: () => void;
}

/** Loads a LoRA adapter from the server's folder of adapters. */
export function LoadAdapter({ bases, onClose, onChange }: Props & { bases: readonly string[] }) {
  const [base, setBase] = useState(bases[0] ?? "");
  const [name, setName] = useState("");
  const [path, setPath] = useState("");
  const [shared, setShared] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const load = async () => {
    setBusy(true);
    setError(null);
    const body = { lora_name: name.trim(), lora_path: path.trim(), base_model_name: base, ...(shared && { shared }) };
    try {
      const made = await api<LoadedAdapter>("/v1/load_lora_adapter", { body });
      toast(say("adapter.loaded", { name: made.name, rank: count(made.rank) }));
      onChange();
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  const ready = name.trim() !== "" && path.trim() !== "" && base !== "";
  return (
    <Dialog
      title={say("adapter.load")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={!ready} onClick={() => void load()}>
            {say("adapter.load.do")}
          </Button>
        </>
      }
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (ready && !busy) void load();
        }}
      >
        <TextField label={say("adapter.path")} hint={say("adapter.path.hint")} value={path} onInput={setPath} mono autofocus />
        <TextField label={say("adapter.name")} hint={say("adapter.name.hint")} value={name} onInput={setName} mono />
        <SelectField
          label={say("detail.base")}
          value={base}
          onChange={setBase}
          choices={bases.map((one) => ({ value: one, label: one }))}
        />
        <CheckField label={say("adapter.shared")} hint={say("adapter.shared.hint")} value={shared} onChange={setShared} />
        <button type="submit" class="unseen" tabIndex={-1} aria-hidden="true" />
      </form>
      {error !== null && <AdapterFailure error={error} />}
    </Dialog>
  );
}

/** A server without a folder of adapters has no such routes: its 404 is not about a model. */
function AdapterFailure({ error }: { error: unknown }) {
  if (!(error instanceof ApiError) || error.status !== 404 || error.code === "model_not_found") return <Failure error={error} />;
  return (
    <div role="alert">
      <p>{say("adapter.off")}</p>
      <Command text="deepwell serve --adapter-dir FOLDER" />
    </div>
  );
}

/** Asks before an adapter goes. One that all tenants share goes only if an administrator says so. */
export function UnloadAdapter({ name, onClose, onChange }: Props & { name: string }) {
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const isShared = error instanceof ApiError && error.status === 403;
  const unload = async () => {
    setBusy(true);
    try {
      await api("/v1/unload_lora_adapter", { body: { lora_name: name, ...(isShared && { shared: true }) } });
      toast(say("unload.done", { name }));
      onChange();
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={say("adapter.unload.ask", { name })}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="danger" busy={busy} onClick={() => void unload()}>
            {isShared ? say("adapter.unload.shared") : say("unload")}
          </Button>
        </>
      }
    >
      <p>{say("adapter.unload.text")}</p>
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}
