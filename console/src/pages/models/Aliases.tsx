import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Page as Listed } from "../../api/types";
import { t, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Confirm, Dialog } from "../../ui/Dialog";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { SelectField, TextField } from "../../ui/Field";
import { type Column, Table } from "../../ui/Table";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { targets } from "./rows";
import type { KnownProps } from "./ServedModels";
import { say } from "./say";
import type { Alias, AliasChange } from "./types";

/** Further names of models: programs keep a name while the model behind it changes. */
export function Aliases({ models, aliases, loaded, error, chosen, onOpen, onChange }: KnownProps) {
  const [changing, setChanging] = useState<Alias | "new" | null>(null);
  const [removing, setRemoving] = useState("");
  const names = targets(models, aliases);
  const remove = async (name: string) => {
    try {
      await api(`/v1/aliases/${encodeURIComponent(name)}`, { method: "DELETE" });
      toast(say("alias.removed", { name }));
    } catch (failure) {
      toastError(failure);
    }
    onChange();
  };
  const add = (
    <Button kind="primary" icon="plus" onClick={() => setChanging("new")}>
      {say("alias.add")}
    </Button>
  );
  const missing = (alias: Alias) => models.length > 0 && !names.includes(alias.model);
  return (
    <>
      {error !== null && <Failure error={error} onRetry={onChange} />}
      {loaded && aliases.length === 0 && (
        <Empty
          icon="models"
          title={say("alias.empty")}
          text={say("alias.empty.text")}
          commands={[`deepwell models alias set prod ${names.find((one) => /^[\w.:-]+$/.test(one)) ?? "smollm2"}`]}
        >
          {add}
        </Empty>
      )}
      {aliases.length > 0 && (
        <>
          <div class="models-bar">
            <p class="muted grow">{say("alias.lead")}</p>
            {add}
          </div>
          <Table
            label={say("tab.aliases")}
            columns={columns(missing, setChanging, setRemoving)}
            rows={aliases}
            id={(alias) => alias.id}
            onOpen={(alias) => onOpen(alias.id)}
            selected={chosen}
          />
        </>
      )}
      {chosen !== undefined && <History key={chosen} name={chosen} onClose={() => onOpen()} />}
      {changing !== null && (
        <SetAlias
          alias={changing === "new" ? null : changing}
          aliases={aliases}
          names={names}
          onClose={() => setChanging(null)}
          onChange={onChange}
        />
      )}
      {removing !== "" && (
        <Confirm
          title={say("alias.remove.ask", { name: removing })}
          text={say("alias.remove.text")}
          action={say("alias.remove")}
          onYes={() => void remove(removing)}
          onClose={() => setRemoving("")}
        />
      )}
    </>
  );
}

function columns(
  missing: (alias: Alias) => boolean,
  onSet: (alias: Alias) => void,
  onRemove: (name: string) => void,
): Column<Alias>[] {
  return [
    { name: "name", title: say("column.alias"), cell: (alias) => <span class="models-names">{alias.id}</span> },
    {
      name: "model",
      title: say("column.means"),
      cell: (alias) => (
        <span class="models-names">
          {alias.model} {missing(alias) && <span class="badge warn">{say("alias.missing")}</span>}
        </span>
      ),
    },
    { name: "changed", title: say("column.changed"), cell: (alias) => time(alias.changed_at), wide: true },
    { name: "by", title: say("column.by"), cell: (alias) => <Changer by={alias.changed_by} />, wide: true },
    {
      name: say("column.actions"),
      title: "",
      cell: (alias) => (
        <span class="models-actions">
          <Button small icon="edit" kind="quiet" label={say("alias.change.of", { name: alias.id })} onClick={() => onSet(alias)} />
          <Button small icon="trash" kind="quiet" label={say("alias.remove.of", { name: alias.id })} onClick={() => onRemove(alias.id)} />
        </span>
      ),
      number: true,
    },
  ];
}

/** Who made a change: the id of a key, the terminal, or somebody on a server without keys. */
function Changer({ by }: { by: string }) {
  if (by === "cli") return <>{say("by.cli")}</>;
  return by === "local" ? <>{say("by.local")}</> : <code>{by}</code>;
}

interface SetProps {
  alias: Alias | null;
  aliases: readonly Alias[];
  names: readonly string[];
  onClose: () => void;
  onChange: () => void;
}

function SetAlias({ alias, aliases, names, onClose, onChange }: SetProps) {
  const [name, setName] = useState(alias?.id ?? "");
  const [model, setModel] = useState(alias !== null && names.includes(alias.model) ? alias.model : (names[0] ?? ""));
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const before = aliases.find((one) => one.id === name.trim());
  const ready = name.trim() !== "" && model !== "" && before?.model !== model;
  const save = async () => {
    setBusy(true);
    setError(null);
    try {
      await api<Alias>("/v1/aliases", { body: { name: name.trim(), model } });
      toast(say("alias.set", { name: name.trim(), model }));
      onChange();
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={alias === null ? say("alias.add") : say("alias.change.of", { name: alias.id })}
      onClose={onClose}
      actions={
        <>
          <Button onClick={onClose}>{t("action.cancel")}</Button>
          <Button kind="primary" busy={busy} disabled={!ready} onClick={() => void save()}>
            {t("action.save")}
          </Button>
        </>
      }
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (ready && !busy) void save();
        }}
      >
        <TextField
          label={say("column.alias")}
          hint={alias === null && before ? say("alias.replaces", { model: before.model }) : say("alias.hint")}
          value={name}
          onInput={setName}
          disabled={alias !== null}
          autofocus={alias === null}
          mono
        />
        <SelectField
          label={say("column.means")}
          value={model}
          onChange={setModel}
          choices={names.map((one) => ({ value: one, label: one }))}
        />
        <button type="submit" class="unseen" tabIndex={-1} aria-hidden="true" />
      </form>
      {error !== null && <Failure error={error} />}
    </Dialog>
  );
}

function History({ name, onClose }: { name: string; onClose: () => void }) {
  const { data, error, reload } = useLoad(
    (signal) =>
      api<Listed<AliasChange>>(`/v1/aliases/${encodeURIComponent(name)}/history`, { query: { limit: 100 }, signal }),
    [name],
  );
  return (
    <Dialog wide title={say("history.of", { name })} onClose={onClose}>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && (
        <Table
          label={say("history.of", { name })}
          rows={data.data}
          id={(change) => change.id}
          columns={[
            { name: "changed", title: say("column.changed"), cell: (change) => time(change.changed_at) },
            {
              name: "model",
              title: say("column.means"),
              cell: (change) => change.model ?? <span class="muted">{say("history.removed")}</span>,
            },
            { name: "by", title: say("column.by"), cell: (change) => <Changer by={change.changed_by} /> },
          ]}
        />
      )}
      {data?.has_more && <p class="muted small">{say("history.more")}</p>}
    </Dialog>
  );
}
