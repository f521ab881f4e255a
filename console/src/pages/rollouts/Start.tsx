import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { collect } from "../../api/collect";
import { t } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Command } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { SelectField, TextField } from "../../ui/Field";
import { toast } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { say } from "./say";
import type { Rollout, Version } from "./types";

const MOST_VERSIONS = 200;
const MOST_REASON = 500;

export interface StartProps {
  aliases: readonly { id: string }[];
  onChange: () => void;
}

/** The button that starts a roll-out, with its question. */
export function Start({ aliases, onChange }: StartProps) {
  const [open, setOpen] = useState(false);
  return (
    <div class="row">
      <Button onClick={() => setOpen(true)}>{say("start")}</Button>
      {open && <Ask aliases={aliases} onChange={onChange} onClose={() => setOpen(false)} />}
    </div>
  );
}

function Ask({ aliases, onChange, onClose }: StartProps & { onClose: () => void }) {
  const { data, error } = useLoad((signal) => collect<Version>("/v1/registry/versions", MOST_VERSIONS, { signal }), []);
  const [chosen, setChosen] = useState("");
  const [ungated, setUngated] = useState("");
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<unknown>(null);
  const names = new Set(aliases.map((one) => one.id));
  const offered = data?.data.filter((one) => one.now === null && names.has(one.alias));
  const version = offered?.find((one) => one.id === chosen) ?? offered?.[0];
  const start = async () => {
    if (version === undefined) return;
    setBusy(true);
    setFailure(null);
    try {
      await api<Rollout>("/v1/rollouts", { body: { alias: version.alias, version: version.number, ungated: ungated.trim() } });
      toast(say("start.done", { version: version.id }));
      onChange();
      onClose();
    } catch (problem) {
      setFailure(problem);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={say("start")}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={version === undefined} onClick={() => void start()}>
            {say("start.yes")}
          </Button>
        </>
      }
    >
      <p>{say("start.text")}</p>
      {error !== null && <Failure error={error} />}
      {offered?.length === 0 && (
        <>
          <p class="muted">{say("start.none")}</p>
          <Command text={`deepwell models register ${aliases[0]?.id ?? "ALIAS"} MODEL`} />
        </>
      )}
      {version !== undefined && (
        <>
          <SelectField
            label={say("start.version")}
            value={version.id}
            onChange={setChosen}
            choices={(offered ?? []).map((one) => ({ value: one.id, label: `${one.id} · ${one.model}` }))}
          />
          <TextField
            label={say("start.ungated")}
            hint={say("start.ungated.hint")}
            value={ungated}
            onInput={(value) => setUngated(value.slice(0, MOST_REASON))}
          />
        </>
      )}
      {failure !== null && <Failure error={failure} />}
    </Dialog>
  );
}
