import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { bytes, count, time } from "../../i18n";
import { hrefOf } from "../../state/route";
import { Button } from "../../ui/Button";
import { Confirm, Dialog } from "../../ui/Dialog";
import { Command, Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { toast, toastError } from "../../ui/Toast";
import { LoadAdapter, UnloadAdapter } from "./Adapters";
import { arrange, requestOf, type Served, workOf } from "./rows";
import { say } from "./say";
import type { Alias, ListedModel } from "./types";

export interface KnownProps {
  models: readonly ListedModel[];
  aliases: readonly Alias[];
  loaded: boolean;
  error: unknown;
  chosen: string | undefined;
  onOpen: (name?: string) => void;
  onChange: () => void;
}

/** What requests may name now: models that stay, models on demand with their state, adapters. */
export function ServedModels({ models, aliases, loaded, error, chosen, onOpen, onChange }: KnownProps) {
  const [unloading, setUnloading] = useState<Served | null>(null);
  const [adapter, setAdapter] = useState<Served | null>(null);
  const [loading, setLoading] = useState(false);
  const rows = arrange(models, aliases);
  const opened = rows.find((row) => row.model.id === chosen);
  const bases = rows.filter((row) => row.role === "model" && workOf(row.model) === "writes");
  const unload = async (name: string) => {
    try {
      await api(`/v1/models/${encodeURIComponent(name)}`, { method: "DELETE" });
      toast(say("unload.done", { name }));
    } catch (failure) {
      toastError(failure);
    }
    onChange();
  };
  const actions = (row: Served) => {
    if (row.role === "adapter") return { title: say("unload"), run: () => setAdapter(row) };
    return row.model.state === "loaded" ? { title: say("unload"), run: () => setUnloading(row) } : null;
  };
  return (
    <>
      {error !== null && <Failure error={error} onRetry={onChange} />}
      {loaded && rows.length === 0 && (
        <Empty icon="models" title={say("empty.title")} text={say("empty.text")} commands={["deepwell pull smollm2"]}>
          <a class="button primary" href={hrefOf("models", "catalog")}>
            {say("empty.catalog")}
          </a>
        </Empty>
      )}
      {loaded && rows.length > 0 && (
        <>
          <div class="models-bar">
            <p class="muted grow">{say("served.lead")}</p>
            {bases.length > 0 && (
              <Button icon="plus" onClick={() => setLoading(true)}>
                {say("adapter.load")}
              </Button>
            )}
          </div>
          <Table
            label={say("tab.served")}
            columns={columns(actions)}
            rows={rows}
            id={(row) => row.model.id}
            onOpen={(row) => onOpen(row.model.id)}
            selected={chosen}
          />
        </>
      )}
      {opened && <Detail row={opened} onClose={() => onOpen()} />}
      {unloading && (
        <Confirm
          title={say("unload.ask", { name: unloading.model.id })}
          text={say("unload.text")}
          action={say("unload")}
          onYes={() => void unload(unloading.model.id)}
          onClose={() => setUnloading(null)}
        />
      )}
      {adapter && <UnloadAdapter name={adapter.model.id} onClose={() => setAdapter(null)} onChange={onChange} />}
      {loading && (
        <LoadAdapter bases={bases.map((row) => row.model.id)} onClose={() => setLoading(false)} onChange={onChange} />
      )}
    </>
  );
}

function columns(actionOf: (row: Served) => { title: string; run: () => void } | null): Column<Served>[] {
  return [
    { name: "model", title: say("column.model"), cell: (row) => <Name row={row} /> },
    { name: "state", title: say("column.state"), cell: (row) => <State model={row.model} role={row.role} /> },
    { name: "context", title: say("column.context"), cell: (row) => contextOf(row.model), number: true, wide: true },
    {
      name: "memory",
      title: say("column.memory"),
      cell: (row) => (row.model.size_bytes === undefined ? "" : bytes(row.model.size_bytes)),
      number: true,
      wide: true,
    },
    {
      name: "aliases",
      title: say("column.aliases"),
      cell: (row) => <span class="models-names">{row.aliases.join(", ")}</span>,
      wide: true,
    },
    {
      name: say("column.actions"),
      title: "",
      cell: (row) => {
        const action = actionOf(row);
        return (
          action && (
            <Button small onClick={action.run}>
              {action.title}
            </Button>
          )
        );
      },
      number: true,
    },
  ];
}

function Name({ row }: { row: Served }) {
  const work = workOf(row.model);
  return (
    <span class={row.role === "adapter" ? "models-name under" : "models-name"}>
      {row.model.id}
      {row.role === "adapter" && <span class="badge">{say("role.adapter")}</span>}
      {row.role === "model" && work !== "writes" && <span class="badge">{say(`role.${work}`)}</span>}
    </span>
  );
}

/** Whether a model stays loaded, or, if it is loaded on demand, where it is. */
export function State({ model, role }: { model: ListedModel; role: Served["role"] }) {
  if (role === "adapter") return <span class="muted">{say("state.on", { name: model.parent ?? "" })}</span>;
  if (model.kind !== undefined) return <span class="badge">{say("state.first")}</span>;
  if (model.state === undefined) return <span class="badge good">{say("state.resident")}</span>;
  const kind = { loaded: "good", loading: "accent", unloading: "warn", not_loaded: "" }[model.state] ?? "";
  const known = model.state === "loaded" || model.state === "loading" || model.state === "unloading" ? model.state : "not_loaded";
  return <span class={`badge ${kind}`}>{say(`state.${known}`)}</span>;
}

function contextOf(model: ListedModel): string {
  return model.max_model_len ? count(model.max_model_len) : "";
}

function Detail({ row, onClose }: { row: Served; onClose: () => void }) {
  const { model, role, aliases } = row;
  const { source, ...sampling } = model.default_sampling ?? {};
  const facts: [string, preact.ComponentChildren][] = [
    [say("column.state"), <State model={model} role={role} />],
    [say("detail.since"), time(model.created)],
  ];
  if (model.max_model_len) facts.push([say("column.context"), say("detail.tokens", { count: contextOf(model) })]);
  if (model.size_bytes !== undefined) facts.push([say("column.memory"), bytes(model.size_bytes)]);
  if (model.parent) facts.push([say("detail.base"), model.parent]);
  if (aliases.length > 0) facts.push([say("column.aliases"), aliases.join(", ")]);
  const given = Object.entries(sampling);
  return (
    <Dialog wide title={model.id} onClose={onClose}>
      <div class="stack">
        <dl class="models-facts">
          {facts.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
        {model.state !== undefined && model.state !== "loaded" && <p class="muted">{say("state.not_loaded.text")}</p>}
        {given.length > 0 && (
          <section>
            <h3>{say("detail.sampling")}</h3>
            {source !== undefined && <p class="muted small">{say("detail.source", { source })}</p>}
            <dl class="models-facts small">
              {given.map(([name, value]) => (
                <div key={name}>
                  <dt>
                    <code>{name}</code>
                  </dt>
                  <dd>{typeof value === "number" ? count(value, 4) : String(value)}</dd>
                </div>
              ))}
            </dl>
          </section>
        )}
        <section>
          <h3>{say("detail.ask")}</h3>
          <Command text={requestOf(model, location.origin, say(workOf(model) === "image" ? "detail.prompt" : "detail.hello"))} />
        </section>
      </div>
    </Dialog>
  );
}
